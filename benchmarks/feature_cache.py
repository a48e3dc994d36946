"""Features read from the cache, against the CRT's training on them: what is read must not be what is waited for.

Wall clock, one thread each: 400 videos of 40 clips by a backbone of 256 features, files as `python -m pipelines.features` leaves them
and the disk's cache warm; then updates of the default CRT (trimmed clips, 16 lanes) on what was read. The ratio is clips read a second
to clips trained on a second: over 1, reading keeps ahead.
"""

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Row
from pipelines.config import CrtTraining
from pipelines.features import FeatureCache, Seen
from pipelines.train_crt import Example, Unrolled, chunks, class_weights, classifier_for, totals

VIDEOS, CLIPS, WIDTH, CLASSES = 400, 40, 256, 10


def run(seconds: float = 6.0) -> Iterable[Row]:
    """seconds: of training that are counted, at least."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths = filled(Path(folder))
            read, data = reading(paths)
        trained = training(data, seconds)
    finally:
        torch.set_num_threads(before)
    yield Row(metric="clips trained on", value=trained, unit="1/s")
    yield Row(metric="clips read from the cache", value=read, unit="1/s", peer="training", ratio=read / trained)


def filled(folder: Path) -> list[Path]:
    """The files of all videos."""
    rng = np.random.default_rng(0)
    times_N2 = np.arange(CLIPS)[:, None] * 0.5 + (0.0, 0.5)
    paths = [folder / f"{number}.npz" for number in range(VIDEOS)]
    for path in paths:
        FeatureCache.store(path, Seen(rng.normal(size=(CLIPS, WIDTH)).astype(np.float16), times_N2))
    return paths


def reading(paths: list[Path]) -> tuple[float, list[Example]]:
    """Clips a second, and what was read."""
    started, data = time.perf_counter(), []
    for number, path in enumerate(paths):
        features_NF = FeatureCache.load_file(path).features_NF.astype(np.float32)
        data.append(Example(path.stem, features_NF, np.full(CLIPS, number % CLASSES), True))
    return VIDEOS * CLIPS / (time.perf_counter() - started), data


def training(data: list[Example], seconds: float) -> float:
    """Clips a second, by updates one after the other."""
    options = CrtTraining(lanes=16, unroll=8, sampling="balanced")
    torch.manual_seed(0)
    classifier = classifier_for(options, WIDTH, CLASSES).train()
    weights_C = class_weights(data, CLASSES, options.balance)
    unrolled = Unrolled(classifier, weights_C, options.label_smoothing)
    optimizer = torch.optim.AdamW(classifier.parameters())
    memory_BM = classifier.initial_memory(options.lanes).detach()
    clips, spent, epoch = 0, 0.0, 0
    while spent < seconds:
        for chunk in chunks(data, options, np.random.default_rng(epoch)):
            started = time.perf_counter()
            loss, memory_BM = unrolled(chunk, memory_BM.detach(), totals(chunk, weights_C))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            spent += time.perf_counter() - started
            clips += int(chunk.mask_SBL.sum())
            if spent >= seconds:
                break
        epoch += 1
    return clips / spent
