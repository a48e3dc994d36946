"""What all benchmarks share: a row of figures, the machine they were taken on, a table for people, JSON for comparison.

A benchmark is a module here with a function `run() -> Iterable[Row]`; its docstring's first line says what it measures.
"""

import ast
import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure."""

    metric: str
    """What was measured."""
    value: float
    unit: str
    peer: str | None = None
    """What it is compared with."""
    ratio: float | None = None
    """value / peer's value."""


def names() -> dict[str, str]:
    """All benchmarks with the first lines of their docstrings, read from their sources: listing loads no torch."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").split("\n")[0]
    return found


def measure(name: str) -> Iterable[Row]:
    """The rows of a benchmark, as they are measured. Raises KeyError for a name that names() does not list."""
    if name not in names():
        raise KeyError(name)
    rows: Iterable[Row] = importlib.import_module(f"benchmarks.{name}").run()
    return rows


def report(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """What is written for comparison over time."""
    return {"benchmark": name, "commit": commit(), "machine": machine(), "rows": [asdict(row) for row in rows]}


def table(rows: Sequence[Row]) -> str:
    """The rows for a person to read."""
    cells = [("metric", "value", "unit", "ratio", "peer")]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        cells.append((row.metric, f"{row.value:,.4g}", row.unit, ratio, f"x {row.peer}" if row.peer else ""))
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    lines = [
        f"{line[0]:<{widths[0]}}  {line[1]:>{widths[1]}}  {line[2]:<{widths[2]}}  {line[3]:>{widths[3]}}  {line[4]}"
        for line in cells
    ]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:]])


def commit() -> str:
    """The commit that was measured, with "+" when files were changed since; "unknown" outside a repository."""

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", *arguments], cwd=FOLDER, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


WIDE = {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16"}
"""Instructions that make networks fast; what a processor's name alone does not say."""


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpu": _of_processor("model name") or platform.processor() or platform.machine(),
        "instructions": sorted(WIDE & set(_of_processor("flags").split())),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _of_processor(field: str) -> str:
    """As Linux tells of the first core; nothing where it tells none."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.partition("\t")[0] == field:
                return line.partition(":")[2].strip()
    return ""


def write(path: Path, name: str, rows: Sequence[Row]) -> None:
    """Writes the report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report(name, rows), indent=2) + "\n")


def note(text: str) -> None:
    """Says how far a benchmark is, where it does not mix with the table."""
    print(text, file=sys.stderr, flush=True)
