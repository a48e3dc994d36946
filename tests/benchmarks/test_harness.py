"""The benchmarks' command: what it lists, prints and writes."""

import json

import pytest

from benchmarks import harness
from benchmarks.__main__ import main
from benchmarks.harness import Row

ROWS = [Row(metric="step", value=2.5, unit="ms", peer="gru", ratio=1.25), Row(metric="load", value=10.0, unit="MB")]


@pytest.fixture
def measured(monkeypatch):
    monkeypatch.setattr(harness, "measure", lambda name: iter(ROWS))


def test_without_a_name_all_benchmarks_are_listed_with_a_line_each(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == set(harness.names())
    assert "decode" in harness.names()
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines)


def test_the_json_says_what_was_measured_where(measured, tmp_path, capsys):
    assert main(["decode", "--json", str(tmp_path / "new" / "decode.json")]) == 0
    written = json.loads((tmp_path / "new" / "decode.json").read_text())

    assert list(written) == ["benchmark", "commit", "machine", "rows"]
    assert written["benchmark"] == "decode"
    assert written["rows"][0] == {"metric": "step", "value": 2.5, "unit": "ms", "peer": "gru", "ratio": 1.25}
    assert written["rows"][1]["peer"] is None
    assert {"cpu", "instructions", "cores", "python"} <= set(written["machine"])
    assert "1.25  x gru" in capsys.readouterr().out


def test_an_unknown_name_is_told_what_there_is(capsys):
    assert main(["speed"]) == 2
    assert "decode" in capsys.readouterr().err
    with pytest.raises(KeyError):
        harness.measure("harness")
