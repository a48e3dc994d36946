"""A model's card as text for people: what config.json holds, as README.md beside it."""

from typing import Any


def card_text(name: str, labels: tuple[str, ...], card: dict[str, Any]) -> str:
    """Markdown: data, method, measured accuracy, limits."""
    data, method, accuracy = card["data"], card["method"], card["accuracy"]
    test, without = accuracy["test"], accuracy["test_without_memory"]
    videos = data["videos"]
    lines = [
        f"# {name}",
        "",
        f"**{card['summary']}**",
        "",
        "## Data",
        "",
        f"{data['name']}, made by `{data['command']}`. {data['held_out']}",
        "",
        "| split | trimmed clips | untrimmed days |",
        "|---|---|---|",
        *(f"| {split} | {count['trimmed']} | {count['untrimmed']} |" for split, count in videos.items()),
        "",
        f"Labels: {', '.join(labels)}.",
        "",
        "## Method",
        "",
        f"- Backbone: {method['backbone']}.",
        f"- CRT: {method['crt']}.",
        f"- Arithmetic: {method.get('integers', 'float32')}.",
        f"- Command: `{method['command']}`, seed {method['seed']}, code {method['commit'][:12]}, {method['date']}.",
        "",
        "## Measured",
        "",
        "On the test split, from the weights that are stored here. The same data and features with the writer `none` show what the memory is worth.",
        "",
        "| figure | this model | writer `none` |",
        "|---|---|---|",
        f"| mean class accuracy, {test['trimmed_clips']} trimmed clips | {_share(test, 'trimmed_mean_class_accuracy')} | "
        f"{_share(without, 'trimmed_mean_class_accuracy')} |",
        f"| frame-wise accuracy, {test['untrimmed_hours']:.2f} h of untrimmed days, background included | "
        f"{_share(test, 'untrimmed_frame_accuracy')} | {_share(without, 'untrimmed_frame_accuracy')} |",
        f"| right container, {test['drinks_after_20_s_count']} drinks 20 s or more after the fetching (chance 25 %) | "
        f"{_share(test, 'drinks_after_20_s')} | {_share(without, 'drinks_after_20_s')} |",
        "",
        "Drinks by the seconds since their container was last to be seen:",
        "",
        "| seconds | drinks | this model | writer `none` |",
        "|---|---|---|---|",
    ]
    for own, other in zip(test["drinks_by_gap"], without["drinks_by_gap"], strict=True):
        seconds = f"{own['low']} to {own['high']}"
        lines.append(f"| {seconds} | {own['drinks']} | {own['accuracy']:.1%} | {other['accuracy']:.1%} |")
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
    lines += [
        "",
        "## Limits",
        "",
        "It knows simulated homes. On real video its labels are hints at best; it is no alarm system and must not be relied on as one. "
        "One person at a time; a camera that stands still; rooms seen from 1 to 2.5 m height.",
        "",
    ]
    return "\n".join(lines)


def _share(figures: dict[str, Any], name: str) -> str:
    value = figures[name]
    return "none measured" if value is None else f"{value:.1%}"
