"""Trains one language model and appends a line to results.jsonl: `python -m experiments.language.train --variant crt --segment 17 --seed 1`.

Stopped at any moment, the same command goes on from the last checkpoint, on a CPU to the very numbers. A run whose command is in
the results already is not made again. What was begun where a machine multiplies in bfloat16 goes on elsewhere with --precision bf16.
"""

import argparse
import ctypes
import fcntl
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from experiments.language.flops import by_hand
from experiments.language.networks import Network, lanes, make_corpus, make_network, perplexity, segments
from experiments.language.options import PROGRAM, Options, add_options, from_namespace
from experiments.language.text import Corpus
from models.vocabulary import IGNORE
from pipelines.command import count, run
from pipelines.device import bfloat16, pick

# Shapes: B streams, T words in an update, L in a segment.

log = logging.getLogger(__name__)
RESULTS = Path(__file__).with_name("results.jsonl")
CURVES = Path(__file__).with_name("curves.jsonl")
RUNS = Path("runs/language")


def updates_in_epoch(o: Options, text: np.ndarray) -> int:
    """The same in every epoch, wherever it begins. At least one."""
    size = o.span * o.segment
    return max(1, ((len(text) - size - 1) // o.streams) // size)


def epoch_of(o: Options, corpus: Corpus, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The updates' inputs and targets int64[B, T]. Each epoch begins at another word, so that segments are cut elsewhere."""
    size = o.span * o.segment
    first = int(np.random.default_rng([o.seed, epoch]).integers(size))
    inputs_BN, targets_BN = lanes(corpus.train[first:], o.streams, corpus.scored)
    for number in range(updates_in_epoch(o, corpus.train)):
        part = slice(number * size, (number + 1) * size)
        yield inputs_BN[:, part], targets_BN[:, part]


def read_span(
    network: Network, o: Options, words_BT: Tensor, targets_BT: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The sum of -ln p over an update's words, and the state after it. Scores of all its segments are made at once."""
    if o.variant == "transformer":  # nothing passes from one segment to the next: they are rows of a batch
        folded = words_BT.reshape(-1, min(o.segment, words_BT.shape[1]))
        outputs, _ = network(folded, network.initial_state(len(folded)))
        return network.vocabulary.loss(outputs.flatten(0, 1), targets_BT.flatten()), state
    outputs_of = []
    for number, (words_BL, _) in enumerate(segments(words_BT, targets_BT, o.segment)):
        if o.gradient is not None and number % o.gradient == 0:
            state = state.detach()
        outputs_BLD, state = network(words_BL, state)
        outputs_of.append(outputs_BLD)
    return network.vocabulary.loss(torch.cat(outputs_of, 1).flatten(0, 1), targets_BT.flatten()), state


def rate(o: Options, update: int, updates: int) -> float:
    """The learning rate: a linear warm-up, then a cosine to a hundredth."""
    if update < o.warmup:
        return o.learning_rate * (update + 1) / o.warmup
    done = (update - o.warmup) / max(1, updates - o.warmup)
    return o.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


class Training:
    """A run, from its first update or from its checkpoint."""

    def __init__(self, o: Options, corpus: Corpus, folder: Path) -> None:
        self.o, self.corpus, self.folder = o, corpus, folder
        self.device = pick(o.device)
        torch.manual_seed(o.seed)
        self.network = make_network(o, len(corpus.words)).to(self.device)
        matrices = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": o.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=o.learning_rate, betas=(0.9, 0.98), fused=True)
        self.per_epoch = updates_in_epoch(o, corpus.train)
        self.update = 0
        # Others may share a CPU, and pause what runs in the background: there it is processor time that tells the effort.
        self.clock = time.perf_counter if self.device == "cuda" else time.process_time
        self.seconds = 0.0
        """Spent in training and validation; on a CPU processor time, of all threads."""
        # As drawn: a stream begins once an epoch, too seldom for a first memory to be learned.
        self.state = self.network.initial_state(o.streams).detach()
        self.total, self.scored = 0.0, 0
        """-ln p and words of this epoch so far."""
        self.curve: list[dict[str, float]] = []
        """An entry an epoch."""
        self.best: dict[str, Any] | None = None
        """The weights of the epoch that was best in validation."""
        if self.file.exists():
            self._resume()

    @property
    def file(self) -> Path:
        return self.folder / "training.pt"

    def save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(".part")
        torch.save(
            {
                "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "update": self.update,
                "seconds": self.seconds, "state": self.state, "total": self.total, "scored": self.scored,
                "curve": self.curve, "best": self.best, "random": torch.get_rng_state(),
            },
            part,
        )  # fmt: skip
        os.replace(part, self.file)
        self.network.train()  # an NC-GRU carries what is not stored: it begins anew here, as it will after resuming

    def _resume(self) -> None:
        kept = torch.load(self.file, weights_only=True, map_location=self.device)
        self.network.load_state_dict(kept["network"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.update, self.seconds, self.state = kept["update"], kept["seconds"], kept["state"]
        self.total, self.scored, self.curve, self.best = kept["total"], kept["scored"], kept["curve"], kept["best"]
        torch.set_rng_state(kept["random"].cpu())
        log.info("goes on at update %d of %d", self.update, self.o.epochs * self.per_epoch)

    def step(self, words_BT: Tensor, targets_BT: Tensor) -> float:
        """One update; returns the mean -ln p of its words."""
        o = self.o
        words_BT, targets_BT = words_BT.to(self.device), targets_BT.to(self.device)
        count = int((targets_BT != IGNORE).sum())
        for group in self.optimizer.param_groups:
            group["lr"] = rate(o, self.update, o.epochs * self.per_epoch)
        with torch.autocast(self.device, torch.bfloat16, enabled=o.precision == "bf16"):
            loss, state = read_span(self.network, o, words_BT, targets_BT, self.state)
        self.optimizer.zero_grad(set_to_none=True)
        (loss / max(1, count)).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), o.clip)
        self.optimizer.step()
        self.state = state.detach()
        self.total, self.scored = self.total + loss.item(), self.scored + count
        self.update += 1
        return loss.item() / max(1, count)

    def run(self, *, save_every: int, stop_after: int | None = None) -> bool:
        """Trains to the end, or for so many updates. True at the end."""
        o = self.o
        done_here = 0
        bar = tqdm(total=o.epochs * self.per_epoch, initial=self.update, unit="update", desc=f"{o.variant} {o.segment}")
        self.network.train()
        for epoch in range(self.update // self.per_epoch, o.epochs):
            if self.update % self.per_epoch == 0:
                self.state = self.network.initial_state(o.streams).detach()
                self.total, self.scored = 0.0, 0
            for number, (words_BT, targets_BT) in enumerate(epoch_of(o, self.corpus, epoch)):
                if number < self.update - epoch * self.per_epoch:
                    continue
                began = self.clock()
                loss = self.step(words_BT, targets_BT)
                self.seconds += self.clock() - began
                bar.update()
                done_here += 1
                if self.update % 50 == 0:
                    bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                if self.update % self.per_epoch == 0:
                    self._end_epoch(epoch)
                if self.update % save_every == 0 or self.update % self.per_epoch == 0:
                    self.save()
                if stop_after is not None and done_here >= stop_after and self.update < o.epochs * self.per_epoch:
                    self.save()
                    log.info("stopped after %d updates, %.3f s each", done_here, self.seconds / self.update)
                    return False
        bar.close()
        return True

    def _end_epoch(self, epoch: int) -> None:
        began = self.clock()
        found = perplexity(self.network, self.corpus.valid, self.o, self.corpus.scored, streams=16)
        self.seconds += self.clock() - began
        reached = math.exp(min(50.0, self.total / max(1, self.scored)))
        if self.best is None or found <= min(entry["valid_ppl"] for entry in self.curve):
            self.best = {name: value.clone() for name, value in self.network.state_dict().items()}
        entry = {"epoch": epoch + 1, "train_ppl": round(reached, 3), "valid_ppl": round(found, 3)}
        self.curve.append({**entry, "seconds": round(self.seconds, 1)})
        log.info("%s", json.dumps(self.curve[-1]))

    def result(self) -> dict[str, Any]:
        """The line for results.jsonl, of the best epoch's weights; each text read as one stream."""
        o = self.o
        assert self.best is not None
        self.network.load_state_dict(self.best)
        with_memory = o.variant == "crt"
        found = {
            part: perplexity(self.network, getattr(self.corpus, part), o, self.corpus.scored)
            for part in ("valid", "test")
        }
        return {
            "variant": o.variant,
            "read": o.read if with_memory else "none",
            "write": o.write if with_memory else "none",
            "layers": o.layers,
            "d_model": o.d_model,
            "segment": o.segment,
            "seed": o.seed,
            "params": sum(p.numel() for p in self.network.parameters() if p.requires_grad),
            "epochs": o.epochs,
            "device": device_name(self.device),
            "train_seconds": round(self.seconds, 1),
            "valid_ppl": round(found["valid"], 3),
            "test_ppl": round(found["test"], 3),
            "flops_per_token": round(by_hand(o, len(self.corpus.words)).total),
            "command": o.command(),
        }  # fmt: skip


def device_name(device: str) -> str:
    """The device, and of a CPU how many threads worked."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    names = [
        line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{names[0] if names else 'CPU'}, {torch.get_num_threads()} threads"


def native(device: Literal["auto", "cpu", "cuda"]) -> Literal["bf16", "fp32"]:
    """The faster precision there. A CPU that does not multiply in bfloat16 imitates it: an update takes some fifteen times as long."""
    return "bf16" if bfloat16(pick(device)) else "fp32"


def append(file: Path, entry: dict[str, Any]) -> None:
    """One line, whole, whoever else writes at the same time."""
    with file.open("a") as lines:
        fcntl.flock(lines, fcntl.LOCK_EX)
        lines.write(json.dumps(entry) + "\n")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The entries of such a file; none where it is absent."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def keep_freed_memory() -> None:
    """Lets glibc keep what a step frees for the next one. Handing 40 MB back and faulting them in again costs more than the work on them: a
    product with the whole softmax took 37 ms here, and 11 ms so.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            trim, mmap = -1, -3
            library.mallopt(mmap, 1 << 30)
            library.mallopt(trim, (1 << 31) - 1)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--threads", type=count, metavar="N", help="of a CPU (default: as torch sees fit)")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of checkpoints (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of results (default: beside this program)")
    parser.add_argument(
        "--curves", type=Path, default=CURVES, help="file of the epochs' perplexities (default: beside this program)"
    )
    parser.add_argument("--save-every", type=count, default=200, metavar="N", help="updates (default: %(default)s)")
    parser.add_argument("--stop-after", type=count, metavar="N", help="updates in this call; the same command goes on")
    given = parser.parse_args(arguments)
    o = from_namespace(given)
    same = (o.command(),) if given.precision else o.either()
    if not given.precision:
        o = o.model_copy(update={"precision": native(o.device)})
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if any(entry["command"] in same for entry in read_lines(given.results)):
        log.info("done already: %s", o.command())
        return
    if given.threads:
        torch.set_num_threads(given.threads)
    keep_freed_memory()
    corpus = make_corpus(o, given.runs / "texts")
    training = Training(o, corpus, given.runs / o.name())
    log.info("%s", o.command())
    if training.run(save_every=given.save_every, stop_after=given.stop_after):
        result = training.result()
        append(given.curves, {"command": o.command(), "curve": training.curve})
        append(given.results, result)
        log.info("%s", json.dumps(result))


if __name__ == "__main__":
    run(main)
