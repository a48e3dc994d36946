"""A model's card: what was trained on what, how, and what was measured; as JSON values and as text for people."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.config import Config
from pipelines.datasets import SPLITS, Found, HomeSim
from pipelines.homesim.make import VERSION


def commit() -> str:
    """Of the code that runs, where it is known."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def make_card(
    config: Config, found: Found, about: dict[str, str], measured: dict[str, Any], without: dict[str, Any]
) -> dict[str, Any]:
    """Data, method and measured accuracy, as served by GET /v1/model. about: what is to be said of the backbone."""
    counts = {
        split: {
            "trimmed": sum(v.label is not None for v in found.of(split)),
            "untrimmed": sum(v.label is None for v in found.of(split)),
        }
        for split in SPLITS
    }  # fmt: skip
    if isinstance(config.data, HomeSim):
        summary = "Knows simulated homes only: trained on HomeSim, never on pictures of real people."
        data = {
            "name": f"HomeSim, version {VERSION}", "command": f"python -m pipelines.homesim make {config.data.folder}",
            "held_out": "The test's people, rooms and stretch of wall for the camera (c02) appear in no training video. Every other "
            "room is mirrored, in training and test alike, so that in those other cameras have hung across from c02.",
        }  # fmt: skip
    else:
        summary = f"Trained on {found.title}."
        data = {"name": found.title, "held_out": held_out(found)}
    crt = config.crt
    return {
        "summary": summary,
        "data": data | {"videos": counts, "left_out": len(found.problems)},
        "method": {
            **about,
            "crt": f"{crt.layers} layers, width {crt.width}, memory {crt.memory}, reader {crt.reader}, writer {crt.writer}; "
            f"backpropagation through time over {crt.unroll} segments"
            + ("; several labels at once, each by a probability of its own" if crt.several else ""),
            "command": "python -m pipelines.train CONFIG, with the configuration in the run's config.json",
            "seed": config.seed, "commit": commit(), "date": datetime.now(UTC).date().isoformat(),
        },
        "accuracy": {"test": measured, "test_without_memory": without},
        "limits": LIMITS if isinstance(config.data, HomeSim) else "It knows what is in its data, and people and places like those there.",
    }  # fmt: skip


def held_out(found: Found) -> str:
    """What no training video has in common with a test video."""
    groups = sorted({video.group for video in found.of("test") if video.group is not None})
    if not groups:
        return "No file is in two splits; nothing is known of people and places."
    told = ", ".join(groups[:12]) + (f" and {len(groups) - 12} more" if len(groups) > 12 else "")
    return f"In no training video: {told}."


def card_text(name: str, labels: tuple[str, ...], card: dict[str, Any]) -> str:
    """Markdown: data, method, measured accuracy, limits."""
    data, method, accuracy = card["data"], card["method"], card["accuracy"]
    test, without = accuracy["test"], accuracy["test_without_memory"]
    made = f", made by `{data['command']}`" if "command" in data else ""
    lines = [
        f"# {name}", "", f"**{card['summary']}**", "", "## Data", "", f"{data['name']}{made}. {data['held_out']}", "",
        "| split | trimmed clips | untrimmed videos |", "|---|---|---|",
        *(f"| {split} | {count['trimmed']} | {count['untrimmed']} |" for split, count in data["videos"].items()), "",
        f"Labels: {', '.join(labels)}.", "", "## Method", "", f"- Backbone: {method['backbone']}.", f"- CRT: {method['crt']}.",
        f"- Arithmetic: {method.get('integers', 'float32')}.",
        f"- Command: `{method['command']}`, seed {method['seed']}, code {method['commit'][:12]}, {method['date']}.", "", "## Measured", "",
        "On the test split, from the weights that are stored here. "
        + method.get("without_memory", "The same data and features with the writer `none` show what the memory is worth."),
        "", "| figure | this model | writer `none` |", "|---|---|---|",
        *(f"| {what} | {_said(test, key)} | {_said(without, key)} |" for key, what in _rows(test)),
    ]  # fmt: skip
    if "drinks_by_gap" in test:
        lines += ["", "Drinks by the seconds since their container was last to be seen:", ""]
        lines += ["| seconds | drinks | this model | writer `none` |", "|---|---|---|---|"]
        for own, other in zip(test["drinks_by_gap"], without["drinks_by_gap"], strict=True):
            seconds = f"{own['low']} to {own['high']}"
            lines.append(f"| {seconds} | {own['drinks']} | {own['accuracy']:.1%} | {other['accuracy']:.1%} |")
    if "trimmed_class_accuracy" in test:
        lines += ["", "By class, trimmed clips:", "", "| class | right |", "|---|---|"]
        lines += [f"| {label} | {share:.1%} |" for label, share in test["trimmed_class_accuracy"].items()]
    if homes := accuracy.get("real_homes"):
        lines += [
            "",
            "## Real homes",
            "",
            f"On {homes['falls'] + homes['daily_clips']} untouched clips of two people in real homes (GMDCSA24; none of them was trained on): "
            f"{homes['falls_found']} of {homes['falls']} falls found, {homes['false_alarms']} false alarms on "
            f"{homes['daily_clips']} clips of daily life. A clip counts as a fall when any of its segments says Fall before all else.",
        ]
    return "\n".join([*lines, "", "## Limits", "", card.get("limits", LIMITS), ""])


LIMITS = (
    "It knows simulated homes. On real video its labels are hints at best; it is no alarm system and must not be relied on as one. "
    "One person at a time; a camera that stands still; rooms seen from 1 to 2.5 m height."
)
"""Of models trained on HomeSim."""


def _rows(test: dict[str, Any]) -> list[tuple[str, str]]:
    """Which figures the table has, and what they are called."""
    rows: list[tuple[str, str]] = []
    if "trimmed_clips" in test:
        clips = f"{test['trimmed_clips']} trimmed clips"
        rows += [("trimmed_mean_class_accuracy", f"mean class accuracy, {clips}"), ("trimmed_top_1", f"top-1, {clips}")]
        rows += [("trimmed_top_5", f"top-5, {clips}")]
    if "untrimmed_hours" in test:
        hours = f"{test['untrimmed_hours']:.2f} h of untrimmed video"
        rows += [
            ("untrimmed_frame_accuracy", f"frame-wise accuracy, {hours}, background included"),
            ("untrimmed_frame_map", f"frame mAP, {hours}"),
            ("untrimmed_event_f1", f"F1 of events at IoU 0.1, 0.25 and 0.5, {hours}"),
            ("untrimmed_delay_median", "from an event's start to when it was first named, median"),
        ]
    if "drinks_after_20_s" in test:
        drinks = test["drinks_after_20_s_count"]
        rows.append(
            ("drinks_after_20_s", f"right container, {drinks} drinks 20 s or more after the fetching (chance 25 %)")
        )
    return [*rows, ("calibration_error", "expected calibration error of segments")]


def _said(figures: dict[str, Any], name: str) -> str:
    value = figures[name]
    if value is None:
        return "none measured"
    if isinstance(value, dict):
        return ", ".join(f"{share:.1%}" for share in value.values())
    return f"{value:.2f} s" if "delay" in name else f"{value:.1%}"
