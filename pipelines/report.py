"""One page on what a model says of a data set: figures, confusion matrix, shares by class, calibration, and timelines over thumbnails.

A single HTML file without scripts; pictures are inside it.
"""

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from models.checkpoint import Checkpoint
from models.spec import ClipSpec
from pipelines.clips import frames_in
from pipelines.datasets import BACKGROUND, label_at, overlap
from pipelines.evaluate import STEP, Measured, Watched
from pipelines.metrics import mean_class_accuracy

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Run = tuple[float, float, str]
"""From and to in seconds, and what."""
EXAMPLES = 6
THUMBNAILS = 10
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #1d2329; background: #fff }
img { max-width: 100%; height: auto } table { border-collapse: collapse } td, th { padding: .15rem .8rem .15rem 0; text-align: left }
td:last-child { font-variant-numeric: tabular-nums } h1, h2 { line-height: 1.2 } figure { margin: 1rem 0 } figcaption { color: #57606a }
pre { white-space: pre-wrap; color: #57606a; font-size: .85rem }
@media (prefers-color-scheme: dark) { body { color: #e6e6e6; background: #15181c } img { background: #fff } figcaption, pre { color: #9aa4ae } }
"""


def write_report(path: Path, model: Checkpoint, title: str, split: str, measured: Measured) -> None:
    """Writes the page; title and split say of what."""
    figures = measured.figures()
    parts = [
        f"<h1>{escape(model.name)} on {escape(title)}, {split}</h1>",
        f"<p>{len(measured.trimmed)} trimmed clips, {len(measured.untrimmed)} untrimmed videos; model {escape(model.digest)}.</p>",
        _table(single(figures)),
    ]
    if measured.trimmed:
        true, predicted, _ = measured.clips()
        parts.append(
            _picture(confusion(true, predicted), "True labels by row, answers by column, in shares of the row.")
        )
        _, shares = mean_class_accuracy(true, predicted)
        parts.append(
            _picture(
                bars(shares, "share of its clips that are right"), "Right answers by class; the line is their mean."
            )
        )
    if measured.untrimmed:
        parts.append(
            _picture(
                confusion(*measured.moments()),
                f"Untrimmed video: true labels by row, answers by column, in shares of the row; the numbers are moments, {STEP:g} s apart.",
            )
        )
        precision = figures["untrimmed_class_precision"]
        parts.append(
            _picture(
                bars(precision, "average precision"), "Average precision of moments by class; the line is frame mAP."
            )
        )
    parts += [
        "<h2>Examples</h2>",
        *(_picture(timeline(one, measured, model.spec), _caption(one)) for one in examples(measured)),
    ]
    parts.append(f"<h2>All figures</h2><pre>{escape(json.dumps(figures, indent=1))}</pre>")
    page = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    page += f"<title>{escape(model.name)}: report</title><style>{_STYLE}</style>" + "".join(parts) + "</html>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def single(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures that are one number each, F1 by overlap among them, by names for people."""
    rows: dict[str, Any] = {}
    for name, value in figures.items():
        if name == "untrimmed_event_f1":
            rows |= {f"untrimmed event F1 at IoU {overlap}": share for overlap, share in value.items()}
        elif not isinstance(value, list | dict):
            rows[name.replace("_", " ")] = value
    return rows


def examples(measured: Measured) -> list[Watched]:
    """Untrimmed videos first, then clips of as many classes as there is room for, right ones and wrong ones."""
    chosen = measured.untrimmed[: EXAMPLES // 2]
    seen: set[tuple[str, bool]] = set()
    if measured.trimmed:
        for one, true, predicted in zip(measured.trimmed, *measured.clips()[:2], strict=True):
            if len(chosen) < EXAMPLES and (true, true == predicted) not in seen:
                seen.add((true, true == predicted))
                chosen.append(one)
    return chosen


def confusion(true: Sequence[str], predicted: Sequence[str]) -> plt.Figure:
    labels = sorted({*true, *predicted})
    counts = np.zeros((len(labels), len(labels)))
    for row, column in zip(true, predicted, strict=True):
        counts[labels.index(row), labels.index(column)] += 1
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.5 + 0.32 * len(labels)
    figure, axes = plt.subplots(figsize=(side, side), layout="constrained")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xticks=range(len(labels)), yticks=range(len(labels)), xlabel="answer", ylabel="true")
    axes.set_xticklabels(labels, rotation=90)
    axes.set_yticklabels([f"{label} ({int(counts[n].sum())})" for n, label in enumerate(labels)])
    for row, column in zip(*np.nonzero(counts), strict=True):
        shade = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, int(counts[row, column]), ha="center", va="center", color=shade, fontsize=8)
    return figure


def bars(shares: dict[str, float], what: str) -> plt.Figure:
    order = sorted(shares, key=lambda label: shares[label])
    figure, axes = plt.subplots(figsize=(7.0, 1.2 + 0.26 * len(order)), layout="constrained")
    axes.barh(order, [shares[label] for label in order], color="#3b7dd8")
    axes.axvline(float(np.mean(list(shares.values()))), color="#57606a", linewidth=1)
    axes.set(xlim=(0, 1), xlabel=what)
    return figure


def timeline(one: Watched, measured: Measured, spec: ClipSpec) -> plt.Figure:
    """Thumbnails, what is true, what was said segment by segment, and the events."""
    length = float(one.times_N2[-1, 1])
    seen = thumbnails(one, spec, length)
    rows = [
        ("true", true(one, length)),
        ("segments", segments(one, measured.labels)),
        ("events", [(event.start, event.end, event.label) for event in one.events]),
    ]
    labels = sorted({label for _, runs in rows for *_, label in runs} - {BACKGROUND})
    colours = {label: plt.get_cmap("tab20")(n % 20) for n, label in enumerate(labels)} | {
        BACKGROUND: (0.9, 0.9, 0.9, 1)
    }
    figure, (top, below) = plt.subplots(
        2, 1, figsize=(11, 3.4), height_ratios=(1, 1.3), layout="constrained"
    )  # fmt: skip
    top.imshow(np.concatenate(seen, 1))
    top.axis("off")
    for row, (_, runs) in enumerate(rows):
        lanes = side_by_side(runs)
        high = 0.8 / len(lanes)
        for lane, (start, end, label) in ((number, run) for number, of in enumerate(lanes) for run in of):
            middle = row - 0.4 + (lane + 0.5) * high
            below.barh(middle, end - start, left=start, color=colours[label], height=high)
            if (end - start) / length > 0.012 * len(label):
                below.text((start + end) / 2, middle, label, ha="center", va="center", fontsize=7)
    below.set(yticks=range(len(rows)), yticklabels=[name for name, _ in rows], xlim=(0, length), xlabel="seconds")
    below.invert_yaxis()
    handles = [plt.Rectangle((0, 0), 1, 1, color=colours[label]) for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    return figure


def true(one: Watched, length: float) -> list[Run]:
    """What is true, the background included; where spans overlap, all of them without it."""
    if overlap([one.video]):
        return [(span.start, min(span.end, length), span.label) for span in one.video.spans if span.start < length]
    return _runs([label_at(one.video.spans, float(t)) for t in np.arange(0, length, STEP)])


def side_by_side(runs: Sequence[Run]) -> list[list[Run]]:
    """As many lanes as it takes for none to lie upon another."""
    lanes: list[list[Run]] = [[]]
    for run in sorted(runs):
        free = next((lane for lane in lanes if not lane or lane[-1][1] <= run[0] + 1e-6), None)
        if free is None:
            lanes.append(free := [])
        free.append(run)
    return lanes


def segments(one: Watched, labels: Sequence[str]) -> list[Run]:
    """From, to and label of each segment."""
    ends = np.cumsum(one.lengths_S)
    return [
        (float(one.times_N2[end - length, 0]), float(one.times_N2[end - 1, 1]), labels[int(best)])
        for end, length, best in zip(ends, one.lengths_S, one.scores_SC.argmax(1), strict=True)
    ]


def thumbnails(one: Watched, spec: ClipSpec, length: float) -> list[np.ndarray]:
    """Frames uint8[H, W, 3] at equal distances."""
    due = [(n + 0.5) * length / THUMBNAILS for n in range(THUMBNAILS)]
    found: list[np.ndarray] = []
    for _, frame, _ in frames_in(one.video.path, spec, [(one.video.start, one.video.end)]):
        while due and frame.time >= due[0] - 0.5 / spec.rate:
            found.append(frame.pixels[::2, ::2])
            due.pop(0)
    return found or [np.zeros((spec.height // 2, spec.width // 2, 3), np.uint8)]


def _runs(labels: Sequence[str]) -> list[Run]:
    runs: list[Run] = []
    for n, label in enumerate(labels):
        if runs and runs[-1][2] == label:
            runs[-1] = (runs[-1][0], (n + 1) * STEP, label)
        else:
            runs.append((n * STEP, (n + 1) * STEP, label))
    return runs


def _caption(one: Watched) -> str:
    return f"{one.video.name}" + (f", {one.video.label}" if one.video.label is not None else "")


def _table(values: dict[str, Any]) -> str:
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{value}</td></tr>" for name, value in values.items())
    return f"<table>{rows}</table>"


def _picture(figure: plt.Figure, caption: str) -> str:
    """The figure as PNG within the page; closes it."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    plt.close(figure)
    data = base64.b64encode(out.getvalue()).decode()
    return f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}"><figcaption>{escape(caption)}</figcaption></figure>'
