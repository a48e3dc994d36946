"""What a word costs: the command measures every network, and the table has what it wrote."""

import json
import sys
from pathlib import Path

import pytest

from experiments.language import cost, runs


def test_the_command_measures_operations_time_memory_and_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of small networks; each figure against what is known of it."""
    size = {"d_model": 16, "inner": 32, "heads": 2, "memory": 24, "layers": 3, "streams": 2}
    small = [runs.at(17, variant=variant, **size) for variant in ("transformer", "xl", "crt")]
    monkeypatch.setattr(cost, "kinds", lambda: small)
    monkeypatch.setattr(cost, "WORDS", 2000)
    # Of this process, in which other tests run.
    monkeypatch.setattr(cost, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(cost.torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["cost", "--passes", "2", "--output", str(tmp_path / "cost.json")])
    cost.main()
    found = json.loads((tmp_path / "cost.json").read_text())
    assert [one["variant"] for one in found["rows"]] == ["transformer", "xl", "crt"]
    assert [one["memory"] for one in found["rows"]] == [None, None, 24]
    assert [one["state_bytes"] for one in found["rows"]] == [0, 3 * 17 * 16 * 4, 24 * 4]
    for one in found["rows"]:
        assert one["flops"] == one["flops_counted"] > one["flops_without_softmax"] + 2 * 16 * 1999
        assert one["microseconds"] > 0
        # In training, at the least the scores of an update's words and their gradients.
        assert one["training_peak_bytes"] > 2 * 4 * 68 * 2000 * 2
        assert one["training_peak_bytes"] > one["peak_bytes"] >= 0
