"""What a word costs: operations, time, memory and state of each network over segment lengths: `python -m experiments.language.cost`.

Writes cost.json. Time is that of one stream, segment by segment, on one thread in float32, the softmax over all words included and the
state carried along, the fastest of several passes, all networks in turns, freed memory kept as in training; memory is the process's peak
beyond what it held between passes, in evaluation and in an update of training in float32, each in a process of its own.
"""

import argparse
import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm, trange

from experiments.language.flops import by_counter, by_hand
from experiments.language.networks import Network, full_state, make_network
from experiments.language.options import Options
from experiments.language.runs import SPANS, at
from experiments.language.train import device_name, keep_freed_memory, read_span
from pipelines.command import count

COSTS = Path(__file__).with_name("cost.json")
WORDS = 10_000
TOKENS = 280
"""At most, of a pass: as many whole segments as are in it."""


def kinds(**size: object) -> list[Options]:
    """Those compared, at every length."""
    networks: list[dict[str, object]] = [{"variant": "transformer"}, {"variant": "xl"}, {"memory": 64}, {"memory": 256}]
    return [at(segment, **network, **size) for network in networks for segment in SPANS]


class Reading:
    """A network on its way through a text, in evaluation."""

    def __init__(self, o: Options) -> None:
        torch.manual_seed(0)
        self.network = make_network(o, WORDS).eval().requires_grad_(False)
        self.parts = torch.randint(WORDS, (1, TOKENS // o.segment * o.segment)).split(o.segment, dim=1)
        self.state = full_state(o, self.network, 1)

    @torch.inference_mode()
    def seconds_per_token(self) -> float:
        """Of one pass."""
        began = time.perf_counter()
        for part in self.parts:
            outputs_BLD, self.state = self.network(part, self.state)
            self.network.vocabulary.log_probabilities(outputs_BLD[0])
        return (time.perf_counter() - began) / sum(part.shape[1] for part in self.parts)


def state_bytes(o: Options) -> int:
    """Between two segments, of one stream, when a cache is full."""
    if o.variant == "transformer":
        return 0
    return 4 * (o.memory if o.variant == "crt" else o.layers * o.remembered * o.d_model)


def peak(o: Options, training: bool) -> int:
    """Bytes, in this process: to be called once in one. Linux only."""
    network = make_network(o, WORDS).train(training)
    words = torch.randint(WORDS, (o.streams if training else 1, o.span * o.segment))
    state = full_state(o, network, len(words))
    for parameter in network.parameters():
        if training:  # gradients belong to what a network holds
            parameter.grad = torch.zeros_like(parameter)
    one_pass(network, o, words[:1], full_state(o, network, 1), training)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins here
    before = resident("VmRSS")
    one_pass(network, o, words, state, training)
    return resident("VmHWM") - before


def one_pass(network: Network, o: Options, words: torch.Tensor, state: torch.Tensor, training: bool) -> None:
    """An update's words, with gradients in training."""
    with torch.set_grad_enabled(training):
        if training:
            loss, _ = read_span(network, o, words, words, state)
            loss.backward()
            return
        for part in words.split(o.segment, dim=1):
            outputs_BLD, state = network(part, state)
            network.vocabulary.log_probabilities(outputs_BLD[0])


def resident(field: str) -> int:
    """A figure of /proc/self/status, in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return 1024 * int(line.split()[1])


def peak_elsewhere(o: Options, training: bool) -> int:
    """The same, in a fresh process."""
    program = "import sys; from experiments.language import cost; cost.tell(*sys.argv[1:])"
    command = [sys.executable, "-c", program, o.model_dump_json(), str(int(training))]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def tell(options: str, training: str) -> None:
    """For peak_elsewhere."""
    torch.set_num_threads(1)
    print(peak(Options.model_validate_json(options), training == "1"))


def measure(o: Options, seconds: float) -> dict[str, Any]:
    """A line of the table; seconds: of a token."""
    cost = by_hand(o, WORDS)
    return {
        "variant": o.variant,
        "memory": o.memory if o.variant == "crt" else None,
        "segment": o.segment,
        "layers": o.layers,
        "d_model": o.d_model,
        "flops": round(cost.total),
        "flops_without_softmax": round(cost.total - cost.softmax),
        "flops_counted": round(by_counter(o, WORDS)),
        "microseconds": round(1e6 * seconds, 1),
        "peak_bytes": peak_elsewhere(o, training=False),
        "training_peak_bytes": peak_elsewhere(o, training=True),
        "state_bytes": state_bytes(o),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.language.cost", description=__doc__)
    parser.add_argument("--passes", type=count, default=40, help="of which the fastest counts (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=COSTS, help="file (default: beside this program)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    readings = [Reading(o) for o in kinds()]
    passes = [[one.seconds_per_token() for one in readings] for _ in trange(options.passes + 1, unit="pass")]
    fastest = map(min, zip(*passes[1:], strict=True))  # the first warms up
    rows = [measure(*one) for one in tqdm(list(zip(kinds(), fastest, strict=True)), unit="network")]
    report = {"device": device_name("cpu"), "torch": torch.__version__, "words": WORDS, "rows": rows}
    options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
