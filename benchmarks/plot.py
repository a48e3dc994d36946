"""Draws docs/benchmarks.png from benchmarks/results/avx2: `python -m benchmarks.plot`.

Left: steps a second of the servers over the number of streams. Right: what a second of video costs as a stream grows.
"""

import json
import re
from typing import Any

from benchmarks.harness import FOLDER

RESULTS = FOLDER / "results" / "avx2"
PICTURE = FOLDER.parent / "docs" / "benchmarks.png"


def read(name: str) -> dict[str, Any]:
    """The report that was written by `python -m benchmarks NAME --json benchmarks/results/avx2/NAME.json`."""
    report: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return report


def main() -> None:
    import matplotlib.pyplot as plt

    serving, model = read("serving_peers"), read("model_peers")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in serving["rows"]:
        if row["unit"] == "steps/s" and (found := re.fullmatch(r"(\d+) streams, (.+)", row["metric"])):
            lines.setdefault(found[2], []).append((int(found[1]), row["value"]))
    for name, points in lines.items():
        style = (
            {"linewidth": 2.5} if name.startswith("ours") else {"linestyle": "--" if name.startswith("bare") else ":"}
        )
        left.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name, **style)
    left.set(xlabel="streams", ylabel="steps a second", title="The same CRT step, served", ylim=(0, None))
    left.legend(fontsize=7)
    values = {row["metric"]: row["value"] for row in model["rows"]}
    ours = [values["ours, in the first minute"], values["ours, after 24 hours"]]
    right.plot([1 / 60, 24], ours, linewidth=2.5, marker="o", label="ours")
    right.axhline(values["S3D over a sliding window"], linestyle=":", color="C2", label="S3D over a sliding window")
    over = [(1 / 60, "at 1 minute"), (1 / 6, "at 10 minutes"), (1, "at 1 hour")]
    costs = [values[f"Transformer over all, {name}"] for _, name in over]
    right.plot(
        [hours for hours, _ in over], costs, marker="o", linestyle="--", color="C1", label="Transformer over all"
    )
    right.set(
        xscale="log",
        yscale="log",
        xlabel="age of the stream, hours",
        ylabel="ms a second of video",
        title="Cost as a stream grows",
    )
    right.legend(fontsize=7)
    machine = serving["machine"]
    figure.suptitle(f"{machine['cpu']}, {machine['cores']} cores of a virtual machine", fontsize=9)
    figure.savefig(PICTURE, dpi=110)
    print(PICTURE)


if __name__ == "__main__":
    main()
