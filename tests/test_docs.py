"""The README says what is so: every code, setting, benchmark and command in it exists, and none that exists is missing."""

import json
import re
import subprocess
import sys
from pathlib import Path

from app import protocol
from app.problems import STATUS
from app.settings import PREFIX, Settings
from models.backbones import NAMES
from models.errors import CrtError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_status_code_is_in_the_readme_under_its_status():
    """And the table has no other."""
    table = {}
    for row in re.findall(r"^\| ([\d, ]+) \| (.+) \|$", README, re.M):
        for code in re.findall(r"`([a-z_]+)`", row[1]):
            table[code] = {int(status) for status in row[0].split(",")}
    assert set(table) == set(STATUS)
    assert all(STATUS[code] in statuses for code, statuses in table.items())


def test_every_error_of_a_video_or_request_has_a_status():
    """So that none answers 500 by oversight."""
    import app.problems
    import pipelines.errors

    assert app.problems
    assert pipelines.errors
    kinds = [CrtError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    codes = {kind.code for kind in kinds if kind.__module__ in ("app.problems", "pipelines.errors")}
    assert codes - {"stream_error"} <= set(STATUS)


def test_every_setting_is_in_the_readme():
    """And documented where it is defined."""
    for name, field in Settings.model_fields.items():
        assert f"`{PREFIX}{name.upper()}`" in README
        assert field.description, name


def test_every_benchmark_and_backbone_is_in_the_readme():
    """As `python -m benchmarks` lists them."""
    done = subprocess.run([sys.executable, "-m", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        assert f"`{line.split()[0]}`" in README
    for name in set(NAMES) - {"small"}:
        assert f"`{name}`" in README


def test_the_models_figures_are_those_of_its_card():
    """As they were measured when it was trained."""
    accuracy = json.loads((ROOT / "models" / "bundled" / "config.json").read_text())["card"]["accuracy"]
    test, without = accuracy["test"], accuracy["test_without_memory"]
    text = " ".join(README.split())
    assert f"{test['trimmed_mean_class_accuracy']:.1%} mean class accuracy".replace("%", " %") in text
    assert f"{test['drinks_after_20_s']:.1%} of containers right".replace("%", " %") in text
    assert f"({without['drinks_after_20_s']:.1%} without memory)".replace("%", " %") in text
    assert f"{test['untrimmed_frame_accuracy']:.1%} of moments right".replace("%", " %") in text


def test_every_make_target_and_file_that_the_readme_names_exists():
    """Links, pictures, commands."""
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"(?:`|^)(?:[A-Z]+=\S+ )*make ([a-z]+)", README, re.M)
    assert {"serve", "test"} <= set(targets)
    for target in targets:
        assert f"\n{target}:" in makefile, target
    for path in re.findall(r"\]\((?!http)([^)]+)\)", README):
        file, _, anchor = path.partition("#")
        assert (ROOT / file).exists(), path
        headings = re.findall(r"(?m)^#+ (.+)$", (ROOT / file).read_text()) if anchor else []
        assert not anchor or anchor in [one.lower().replace(" ", "-") for one in headings], path


def test_the_protocols_page_and_schemas_are_those_of_the_code():
    """`python -m app.protocol > docs/protocol.schema.json` was run; every type, option, error and close code is on the page."""
    assert json.loads((ROOT / "docs" / "protocol.schema.json").read_text()) == protocol.schemas()
    page = (ROOT / "docs" / "protocol.md").read_text()
    for kind in protocol.schemas():
        assert f"`{kind}`" in page or f'"type": "{kind}"' in page, kind
    for option in protocol.Options.model_fields:
        assert f"`{option}`" in page, option
    for code, number in protocol.CLOSE.items():
        assert f"| {number} |" in page, number
        assert f"`{code}`" in page or code == "service_moves", code


def test_every_error_of_a_stream_has_a_status():
    """So that none answers 500 by oversight."""
    import app.main

    assert app.main
    kinds = [CrtError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    own = ("app.settings", "app.client")  # told on a terminal
    codes = {k.code for k in kinds if k.__module__.startswith("app.") and not k.__module__.startswith(own)}
    assert codes - {"stream_error", "session_error", "store_url_bad"} <= set(STATUS)
