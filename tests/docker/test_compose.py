"""What docker/ says, without an engine: that it is understood by what reads it, and agrees with the service. docker/verify.sh runs it for real."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from app.settings import PREFIX, Settings
from tests.servers import needs

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "docker-compose.yml").read_text())
TEXT = (DOCKER / "docker-compose.yml").read_text()
SERVICES = COMPOSE["services"]


@pytest.mark.parametrize("file", ["docker-compose.yml", "gpu.yml"])
def test_the_compose_file_is_one_by_its_schema(file):
    """The schema of the compose specification, which comes with check-jsonschema."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(DOCKER / file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_profiles_are_one_api_or_all_that_a_clinic_runs():
    """Nothing runs in both."""
    by_profile = {tuple(service["profiles"]): set() for service in SERVICES.values()}
    for name, service in SERVICES.items():
        by_profile[tuple(service["profiles"])].add(name)
    assert by_profile == {("minimal",): {"home"}, ("full",): {"api", "redis", "proxy", "prometheus", "grafana"}}


def test_every_service_is_locked_down():
    """Read-only, without capabilities but those that it names, revived after a crash, and its logs have an end."""
    for name, service in SERVICES.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["restart"] == "unless-stopped", name
        assert service["logging"]["options"]["max-size"], name
    assert "USER 10001:10001" in (DOCKER / "Dockerfile").read_text()
    assert [name for name, service in SERVICES.items() if "cap_add" in service] == ["redis"]


def test_only_the_proxy_is_reached_from_other_machines():
    """All other addresses are this machine's own by default, and the APIs have none."""
    assert "ports" not in SERVICES["api"]
    assert "ports" not in SERVICES["redis"]
    assert COMPOSE["networks"]["back"]["internal"] is True
    assert SERVICES["api"]["networks"] == SERVICES["redis"]["networks"] == ["back"]
    for name, service in SERVICES.items():
        for port in service.get("ports", ()):
            assert name == "proxy" or ":-127.0.0.1:" in port, (name, port)


def test_what_is_referred_to_is_there():
    """Secrets, configs, volumes and the files behind them."""
    for name, service in SERVICES.items():
        for secret in service.get("secrets", ()):
            assert secret in COMPOSE["secrets"], (name, secret)
        for config in service.get("configs", ()):
            assert (DOCKER / COMPOSE["configs"][config["source"]]["file"]).is_file(), (name, config)
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DOCKER / source).exists(), (name, volume)
            elif not source.startswith("/"):
                assert source in COMPOSE["volumes"], (name, volume)


def test_no_secret_is_in_a_variable():
    """Only files, whose names the settings know."""
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            assert not re.search("password|key|secret", str(name), re.I) or str(value).startswith("/run/secrets/"), name
    for secret in COMPOSE["secrets"]:
        assert not secret.startswith("crt_") or secret.removeprefix("crt_") in Settings.model_fields, secret


def test_every_variable_is_documented_with_its_default():
    """In .env.example, and it has no other."""
    documented = {}
    for line in (DOCKER / ".env.example").read_text().splitlines():
        if found := re.match(r"#?([A-Z][A-Z_]+)=(.*)", line):
            documented[found[1]] = found[2]
    used = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", TEXT))
    passed = {name for name, value in SERVICES["home"]["environment"].items() if value is None}
    internal = {"CRT_PROJECT", "CRT_REVISION"}  # verify.sh's and a build's
    assert set(used) | passed | {"COMPOSE_PROFILES"} == set(documented) | internal
    for name, default in used.items():
        # Where the default is that there is no limit, the example shows one.
        assert name in internal | {"CRT_CPUS"} or documented[name] == default, name


def test_every_setting_that_is_passed_on_is_one_of_the_service():
    """Else the service would not start."""
    for name in ("home", "api"):
        for variable in SERVICES[name]["environment"]:
            if variable.startswith(PREFIX):
                assert variable.removeprefix(PREFIX).lower() in Settings.model_fields, variable


def test_every_setting_of_the_service_can_be_set_in_the_env_file():
    """But for those that the compose file sets itself, or that are secrets; else what is written there would do nothing, and say nothing."""
    own = {"sessions", "spool", "secrets", "state_key", "api_keys", "drain_seconds", "log_format"}
    elsewhere = {"engine", "engine_seconds"}  # of an image with Ray: docker/ray
    for name in ("home", "api"):
        passed = {v.removeprefix(PREFIX).lower() for v, value in SERVICES[name]["environment"].items() if value is None}
        assert passed == set(Settings.model_fields) - own - elsewhere, name


def test_what_the_page_links_to_is_in_the_image():
    """And its context has what the image is made of."""
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DOCKER / "Dockerfile").read_text(), re.M)
    files = [file for line in copied for file in line.split()]
    assert {"docs/protocol.md", "examples/kitchen.mp4"} <= set(files)
    context = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    for file in files:
        assert (ROOT / file).exists(), file
        assert f"!{file.rstrip('/')}" in context, file


def test_what_has_begun_is_answered_before_the_container_is_killed():
    """Docker waits longer than the service."""
    for name in ("home", "api"):
        grace = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        assert int(SERVICES[name]["environment"]["CRT_DRAIN_SECONDS"]) < grace


def test_the_proxys_configuration_is_understood_by_nginx(tmp_path):
    """With a certificate in the place of the mounted one."""
    needs("nginx")
    needs("openssl")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=x",
         "-keyout", tmp_path / "tls_key", "-out", tmp_path / "tls_certificate"], check=True, capture_output=True,
    )  # fmt: skip
    text = (DOCKER / "nginx.conf").read_text().replace("/tmp/", f"{tmp_path}/").replace("/run/secrets", str(tmp_path))
    (tmp_path / "nginx.conf").write_text(text)
    command = ["nginx", "-t", "-e", str(tmp_path / "log"), "-c", str(tmp_path / "nginx.conf")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_proxy_asks_again_where_replicas_are_and_does_not_wait_for_dead_ones():
    """An upstream by name alone is looked up once; without a limit a killed replica holds a camera up for a minute."""
    text = (DOCKER / "nginx.conf").read_text()
    assert re.search(r"resolver 127\.0\.0\.11 valid=\d+s", text)
    assert set(re.findall(r"proxy_pass (\S+);", text)) == {"http://$api:8000"}
    assert "proxy_connect_timeout 1s;" in text
    assert "proxy_request_buffering off;" in text
    assert text.count("proxy_buffering off;") == 2


def test_setup_makes_what_is_missing_and_changes_nothing_that_is_there(tmp_path):
    """Run twice; the second profile is refused instead of overwriting the first."""
    needs("openssl")
    copy = tmp_path / "docker"
    shutil.copytree(DOCKER, copy, ignore=shutil.ignore_patterns("secrets", ".env"))

    def setup(profile: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([copy / "setup.sh", profile], capture_output=True, text=True)

    assert setup("full").returncode == 0
    made = {path.name: path.read_bytes() for path in (copy / "secrets").iterdir()}
    assert set(made) == set(COMPOSE["secrets"])
    assert (copy / "secrets").stat().st_mode & 0o777 == 0o700
    assert made["redis_password"].strip() not in made["redis_users.acl"]
    assert "COMPOSE_PROFILES=full\n" in (copy / ".env").read_text()
    assert setup("full").returncode == 0
    assert {path.name: path.read_bytes() for path in (copy / "secrets").iterdir()} == made
    refused = setup("minimal")
    assert (refused.returncode, "another profile" in refused.stderr) == (1, True)


def test_the_images_packages_are_all_but_pytorch():
    """requirements.txt is requirements-serve.txt and what it names beside it."""
    lines = (ROOT / "requirements.txt").read_text()
    assert "-r requirements-serve.txt" in lines
    assert set(re.findall(r"(?m)^([a-z]+)==", lines)) == {"torch", "torchvision", "pyarrow"}
    assert "torch" not in (ROOT / "requirements-serve.txt").read_text().replace("torch's", "")
