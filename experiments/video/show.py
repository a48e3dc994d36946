"""The figure and the table, from what `run` and `cost` found."""

import json
import statistics
import textwrap
from collections import defaultdict
from pathlib import Path
from typing import Any

from experiments.video.trials import DEFAULT, VARIANTS

QUESTIONS = {
    "writer": "Writer",
    "past": "Other ways to know the past",
    "reader": "Reader",
    "memory": "Memory width (256 here)",
    "segment": "Clips in a segment (4)",
    "training": "Length of training",
}
MEASURES = (
    ("homesim", "clips", "HomeSim: moments"),
    ("homesim", "containers", "HomeSim: containers"),
    ("homesim", "sequences", "HomeSim: clips"),
    ("kard", "sequences", "KARD"),
    ("nw_ucla", "sequences", "NW-UCLA"),
)
"""Task, figure, and what a column is called."""
_Values = dict[tuple[str, str], dict[str, list[float]]]


def read(folder: Path) -> list[dict[str, Any]]:
    """All lines of all tasks."""
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def by_variant(lines: list[dict[str, Any]]) -> _Values:
    """By task and figure, then by variant: a value a seed."""
    found: _Values = defaultdict(lambda: defaultdict(list))
    for line in lines:
        for task, figure, _ in MEASURES:
            if line["task"] == task:
                found[task, figure][line["variant"]].append(line[figure])
    return found


def mean_and_spread(values: list[float]) -> tuple[float, float]:
    """The mean and the standard deviation over seeds; 0 for a single one."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def of(question: str) -> list[str]:
    """Names of its variants, in order; the default is one of each question's."""
    names = [v.name for v in VARIANTS if v.question == question]
    if question == "writer":
        return names
    at = {"memory": 3, "segment": 2}.get(question, 0)
    return [*names[:at], DEFAULT.name, *names[at:]]


def called(question: str, name: str) -> str:
    """A variant's name in its question's row."""
    if name == DEFAULT.name and question != "writer":
        return {"memory": "256", "segment": "4", "reader": "cross_attention"}.get(question, name)
    return name.removeprefix("memory ").removeprefix("segment ")


def show(folder: Path, target: Path) -> list[Path]:
    """Writes TARGET/results.png and TARGET/results.md."""
    values = by_variant(read(folder))
    costs = json.loads((folder / "cost.json").read_text()) if (folder / "cost.json").exists() else []
    (target / "results.md").write_text(table(values, costs))
    draw(values, target / "results.png")
    return [target / "results.md", target / "results.png"]


def table(values: _Values, costs: list[dict[str, Any]]) -> str:
    """Markdown."""
    rows = [
        "| | " + " | ".join(title for *_, title in MEASURES) + " | parameters | ms a second of video | state |",
        "|---|" + "---|" * (len(MEASURES) + 3),
    ]
    for question, title in QUESTIONS.items():
        rows.append(f"| **{title}** |" + " |" * (len(MEASURES) + 3))
        for name in of(question):
            cells = [_cell(values[task, figure].get(name, [])) for task, figure, _ in MEASURES]
            rows.append(f"| {called(question, name)} | " + " | ".join([*cells, *_costs(name, costs)]) + " |")
    return "\n".join(rows) + "\n"


def _cell(found: list[float]) -> str:
    if not found:
        return ""
    mean, spread = mean_and_spread(found)
    return f"{100 * mean:.1f}" + (f" ± {100 * spread:.1f}" if len(found) > 1 else "") + f" ({len(found)})"


def _costs(name: str, costs: list[dict[str, Any]]) -> list[str]:
    found = [one for one in costs if one["variant"] == name]
    if not found:
        return [""] * 3
    several = len(found) > 1
    times = [f"{one['milliseconds'] / one['clips'] * 2:.2f}" + (f" ({one['age']})" if several else "") for one in found]
    sizes = [f"{one['state_bytes'] / 1024:,.1f} KB" + (f" ({one['age']})" if several else "") for one in found]
    return [f"{found[0]['parameters'] / 1e6:.2f} M", ", ".join(times), ", ".join(sizes)]


def draw(values: _Values, path: Path) -> None:
    """A column of panels a measure, a row a question: means with the standard deviation over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    heights = [len(of(question)) for question in QUESTIONS]
    figure, axes = plt.subplots(
        len(QUESTIONS), len(MEASURES), figsize=(13, 9.5), dpi=100, layout="constrained", height_ratios=heights, sharex="col"
    )  # fmt: skip
    for row, question in enumerate(QUESTIONS):
        names = of(question)
        for column, (task, measure, title) in enumerate(MEASURES):
            panel = axes[row][column]
            for place, name in enumerate(names):
                if found := values[task, measure].get(name):
                    mean, spread = mean_and_spread(found)
                    colour = "#d1495b" if name == DEFAULT.name else "#3b7dd8"
                    panel.errorbar(100 * mean, place, xerr=100 * spread, fmt="o", color=colour, capsize=3)
                    panel.plot([100 * one for one in found], [place] * len(found), "|", color=colour, alpha=0.5)
            panel.set_yticks(range(len(names)), [called(question, name) for name in names] if column == 0 else [])
            panel.set_ylim(len(names) - 0.5, -0.5)
            panel.grid(axis="x", alpha=0.3)
            if row == 0:
                panel.set_title(title, fontsize=10)
            if column == 0:
                panel.set_ylabel(textwrap.fill(QUESTIONS[question], 14), fontsize=8)
            if row == len(QUESTIONS) - 1:
                panel.set_xlabel("% right")
    figure.savefig(path)
    plt.close(figure)
