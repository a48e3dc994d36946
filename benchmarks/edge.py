"""What the whole recognizer takes on a small device: one thread, a segment of frames in, its labels and the next memory out.

Each way runs in a process of its own that loads nothing else: PyTorch with the checkpoint; ONNX Runtime with the one file that
`python -m pipelines.export` writes, in float32 and with the backbone's convolutions in 8 bits; and the recognizer as the service
runs it. Peak memory is that of the process, with the interpreter and all libraries.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from benchmarks.harness import FOLDER, Row, note

MODEL, VIDEO = FOLDER.parent / "models" / "bundled", FOLDER.parent / "examples" / "kitchen.mp4"
WAYS = {
    "torch": "PyTorch, float32",
    "onnx": "ONNX Runtime, float32",
    "int8": "ONNX Runtime, 8 bits",
    "served": "as the service runs it",
}
_FILES = {"onnx": "recognizer.onnx", "int8": "recognizer.int8.onnx"}
ROUNDS = 5
"""In which the ways take turns."""


def run(seconds: float = 3.0) -> Iterable[Row]:
    """seconds: of each way in each round."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pipelines.export", MODEL, "--output", folder, "--integers", VIDEO]
        subprocess.run(list(map(str, command)), cwd=FOLDER.parent, check=True, stdout=subprocess.DEVNULL)
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for turn in range(ROUNDS):
            for way in WAYS:
                found[way].append(_measured(way, folder, seconds))
                note(f"  round {turn + 1}, {WAYS[way]}: {found[way][-1]['ms']:.1f} ms a segment")
        ms = {way: statistics.median(one["ms"] for one in rounds) for way, rounds in found.items()}
        for way, name in WAYS.items():
            peer, ratio = (None, None) if way == "torch" else (WAYS["torch"], ms[way] / ms["torch"])
            yield Row(metric=f"latency of a segment, {name}", value=ms[way], unit="ms", peer=peer, ratio=ratio)
        for way, name in WAYS.items():
            peak = statistics.median(one["peak"] for one in found[way])
            yield Row(metric=f"peak memory, {name}", value=peak, unit="MB")
        for way, name in WAYS.items():
            yield Row(metric=f"files, {name}", value=_bytes(way, Path(folder)) / 1e6, unit="MB")
        yield Row(metric="a stream's state", value=found["torch"][0]["state"], unit="bytes")


def _measured(way: str, folder: str, seconds: float) -> dict[str, float]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.edge", way, folder, str(seconds)]
    done = subprocess.run(command, cwd=FOLDER.parent, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _bytes(way: str, folder: Path) -> int:
    if way in _FILES:
        return (folder / _FILES[way]).stat().st_size
    served = [path for path in MODEL.iterdir() if path.suffix in (".onnx", ".safetensors")]
    return sum(path.stat().st_size for path in served if way == "served" or path.suffix == ".safetensors")


# In such a process


def _segments() -> np.ndarray:
    """Some of the example's, uint8[S, L, T, H, W, 3]; made anew from pictures alone, since decoders take memory, too."""
    import cv2

    rng, L, T, H, W = np.random.default_rng(0), 4, 4, 240, 320
    rough = rng.integers(0, 256, (6 * L * T, 12, 16, 3), dtype=np.uint8)
    return np.stack([cv2.resize(one, (W, H)) for one in rough]).reshape(6, L, T, H, W, 3)


def _torch() -> Callable[[np.ndarray], int]:
    import torch

    from models import checkpoint

    torch.set_num_threads(1)
    model = checkpoint.load(MODEL)
    memory = model.classifier.initial_memory(1)

    @torch.inference_mode()
    def step(clips: np.ndarray) -> int:
        nonlocal memory
        out = model.classifier(model.backbone(torch.from_numpy(clips))[None], memory)
        memory = out.memory_BM
        return memory.numpy().nbytes

    return step


def _onnx(file: Path) -> Callable[[np.ndarray], int]:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before it is loaded
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    memory = np.array([json.loads(file.with_name("signature.json").read_text())["first_memory"]], np.float32)
    mask = np.ones((1, session.get_inputs()[0].shape[1]), bool)

    def step(clips: np.ndarray) -> int:
        nonlocal memory
        _, _, memory = session.run(None, {"clips": clips[None], "memory": memory, "mask": mask})
        return int(memory.nbytes)

    return step


def _served() -> Callable[[np.ndarray], int]:
    from models import checkpoint
    from pipelines.recognizer import Recognizer

    recognizer = Recognizer(checkpoint.read(MODEL), threads=1)
    memory = recognizer.initial_memory()[None]
    mask = np.ones((1, recognizer.segment), bool)

    def step(clips: np.ndarray) -> int:
        nonlocal memory
        memory = recognizer.advance(recognizer.features(clips)[None], memory, mask).memory_BM
        return int(memory.nbytes)

    return step


def main() -> None:
    way, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    step = _torch() if way == "torch" else _served() if way == "served" else _onnx(folder / _FILES[way])
    segments = _segments()
    taken: list[float] = []
    step(segments[0])
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(taken) < 5:
        began = time.perf_counter()
        state = step(segments[len(taken) % len(segments)])
        taken.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(json.dumps({"ms": statistics.median(taken) * 1e3, "peak": peak, "state": state}))


if __name__ == "__main__":
    main()
