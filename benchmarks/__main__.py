"""`python -m benchmarks` lists the benchmarks; `python -m benchmarks NAME [--json FILE]` runs one."""

import argparse
import sys
from pathlib import Path

from benchmarks import harness


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 2 for a name that no benchmark has."""
    known = harness.names()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Every figure that the README quotes.")
    parser.add_argument("name", nargs="?", help=", ".join(known))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args(arguments)
    if options.name is None:
        width = max(map(len, known))
        for name, line in known.items():
            print(f"{name:<{width}}  {line}")
        return 0
    if options.name not in known:
        print(f"there is no benchmark {options.name!r}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    rows = []
    for row in harness.measure(options.name):
        harness.note(f"  {row.metric}: {row.value:,.4g} {row.unit}")
        rows.append(row)
    print(harness.table(rows))
    if options.json:
        harness.write(options.json, options.name, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
