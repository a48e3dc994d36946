"""One segment through the CRT (d 512, 2 layers, segment 16), by writer, against the plain Transformer.

Evaluation on one thread; ncgru folded. The ratio is to the writer `none`, which neither reads nor writes a memory, and
for ncgru also to gru. The last row is what ncgru costs more in training, once per optimizer step: bringing the inverse up
to date by the series, against solving anew.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch

from benchmarks.harness import Row
from benchmarks.timing import cpu_ms
from models.config import CrtConfig
from models.crt import CompactRecurrentTransformer
from models.ncgru import OrthogonalMatrix

BATCHES = (1, 8, 32)
WRITERS = ("none", "gru", "ncgru")
SHAPE = CrtConfig(width=512, memory=512, layers=2, heads=8, hidden=2048, segment=16, reader="prepend", dropout=0.0)


def run(seconds: float = 6.0) -> Iterable[Row]:
    """seconds: for each group of rows."""
    torch.manual_seed(0)
    crts = {
        writer: CompactRecurrentTransformer(SHAPE.model_copy(update={"writer": writer})).eval() for writer in WRITERS
    }
    for batch in BATCHES:
        yield from steps(crts, batch, seconds)
    yield from updates(seconds)


def steps(crts: dict[str, CompactRecurrentTransformer], batch: int, seconds: float) -> Iterator[Row]:
    """One step of each writer on a full segment of so many streams."""
    segment, mask = torch.randn(batch, SHAPE.segment, SHAPE.width), torch.ones(batch, SHAPE.segment, dtype=torch.bool)
    work: dict[str, Callable[[], object]] = {
        writer: partial(crt, segment, crt.initial_memory(batch).detach(), mask) for writer, crt in crts.items()
    }
    times = cpu_ms(work, seconds=seconds)
    for writer in WRITERS:
        peer = None if writer == "none" else "none"
        ratio = None if writer == "none" else times[writer] / times["none"]
        yield Row(metric=f"step, batch {batch}, {writer}", value=times[writer], unit="ms", peer=peer, ratio=ratio)
    yield Row(
        metric=f"step, batch {batch}, ncgru folded",
        value=times["ncgru"],
        unit="ms",
        peer="gru",
        ratio=times["ncgru"] / times["gru"],
    )


def updates(seconds: float) -> Iterator[Row]:
    """Following A by the series and by solving, after steps of the size that Adam makes."""
    series, solve = (
        OrthogonalMatrix(SHAPE.memory, negatives=SHAPE.memory // 2, refresh_every=10**9).train() for _ in range(2)
    )
    step = torch.randn(SHAPE.memory, SHAPE.memory) * 1e-4

    def move_and(update: Callable[[], object], matrix: OrthogonalMatrix) -> None:
        matrix.skew_MM.add_(step)
        update()

    times = cpu_ms(
        {"series": partial(move_and, series.update, series), "solve": partial(move_and, solve.solve, solve)},
        seconds=seconds,
    )
    yield Row(
        metric=f"ncgru's inverse after an optimizer step, memory {SHAPE.memory}",
        value=times["series"],
        unit="ms",
        peer="solving anew",
        ratio=times["series"] / times["solve"],
    )
