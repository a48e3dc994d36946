"""The Kubernetes manifests against Kubernetes' own schemas, and what they must agree in with the service. They were not run on a cluster."""

import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from app.settings import PREFIX, Settings
from tests.servers import needs

FOLDER = Path(__file__).parents[2] / "docker" / "k8s"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
RESOURCES = [one for file in KUSTOMIZATION["resources"] for one in yaml.safe_load_all((FOLDER / file).read_text())]
VERSIONS = ("1.30", kubernetes_validate.latest_version())


def resource(kind: str, name: str) -> dict:
    return next(one for one in RESOURCES if one["kind"] == kind and one["metadata"]["name"] == name)


API = resource("Deployment", "api")["spec"]["template"]["spec"]
CONTAINER = API["containers"][0]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("one", RESOURCES, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_each_manifest_is_what_kubernetes_knows(one, version):
    """Strictly: a field that no such thing has is an error."""
    kubernetes_validate.validate(one, version, strict=True)


def test_the_kustomization_names_every_file_and_no_other():
    """What it leaves out is not applied."""
    others = {"kustomization.yaml", "adapter-rules.yaml"}
    assert set(KUSTOMIZATION["resources"]) | others == {path.name for path in FOLDER.glob("*.yaml")}


def test_kustomize_puts_them_together():
    """It needs no cluster for that."""
    needs("kubectl")
    done = subprocess.run(["kubectl", "kustomize", FOLDER], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = list(yaml.safe_load_all(done.stdout))
    assert len(made) == len(RESOURCES)
    assert all(one["metadata"].get("namespace") == "crt-stream" for one in made if one["kind"] != "Namespace")
    assert "image: crt-stream:0.1.0" in done.stdout


def test_what_is_referred_to_is_there():
    """Targets, services, secrets, volumes, metrics."""
    labels = {"app.kubernetes.io/name": "api"}
    assert resource("Deployment", "api")["spec"]["selector"]["matchLabels"] == labels
    for kind in ("Service", "PodDisruptionBudget"):
        selector = resource(kind, "api")["spec"]["selector"]
        assert selector.get("matchLabels", selector) == labels
    scaler = resource("HorizontalPodAutoscaler", "api")["spec"]
    assert scaler["scaleTargetRef"]["name"] == "api"
    assert "replicas" not in resource("Deployment", "api")["spec"]
    rules = yaml.safe_load((FOLDER / "adapter-rules.yaml").read_text())["rules"]
    assert {one["pods"]["metric"]["name"] for one in scaler["metrics"]} == {rule["name"]["as"] for rule in rules}
    for spec in (API, resource("StatefulSet", "redis")["spec"]["template"]["spec"]):
        claims = {"data"} if spec is not API else set()
        mounted = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]} | claims


def test_every_setting_is_one_of_the_service():
    """Else it would not start."""
    for variable in CONTAINER["env"]:
        if variable["name"].startswith(PREFIX):
            assert variable["name"].removeprefix(PREFIX).lower() in Settings.model_fields, variable


def test_a_pod_has_time_to_drain_and_no_rights():
    """Of the grace period preStop takes its part, then the service its own."""
    settings = {one["name"]: one["value"] for one in CONTAINER["env"]}
    stop = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert stop + int(settings["CRT_DRAIN_SECONDS"]) < API["terminationGracePeriodSeconds"]
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is True
    assert CONTAINER["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert API["securityContext"]["runAsUser"] == 10001
    assert resource("Deployment", "api")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_secrets_are_those_that_setup_makes(tmp_path):
    """As Kubernetes wants them, and with the names that the service looks for."""
    for name in ("redis_password", "crt_state_key", "crt_api_keys", "redis_users.acl"):
        (tmp_path / name).write_text(f"{name}\n")
    done = subprocess.run([FOLDER / "secrets.sh", tmp_path], capture_output=True, text=True, check=True)
    made = list(yaml.safe_load_all(done.stdout))
    for one in made:
        kubernetes_validate.validate(one, VERSIONS[-1], strict=True)
    names = {one["metadata"]["name"]: set(one["data"]) for one in made}
    wanted = {volume["secret"]["secretName"] for volume in API["volumes"] if "secret" in volume} | {"redis"}
    assert set(names) == wanted
    for file in re.findall(r"/run/secrets/crt/(\w+)", yaml.safe_dump(CONTAINER)):
        assert file in names["api"]


def test_redis_keeps_what_it_answered():
    """As docker/redis/redis.conf says."""
    args = resource("StatefulSet", "redis")["spec"]["template"]["spec"]["containers"][0]["args"]
    given = dict(zip(args[1::2], args[2::2], strict=True))
    conf = dict(re.findall(r"(?m)^([a-z-]+) (\S+)$", (FOLDER.parent / "redis/redis.conf").read_text()))
    for name in ("appendonly", "appendfsync", "maxmemory-policy"):
        assert given[f"--{name}"] == conf[name]
