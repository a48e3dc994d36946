"""Tables and plots say what the results say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.language import report, runs
from experiments.language.options import Options
from experiments.language.train import RESULTS, read_lines


def results_of(figures: dict[Options, float]) -> report.Results:
    return {
        o.command(): {
            "test_ppl": ppl,
            "valid_ppl": ppl + 5,
            "params": 2_000_000,
            "flops_per_token": 2_500_000,
            "epochs": 10,
        }
        for o, ppl in figures.items()
    }


def test_the_readme_has_the_tables_of_the_results_that_are_kept():
    """`python -m experiments.language.report` was run."""
    text = report.README.read_text()
    results = {entry["command"]: entry for entry in read_lines(RESULTS)}
    for name, make in report.PARTS.items():
        begin, end = report.BEGIN.format(name), report.END.format(name)
        assert f"{begin}\n\n{make(results)}\n\n{end}" in text, name


def test_the_share_of_the_gap_and_the_spread_are_by_seed():
    """From 120 at 17 to 100 at 70, 105 is three quarters of the way."""
    figures = {}
    for seed, crt in ((1, 105.0), (2, 100.0)):
        for variant, segment, ppl in (("transformer", 17, 120.0), ("transformer", 70, 100.0), ("crt", 17, crt)):
            figures[runs.at(segment, variant=variant, seed=seed)] = ppl
    results = results_of(figures)
    assert report.closed(results) == "0.75 (seed 1), 1.00 (seed 2)"
    assert report.central(results).endswith("256 0.75 (seed 1), 1.00 (seed 2); with a memory of 64 not known yet.")
    assert "| CRT, memory 256 | 17 | 2.00 M | 2.50 M | 107.5 ± 3.5 | 102.5 ± 3.5 | 2 |" in report.central(results)
    assert "| Transformer-XL | - | not run yet | - |" in report.lengths(results)
    assert "| CRT | not run yet | not run yet | not run yet | 102.5 ± 3.5 | not run yet |" in report.lengths(results)


def test_a_run_counts_in_either_precision():
    """bfloat16 is slow on some processors; a run made there in float32 fills the same place."""
    single = {"precision": "fp32"}
    central = zip((105.0, 120.0, 100.0), runs.central()[:3], strict=True)
    assert "0.75 (seed 1)" in report.closed(results_of({o.model_copy(update=single): ppl for ppl, o in central}))
    results = results_of({runs.readers()[1].model_copy(update=single): 99.5})
    assert "| 104.5 | 99.5 | 1 |" in next(row for row in report.variants(results).splitlines() if "read by add" in row)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_run_is_made_in_the_precision_that_is_asked_for(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
):
    """Whatever the machine would take by itself; the log lies where the run's checkpoint does."""
    commands = []
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: commands.append(command) or subprocess.CompletedProcess(command, 0)
    )
    where = [f"--{name}={tmp_path / name}" for name in ("runs", "results", "curves")]
    monkeypatch.setattr(sys, "argv", ["runs", "writers", "--precision", precision, *where])
    assert runs.main() == 0
    (command,) = commands
    assert command[command.index("--precision") + 1] == precision
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == runs.writers()[0].model_copy(update={"precision": precision}).name()


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_no_run_is_made_again_for_another_precision(tmp_path: Path, precision: str):
    """`--list` says what is done."""
    made = runs.readers()[0].model_copy(update={"precision": "bf16" if precision == "fp32" else "fp32"})
    (tmp_path / "results.jsonl").write_text(json.dumps({"command": made.command()}) + "\n")
    command = [sys.executable, "-m", "experiments.language.runs", "readers", "--list", "--precision", precision]
    done = subprocess.run(
        [*command, "--results", tmp_path / "results.jsonl"], capture_output=True, text=True, check=True
    )
    assert [line.split()[0] == "done" for line in done.stdout.splitlines()] == [True, False]


def test_what_is_missing_is_said_to_be(tmp_path: Path):
    """No run, no figure; and the picture can be drawn all the same."""
    assert "not known yet" in report.central({})
    assert report.central({}).count(report.MISSING) == 6
    assert report.variants({}).count(report.MISSING) == 6
    report.plot_lengths({}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
