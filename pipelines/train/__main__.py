"""The command line. A file of its own, as each worker of a training imports anew the file that was started, unless it has this name."""

import argparse
import logging
import os
from pathlib import Path

from pipelines import command, parallel, train
from pipelines.config import read_config
from pipelines.device import pick
from pipelines.train import STAGES, run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.train",
        description=train.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--until", choices=STAGES, default="evaluate", help="the last stage to run")
    parser.add_argument("--output", type=Path, help="folder for the finished model (default: RUN/model)")
    parser.add_argument("--plot", type=Path, help="write the drinks-over-gap plot here")
    parser.add_argument(
        "--homes", type=Path, help="folder of real falls and daily life to measure on (clips and segments.csv)"
    )
    parser.add_argument("--fresh", action="store_true", help="forget what was trained before (caches of clips stay)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="instead of the file's, such as data.fold=1"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    config = read_config(args.config, args.set)
    if args.fresh and int(os.environ.get("RANK", "0")) == 0:
        for state in config.run.glob("*.pt"):
            state.unlink()
    with parallel.together(pick(config.device)):
        run(config, until=args.until, output=args.output, plot=args.plot, homes=args.homes)


if __name__ == "__main__":
    command.run(main)
