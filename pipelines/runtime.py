"""Networks by ONNX Runtime on the CPU: the same numbers as torch's within 1e-4; the small backbone's in half the time, a CRT
step's in a quarter of it.

The networks are models/'s own, as graphs.py exports them, or the backbone's in integers (quantize.py); of torch nothing is needed
here. What lies between the small backbone's two is done on bytes: a picture is halved before its bytes become numbers, and of the large ones only
the window about the person ever does.
Shapes: N clips, T frames, H x W pixels, F feature width, S x S pixels of the closer look, B streams, L clips in a segment,
M memory width, C labels.
"""

import io
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

# ONNX Runtime's wheels send data of its use to their maker, unless told not to before they are loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx.utils import Extractor
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    NotImplemented,
)

from models.errors import BadCheckpoint
from models.spec import LEVELS, LOOK
from models.spec import SMALL as SPEC
from pipelines.frames import Pixels


class OnnxSmall:
    """Clips of T frames uint8[H, W, 3] to features float32[N, F], on so many threads, whoever calls and how many do.

    Each thread sees one clip at a time: that costs no more than many at once, and a clip's feature is the same to the bit
    whatever else is asked for.
    """

    def __init__(self, given: Mapping[str, bytes], *, threads: int) -> None:
        """given: look_over and look_closer, as graphs.of_backbone or quantize.quantize gives them. Raises BadCheckpoint."""
        self._look_over, self._look_closer = session(given["look_over"]), session(given["look_closer"])
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="backbone")
        self._cores = threading.BoundedSemaphore(threads)
        cv2.setNumThreads(1)  # on pictures as small as these, more cost more than they save

    def __call__(self, clips: Sequence[Sequence[Pixels]] | np.ndarray) -> np.ndarray:
        """As above."""
        each = map if len(clips) < 2 else self._pool.map
        found = each(self._feature, clips)
        return np.concatenate([np.empty((0, SPEC.feature_width), np.float32), *found])

    def _feature(self, frames: Sequence[Pixels]) -> np.ndarray:
        with self._cores:
            levels = halves(frames)
            square_13, whole_1W = self._look_over(planes(levels[1])[None])
            near_CSS = look(levels, square_13[0])
            (feature_1F,) = self._look_closer(near_CSS[None], square_13, whole_1W)
            return feature_1F


class OnnxClassifier:
    """A CRT step for any number of streams, on the thread that calls. Shapes as in graphs.Classify, L always the longest."""

    def __init__(self, graph: bytes) -> None:
        """graph: as graphs.classify gives it. Raises BadCheckpoint."""
        self.advance = session(graph)
        """Segments, memories and masks to scores, those of the clips, and the next memories."""
        self.scores = session(part(graph, ["scores"]))
        """The same to scores alone; without the next memory, which is the larger part of the work."""


def halves(frames: Sequence[Pixels]) -> list[Sequence[Pixels]]:
    """As models.small.halves, of bytes: T frames uint8[H, W, 3] at each size."""
    levels: list[Sequence[Pixels]] = [frames]
    for _ in range(LEVELS - 1):
        H, W, _ = levels[-1][0].shape
        half = np.empty((len(frames), H // 2, W // 2, 3), np.uint8)
        for one, smaller in zip(levels[-1], half, strict=True):
            cv2.resize(one, (W // 2, H // 2), dst=smaller, interpolation=cv2.INTER_AREA)
        levels.append(list(half))
    return levels


def shares(side: float) -> list[float]:
    """As models.small.shares, of one square."""
    level = min(max(np.log2(np.exp(side) * (SPEC.height / LOOK)), 0.0), LEVELS - 1.0)
    return [max(1 - abs(level - k), 0.0) for k in range(LEVELS)]


def look(levels: Sequence[Sequence[Pixels]], square_3: np.ndarray) -> np.ndarray:
    """As models.small.look, of one clip: float32[T x 3, S, S]."""
    x, y, side = square_3.astype(np.float64)
    half = np.exp(side) / 2
    x_S, y_S = x + half * SPEC.height / SPEC.width * _OFFSETS_S, y + half * _OFFSETS_S  # shares of the picture
    seen_TSS3 = np.zeros((SPEC.frames, LOOK, LOOK, 3), np.float32)
    for level, share in zip(levels, shares(side), strict=True):
        if share > 0:
            H, W, _ = level[0].shape
            columns_S, rows_S = x_S * W - 0.5, y_S * H - 0.5
            left, right = _about(columns_S, W)
            top, bottom = _about(rows_S, H)
            step = columns_S[1] - columns_S[0]
            to_window = np.array([[step, 0, columns_S[0] - left], [0, step, rows_S[0] - top]])
            for seen_SS3, frame in zip(seen_TSS3, level, strict=True):
                seen_SS3 += share * cv2.warpAffine(
                    frame[top:bottom, left:right].astype(np.float32), to_window, (LOOK, LOOK),
                    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE, hint=cv2.ALGO_HINT_ACCURATE,
                )  # fmt: skip
    inside_SS = (abs(2 * y_S - 1) <= 1)[:, None] & (abs(2 * x_S - 1) <= 1)
    return planes(seen_TSS3) * inside_SS


_OFFSETS_S = (np.arange(LOOK) * 2 + 1) / LOOK - 1


def _about(places_S: np.ndarray, size: int) -> tuple[int, int]:
    """The part of 0..size that holds the neighbours of all places; never empty, since beyond the edge the edge goes on."""
    first, last = np.floor(places_S[[0, -1]]).clip(0, size - 1).astype(int)
    return first, min(last + 2, size)


def planes(frames: Iterable[np.ndarray]) -> np.ndarray:
    """T pictures in 0..255 as the networks want them, see models.small.tone: float32[T x 3, H, W]."""
    planes_TCHW = np.stack(list(frames)).transpose(0, 3, 1, 2).astype(np.float32, order="C")
    planes_TCHW -= 255 * SPEC.mean[0]
    planes_TCHW *= 1 / (255 * SPEC.std[0])
    T, C, H, W = planes_TCHW.shape
    return planes_TCHW.reshape(T * C, H, W)


def part(graph: bytes, outputs: Sequence[str]) -> bytes:
    """What of a graph leads to some of its outputs."""
    model = onnx.load(io.BytesIO(graph))
    inputs = [one.name for one in model.graph.input]
    return Extractor(model).extract_model(inputs, list(outputs)).SerializeToString()


def session(graph: bytes) -> Callable[..., list[np.ndarray]]:
    """A graph as a function of its inputs, in their order; several threads may share it. Raises BadCheckpoint."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        running = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except (InvalidArgument, InvalidProtobuf, InvalidGraph, Fail, NotImplemented) as error:
        raise BadCheckpoint(f"ONNX Runtime cannot run a graph of the model: {error}") from error
    names = [one.name for one in running.get_inputs()]

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        return running.run(None, dict(zip(names, arrays, strict=True)))

    return run
