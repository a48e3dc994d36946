"""Tables and plots from what was measured: `python -m experiments.language.report` rewrites them in experiments/README.md.

From results.jsonl (a line a run), curves.jsonl (perplexity by epoch) and cost.json. What has not been run yet is said to be missing.
"""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.language import runs
from experiments.language.cost import COSTS
from experiments.language.options import PROGRAM, Options
from experiments.language.train import CURVES, RESULTS, read_lines

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- made by python -m experiments.language.report: {} -->", "<!-- end of {} -->"
NAMES = {"transformer": "Transformer", "xl": "Transformer-XL", "crt": "CRT"}
MISSING = "not run yet"
UNPLANNED = "-"

Results = dict[str, dict[str, Any]]
"""By command."""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def spread(values: Sequence[float]) -> str:
    """The mean, and of several the standard deviation."""
    if not values:
        return MISSING
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"


def entry(results: Results, o: Options) -> dict[str, Any] | None:
    """What is kept of this run, made in either precision."""
    return next((results[command] for command in o.either() if command in results), None)


def of(results: Results, o: Options, field: str = "test_ppl") -> list[float]:
    """A figure of this run, whatever its seed, by all seeds that there are."""
    entries = (entry(results, o.model_copy(update={"seed": seed})) for seed in range(1, 10))
    return [one[field] for one in entries if one]


def named(variant: str, memory: int) -> str:
    """The network, and of a CRT how wide its memory is."""
    return f"{NAMES['crt']}, memory {memory}" if variant == "crt" else NAMES[variant]


def row(results: Results, name: str, o: Options) -> list[object]:
    """Name, segment, parameters, operations, perplexities."""
    found, seeds = of(results, o), len(of(results, o))
    if not found:
        return [name, o.segment, "", "", "", MISSING, ""]
    params, flops = of(results, o, "params")[0], of(results, o, "flops_per_token")[0]
    valid = spread(of(results, o, "valid_ppl"))
    return [name, o.segment, f"{params / 1e6:.2f} M", f"{flops / 1e6:.2f} M", valid, spread(found), seeds]


HEAD = ["network", "segment", "parameters", "operations a token", "validation", "test", "seeds"]


def central(results: Results) -> str:
    """The comparison that counts, and how much of the gap is closed."""
    groups = {o.model_copy(update={"seed": 1}).command(): o for o in reversed(runs.central())}
    kinds = [*reversed(groups.values()), *runs.narrow()[:1]]
    rows = [row(results, named(o.variant, o.memory), o) for o in kinds]
    rows += [row(results, "Transformer, widened to the CRT's parameters", o) for o in runs.sizes()]
    shares = [f"with a memory of {memory} {closed(results, memory)}" for memory in (256, 64)]
    text = "Share of the gap between the Transformer at 17 and at 70 that the CRT at 17 closes"
    return f"{table(HEAD, rows)}\n\n{text}: {'; '.join(shares)}."


def closed(results: Results, memory: int = 256) -> str:
    """The CRT's share of the way from the short Transformer to the long one, by seed."""
    parts = []
    for seed in (1, 2, 3):
        kinds = [runs.at(17, variant="transformer"), runs.at(17, memory=memory), runs.at(70, variant="transformer")]
        entries = [entry(results, o.model_copy(update={"seed": seed})) for o in kinds]
        found = [one["test_ppl"] for one in entries if one]
        if len(found) == len(kinds):
            short, crt, long = found
            parts.append(
                f"{(short - crt) / (short - long):.2f} (seed {seed})" if short > long else f"no gap (seed {seed})"
            )
    return ", ".join(parts) or "not known yet"


def lengths(results: Results) -> str:
    """All networks at all lengths, on test."""
    found: dict[tuple[str, int], Options] = {
        (o.variant, o.segment): o for o in runs.central() + runs.lengths() if o.seed == 1
    }
    columns = sorted(runs.SPANS)
    rows = [
        [NAMES[v], *(spread(of(results, found[v, n])) if (v, n) in found else UNPLANNED for n in columns)]
        for v in NAMES
    ]
    return table(["test perplexity at segment", *map(str, columns)], rows)


def variants(results: Results) -> str:
    """One thing changed at a time."""
    base = runs.at(17)
    rows = [row(results, "prepend, GRU, memory 256, gradients through 4 segments", base)]
    rows += [row(results, f"read by {o.read.replace('_', '-')}", o) for o in runs.readers()]
    rows += [row(results, "written by NC-GRU", o) for o in runs.writers()]
    rows += [row(results, f"memory {o.memory}", o) for o in runs.widths()]
    return table(HEAD, rows)


def gradients(results: Results) -> str:
    """How far they run."""
    untrained = {1: "; the GRU stays as drawn"}
    rows = [
        row(results, f"CRT, gradients through {o.gradient}{untrained.get(o.gradient or 0, '')}", o)
        for o in runs.gradients()
    ]
    return table(HEAD, rows)


def tasks(kinds: Callable[[], list[Options]]) -> Callable[[Results], str]:
    """One of the other tasks."""

    def made(results: Results) -> str:
        rows = []
        for o in kinds():
            name = f"{NAMES['xl']}, cache {o.remembered}" if o.variant == "xl" else named(o.variant, o.memory)
            one = entry(results, o)
            rows.append(
                [name, o.segment, f"{one['params']:,}", f"{one['flops_per_token']:,}", f"{one['valid_ppl']:.3f}", f"{one['test_ppl']:.3f}"]
                if one
                else [name, o.segment, "", "", "", MISSING]
            )  # fmt: skip
        return table(["network", "segment", "parameters", "operations a token", "validation", "test"], rows)

    return made


def costs() -> dict[str, Any]:
    """cost.json, a name in each row."""
    report: dict[str, Any] = json.loads(COSTS.read_text())
    for one in report["rows"]:
        one["name"] = named(one["variant"], one["memory"])
    return report


def cost() -> str:
    """Of cost.json."""
    if not COSTS.exists():
        return "Not measured yet."
    report = costs()
    head = [
        "network",
        "segment",
        "operations a token",
        "without softmax",
        "time a token",
        "peak memory",
        "in training",
        "state",
    ]
    rows = [
        [
            one["name"], one["segment"], f"{one['flops'] / 1e6:.2f} M", f"{one['flops_without_softmax'] / 1e6:.2f} M",
            f"{one['microseconds']:.0f} µs", f"{one['peak_bytes'] / 1e6:.1f} MB", f"{one['training_peak_bytes'] / 1e6:.0f} MB",
            f"{one['state_bytes'] / 1024:g} KB",
        ]
        for one in report["rows"]
    ]  # fmt: skip
    worst = max(abs(one["flops"] / one["flops_counted"] - 1) for one in report["rows"])
    text = f"By hand and by torch.utils.flop_counter the operations differ by at most {100 * worst:.2f} %."
    return f"{table(head, rows)}\n\nOn one thread of {report['device'].split(',')[0]}. {text}"


def every_run(results: Results) -> str:
    """Command, seed, hardware, time."""
    rows = [
        [f"`{c.removeprefix(PROGRAM).strip()}`", one["device"], f"{one['train_seconds']:.0f} s", one["valid_ppl"], one["test_ppl"]]
        for c, one in results.items()
    ]  # fmt: skip
    return table([f"`{PROGRAM}` ...", "hardware", "processor time", "validation", "test"], rows)


def plot_lengths(results: Results, picture: Path) -> None:
    """Perplexity over segment length, and over epochs."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    found: dict[tuple[str, int], Options] = {
        (o.variant, o.segment): o for o in runs.central() + runs.lengths() if o.seed == 1
    }
    for variant, name in NAMES.items():
        points = [
            (n, statistics.mean(of(results, o)))
            for (v, n), o in sorted(found.items())
            if v == variant and of(results, o)
        ]
        if points:
            left.plot(*zip(*points, strict=True), marker="o", label=name, linewidth=2.5 if variant == "crt" else 1.5)
    left.set(xscale="log", xlabel="segment, tokens", ylabel="test perplexity", title="Penn Treebank, 2 layers of 128")
    left.set_xticks(sorted(runs.SPANS), [str(n) for n in sorted(runs.SPANS)])
    left.minorticks_off()
    curves = {one["command"]: one["curve"] for one in read_lines(CURVES)}
    for o in runs.central()[:3]:
        if curve := next((curves[command] for command in o.either() if command in curves), None):
            label = f"{NAMES[o.variant]} {o.segment}"
            right.plot(
                [e["epoch"] for e in curve], [e["valid_ppl"] for e in curve], marker="o", markersize=3, label=label
            )
    right.set(xlabel="epoch", ylabel="validation perplexity", title="By epoch, seed 1")
    for axes in (left, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def plot_cost(picture: Path) -> None:
    """Time and state over segment length."""
    import matplotlib.pyplot as plt

    rows = costs()["rows"]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    fields = [
        ("flops", 1e6, "million operations a token"),
        ("microseconds", 1, "µs a token"),
        ("state_bytes", 1024, "state, KB"),
    ]
    for axis, (field, unit, label) in zip(axes, fields, strict=True):
        for name in dict.fromkeys(one["name"] for one in rows):
            points = [(one["segment"], one[field] / unit) for one in rows if one["name"] == name]
            axis.plot(*zip(*sorted(points), strict=True), marker="o", markersize=3, label=name)
        axis.set(xscale="log", xlabel="segment, tokens", ylabel=label, ylim=(0, None))
        axis.set_xticks(sorted(runs.SPANS), [str(n) for n in sorted(runs.SPANS)])
        axis.minorticks_off()
    axes[0].legend()
    figure.savefig(picture, dpi=110)
    plt.close(figure)


PARTS: dict[str, Callable[[Results], str]] = {
    "central": central, "lengths": lengths, "variants": variants, "gradients": gradients, "sums": tasks(runs.sums),
    "code": tasks(runs.code), "cost": lambda results: cost(), "runs": every_run,
}  # fmt: skip
"""What stands between the marks of this name."""


def main() -> None:
    results = {one["command"]: one for one in read_lines(RESULTS)}
    text = README.read_text()
    for name, make in PARTS.items():
        begin, end = BEGIN.format(name), END.format(name)
        made = make(results)
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"{README} has to have once: {begin} ... {end}")
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{made}\n\n{end}{rest.split(end)[1]}"
    README.write_text(text)
    plot_lengths(results, Path(__file__).with_name("perplexity.png"))
    if COSTS.exists():
        plot_cost(Path(__file__).with_name("cost.png"))


if __name__ == "__main__":
    main()
