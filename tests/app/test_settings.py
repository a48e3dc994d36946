"""Settings and the choice of an answer's form."""

import os
import subprocess
import sys

import pytest

from app.negotiation import JSON, NDJSON, SSE, choose
from app.problems import NotAcceptable
from app.settings import BadSetting, Settings, cores
from tests.app.conftest import ROOT


def test_a_misspelt_setting_is_an_error_that_names_the_right_one(monkeypatch):
    """Nobody runs for weeks with a limit that was never set."""
    monkeypatch.setenv("CRT_WAITNG", "3")
    with pytest.raises(BadSetting, match="CRT_WAITNG; did you mean CRT_WAITING"):
        Settings.read()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VIDEOS", "none"),
        ("DECODE_SECONDS", "inf"),
        ("VIDEO_SECONDS", "nan"),
        ("DECODE_BYTES", "1" + "0" * 26),
        ("UPLOAD_RATE", "-1"),
    ],
)
def test_an_impossible_value_is_named(monkeypatch, name, value):
    """With the variable; what passes here makes a budget that decoding can keep."""
    monkeypatch.setenv(f"CRT_{name}", value)
    with pytest.raises(BadSetting, match=f"CRT_{name}='{value}'"):
        Settings.read()


def test_uploads_go_to_disk_unless_told_otherwise(monkeypatch, tmp_path):
    """/tmp is in memory on many machines."""
    monkeypatch.delenv("CRT_SPOOL", raising=False)
    assert str(Settings.read().spool) == "/var/tmp"
    monkeypatch.setenv("CRT_SPOOL", str(tmp_path))
    assert Settings.read().spool == tmp_path


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"CRT_MODEL": "/nowhere"}, "checkpoint_bad"),
        ({"CRT_MODEl_": "x"}, "setting_bad"),
        ({"CRT_SPOOL": "/nowhere"}, "CRT_SPOOL"),
        ({"PORT": "eighty"}, "PORT='eighty'"),
    ],
    ids=["model", "name", "spool", "port"],
)
def test_a_service_that_cannot_start_says_why_in_one_line(variables, words):
    """And no traceback."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CRT_")} | variables
    done = subprocess.run([sys.executable, "-m", "app"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("text/*", SSE),
        ("application/x-ndjson", NDJSON),
        ("application/json;q=0.5, text/event-stream", SSE),
        ("text/html, application/xhtml+xml, */*;q=0.8", JSON),
        ("application/json;q=0, */*", NDJSON),
        ("Application/JSON; charset=utf-8", JSON),
    ],
)
def test_the_client_gets_the_form_that_it_likes_best(accept, form):
    """By weight, the more specific range first."""
    assert choose(accept) == form


@pytest.mark.parametrize("accept", ["image/png", "application/json;q=0"])
def test_a_client_that_likes_none_is_told(accept):
    """With what there is."""
    with pytest.raises(NotAcceptable, match="application/x-ndjson"):
        choose(accept)


def test_the_clients_own_variable_does_not_stop_the_service(monkeypatch):
    """Both may run in the same shell."""
    monkeypatch.setenv("CRT_SERVER", "http://127.0.0.1:8000")
    assert Settings.read().videos >= 1


def test_a_container_has_the_cores_that_it_is_limited_to(tmp_path):
    """Not those of its machine: as many networks at once would only wait for each other."""
    here = cores(tmp_path)
    for limit, most in (
        ("max 100000", here),
        ("150000 100000", min(2, here)),
        ("50000 100000", 1),
        ("9900000 100000", here),
    ):
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
        assert cores(tmp_path) == most
