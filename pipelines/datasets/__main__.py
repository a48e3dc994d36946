"""`python -m pipelines.datasets KIND DIR`: what is there, by split and class, and every problem."""

import argparse
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipelines import command
from pipelines.datasets import KINDS, BadDataset, Dataset
from pipelines.datasets.survey import survey


def options_of(parser: argparse.ArgumentParser, kind: type[Dataset]) -> None:
    """An option for each of the kind's fields."""
    for name, field in kind.model_fields.items():
        if name not in ("kind", "folder"):
            about = (field.description or "").replace("%", "%%")
            parser.add_argument(
                f"--{name.replace('_', '-')}", dest=name, default=argparse.SUPPRESS, required=field.is_required(), help=about,
                **({"action": "store_true"} if field.annotation is bool else {"metavar": "VALUE"}),
            )  # fmt: skip


def dataset(kind: str, folder: Path, given: dict[str, Any]) -> Dataset:
    """From the command line's words. Raises BadDataset."""
    if isinstance(classes := given.get("classes"), str):
        given = given | {"classes": tuple(classes.split(","))}
    try:
        return KINDS[kind].model_validate({"kind": kind, "folder": folder, **given})
    except ValidationError as error:
        first = error.errors()[0]
        raise BadDataset(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}") from error


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.datasets", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for name, kind in KINDS.items():
        of = kinds.add_parser(name, help=(kind.__doc__ or "").splitlines()[0], description=kind.__doc__)
        of.add_argument("folder", type=Path, metavar="DIR")
        of.add_argument("--json", action="store_true", help="for programs")
        options_of(of, kind)
    args = vars(parser.parse_args())
    kind, folder, as_json = args.pop("kind"), args.pop("folder"), args.pop("json")
    chosen = dataset(kind, folder, args)
    surveyed = survey(chosen.find())
    print(json.dumps(surveyed.to_dict(), indent=2) if as_json else surveyed.text())
    chosen.accept(surveyed.found)


if __name__ == "__main__":
    command.run(main)
