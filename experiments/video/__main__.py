"""`python -m experiments.video run|cost|show`: which memory, how wide, read how, against which other ways to know the past.

run [--task TASK] [--question QUESTION] [--seed SEED]    trains what is not in the results yet, a line each; stop it at any moment, and it goes on
cost    seconds and bytes of each network at work, one thread
show    draws the figure and writes the table, from the results alone
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from experiments.video import show, train, trials
from experiments.video.data import TASKS
from experiments.video.pasts import Attending, Recurrent
from pipelines import command
from pipelines.train_crt import Chunk

RESULTS = Path(__file__).parent / "results"
ROUNDS, REPEATS = 6, 25
"""Each network is timed in every round, so that what slows a machine for a while falls on all of them."""


def run(tasks: Sequence[str], questions: Sequence[str], seeds: Sequence[int]) -> None:
    """Trains and appends to results/TASK.jsonl, a file for each task, so that several processes may work on one each."""
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    done = {(one["task"], one["variant"], one["seed"]) for one in show.read(RESULTS)}
    due = [
        (seed, task, variant)
        for seed, task, variant in trials.trials()
        if task in tasks and variant.question in questions and seed in seeds and (task, variant.name, seed) not in done
    ]
    loaded = {task: TASKS[task]() for task in sorted({task for _, task, _ in due})}
    for seed, task, variant in (bar := tqdm(due, unit="training")):
        bar.set_postfix_str(f"{task}, {variant.name}, seed {seed}")
        line = json.dumps(train.run(loaded[task], task, variant, seed))
        with (RESULTS / f"{task}.jsonl").open("a") as file:
            file.write(line + "\n")


def cost() -> list[dict[str, Any]]:
    """Of each variant at HomeSim's sizes: milliseconds for a segment of one stream, by the median, and bytes of state."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    timed: list[tuple[Any, torch.Tensor, int]] = []
    for variant in trials.VARIANTS:
        torch.manual_seed(0)
        network = trials.build("homesim", variant, 256, 18).eval()
        o = trials.options_of("homesim", variant)
        ages = {"any": None} if variant.past != "whole" else {"1 minute": 120, "10 minutes": 1_200, "1 hour": 7_200}
        for age, clips in ages.items():
            state = network.initial_state(1, clips) if isinstance(network, Attending) else network.initial_state(1)
            if isinstance(network, Attending):
                state = torch.randn_like(state)
                state[:, -(clips or network.kept) :] = 1.0
            elif isinstance(network, Recurrent):
                state = torch.randn_like(state) * 0.1
            timed.append((network, state, o.segment))
            rows.append(
                {
                    "variant": variant.name,
                    "age": age,
                    "parameters": trials.count(network),
                    "clips": o.segment,
                    # Whether a clip is kept needs no number where all are.
                    "state_bytes": 0 if variant.name == "none" else 4 * state.shape[1] - 4 * _flags(network, clips),
                }
            )
    taken: list[list[float]] = [[] for _ in timed]
    for _ in tqdm(range(ROUNDS), unit="round"):
        for seconds, one in zip(taken, timed, strict=True):
            seconds += _seconds(*one)
    return [
        row | {"milliseconds": round(statistics.median(seconds) * 1000, 3)}
        for row, seconds in zip(rows, taken, strict=True)
    ]


def _flags(network: Any, clips: int | None) -> int:
    return (clips or network.kept) if isinstance(network, Attending) else 0


@torch.inference_mode()
def _seconds(network: Any, state: torch.Tensor, segment: int) -> list[float]:
    ones = torch.ones(1, 1, segment, dtype=torch.bool)
    ignored = torch.zeros(1, 1, segment, dtype=torch.long)
    fresh = torch.zeros(1, 1, dtype=torch.bool)
    chunk = Chunk(torch.randn(1, 1, segment, 256), ones, ignored, fresh, ignored, torch.ones(1, 1))
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        network.unroll(chunk, state)
        taken.append(time.perf_counter() - started)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.video", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="train and measure")
    runner.add_argument("--task", choices=tuple(TASKS), action="append", help="only this one; may be given again")
    runner.add_argument("--question", choices=tuple(show.QUESTIONS), action="append", help="only this one's variants")
    runner.add_argument("--seed", type=int, choices=trials.SEEDS, action="append", help="only this one")
    commands.add_parser("cost", help="time and state")
    commands.add_parser("show", help="figure and table")
    args = parser.parse_args()
    if args.command == "run":
        run(args.task or list(TASKS), args.question or list(show.QUESTIONS), args.seed or trials.SEEDS)
    elif args.command == "cost":
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "cost.json").write_text(json.dumps(cost(), indent=1) + "\n")
        print(RESULTS / "cost.json")
    else:
        for path in show.show(RESULTS, Path(__file__).parent):
            print(path)


if __name__ == "__main__":
    command.run(main)
