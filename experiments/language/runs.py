"""All runs behind the tables, and a runner that makes those that are missing: `python -m experiments.language.runs [GROUP...]`.

Stopped at any moment, the same command goes on with every run where it was. `--list` says what is done and what is left.
"""

import argparse
import shlex
import subprocess
import sys
import threading
from pathlib import Path

from experiments.language.options import Options, parse
from experiments.language.train import CURVES, RESULTS, RUNS, native, read_lines
from pipelines.command import count

SIXTEEN = {
    "layers": 16,
    "d_model": 380,
    "heads": 10,
    "inner": 900,
    "streams": 16,
    "dropout": 0.3,
    "learning_rate": 5e-4,
}
"""The configuration in which Transformer-XL is known on Penn Treebank: 24 million parameters."""
SPANS = {2: 34, 4: 17, 8: 9, 17: 4, 35: 2, 70: 1}
"""Segments in an update, so that it has 68 to 72 tokens of each stream whatever a segment's length."""


def at(segment: int, **settings: object) -> Options:
    """Words of Penn Treebank at one of the lengths compared."""
    return Options.model_validate({"segment": segment, "span": SPANS[segment], **settings})


def central() -> list[Options]:
    """The comparison that counts, by three seeds."""
    kinds = [("crt", 17), ("transformer", 17), ("transformer", 70)]
    return [at(segment, variant=variant, seed=seed) for seed in (1, 2, 3) for variant, segment in kinds]


def lengths() -> list[Options]:
    """Perplexity over segment length."""
    kinds = [("xl", 17), ("xl", 70), ("crt", 35), ("crt", 8), ("transformer", 8), ("xl", 35), ("transformer", 35)]
    kinds += [("crt", 4), ("transformer", 4), ("crt", 2), ("xl", 4)]
    # One segment an update would leave the writer untrained: no gradient reaches it but through the next segment's reading.
    return [*(at(segment, variant=variant) for variant, segment in kinds), Options(segment=70, span=2, streams=16)]


def sizes() -> list[Options]:
    """Transformers whose feed-forward networks are widened until they have the parameters of the CRT."""
    return [at(segment, variant="transformer", inner=1160) for segment in (17, 70)]


def readers() -> list[Options]:
    """Cross-attention and addition against prepending."""
    return [at(17, read=read) for read in ("cross_attention", "add")]


def writers() -> list[Options]:
    """NC-GRU against GRU."""
    return [at(17, write="ncgru")]


def widths() -> list[Options]:
    """The memory's width."""
    return [at(17, memory=memory) for memory in (64, 512)]


def narrow() -> list[Options]:
    """The CRT with a memory of 64, which has nearly the Transformer's parameters, by the seeds that widths() leaves out."""
    return [at(17, memory=64, seed=seed) for seed in (2, 3)]


def gradients() -> list[Options]:
    """How far gradients run through time; updates of eight segments for all of them. At 1 the writer stays as it was drawn."""
    return [Options(segment=17, span=8, streams=16, gradient=gradient) for gradient in (1, 2, 4, 8)]


def code() -> list[Options]:
    """Python's own sources, by the byte: two epochs of 4 MB."""
    kinds = [("crt", 32, 4), ("transformer", 32, 4), ("transformer", 128, 1), ("xl", 32, 4)]
    shared = {"task": "bytes", "epochs": 2, "dropout": 0.0}
    return [Options(variant=v, segment=segment, span=span, **shared) for v, segment, span in kinds]  # type: ignore[arg-type]


def sums() -> list[Options]:
    """Sums whose operands lie up to many segments back; a small memory against caches and a segment that reach as far as an update."""
    shared = {"task": "sums", "epochs": 12, "dropout": 0.0, "d_model": 64, "inner": 256, "streams": 64, "span": 8}
    kinds: list[dict[str, object]] = [
        {"memory": 64}, {"variant": "transformer"}, {"variant": "transformer", "segment": 136, "span": 1}, {"variant": "xl"},
        {"variant": "xl", "cache": 136}, {"memory": 256},
    ]  # fmt: skip
    return [Options.model_validate({**shared, **kind}) for kind in kinds]


def full() -> list[Options]:
    """The published size, 16 layers: days of two cores, for a GPU."""
    kinds = [("crt", 17), ("transformer", 17), ("transformer", 70), ("xl", 70)]
    return [at(segment, variant=variant, epochs=80, memory=512, **SIXTEEN) for variant, segment in kinds]


GROUPS = {
    "central": central, "lengths": lengths, "sizes": sizes, "readers": readers, "writers": writers, "gradients": gradients,
    "widths": widths, "narrow": narrow, "sums": sums, "code": code, "full": full,
}  # fmt: skip
"""By name, in the order in which they are made."""


class Queue:
    """Runs still to be made, handed out one at a time."""

    def __init__(self, runs: list[Options], options: argparse.Namespace) -> None:
        self.left, self.options, self.lock, self.failed = runs, options, threading.Lock(), 0

    def work(self) -> None:
        """Makes runs until none is left."""
        while True:
            with self.lock:
                if not self.left:
                    return
                run = self.left.pop(0)
            given = self.options
            folder: Path = given.runs / run.name()
            folder.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, *shlex.split(run.command())[1:], "--threads", str(given.threads)]
            command += ["--precision", run.precision]  # a run's own command leaves it out where it is the default
            command += ["--runs", str(given.runs), "--results", str(given.results), "--curves", str(given.curves)]
            with (folder / "log").open("a") as log:
                status = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
            print(f"{'done' if status == 0 else f'failed ({folder}/log)'}: {run.command()}", flush=True)
            self.failed += status != 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.language.runs", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"{', '.join(GROUPS)} (default: all but full)")
    parser.add_argument("--list", action="store_true", help="only say which are done")
    parser.add_argument("--side-by-side", type=count, default=2, metavar="N", help="runs at a time (default: 2)")
    parser.add_argument("--threads", type=count, default=1, metavar="N", help="of each run (default: 1)")
    parser.add_argument(
        "--precision",
        choices=("bf16", "fp32"),
        help="default: bf16 where the machine multiplies in it, else fp32",
    )
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of checkpoints and logs (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of results (default: beside this program)")
    parser.add_argument("--curves", type=Path, default=CURVES, help="file of curves (default: beside this program)")
    options = parser.parse_args()
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"there is no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    wanted = options.groups or [name for name in GROUPS if name != "full"]
    precision = {"precision": options.precision or native("auto")}
    runs = [run.model_copy(update=precision) for name in wanted for run in GROUPS[name]()]
    done = {command for entry in read_lines(options.results) for command in parse(entry["command"]).either()}
    if options.list:
        for run in runs:
            print("done" if run.command() in done else "    ", run.command())
        return 0
    queue = Queue([run for run in runs if run.command() not in done], options)
    workers = [threading.Thread(target=queue.work) for _ in range(options.side_by_side)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return 1 if queue.failed else 0


if __name__ == "__main__":
    sys.exit(main())
