"""The small backbone by ONNX Runtime on the CPU: the same features as torch's within 1e-4, for half the time.

The networks are models/small.py's own, exported when a model is loaded. What lies between them is done here on bytes: a
picture is halved before its bytes become numbers, and of the large ones only the window about the person ever does.
Shapes: N clips, T frames, H x W pixels, F feature width, S x S pixels of the closer look.
"""

import tempfile
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from models.small import GLANCE, LEVELS, LOOK, SPEC, SmallBackbone, shares


class OnnxSmall:
    """Clips uint8[N, T, H, W, 3] to features float32[N, F], on so many threads, whoever calls and how many do.

    Each thread sees one clip at a time: that costs no more than many at once, and a clip's feature is the same to the bit
    whatever else is asked for.
    """

    def __init__(self, backbone: SmallBackbone, *, threads: int) -> None:
        C, height, width = 3 * SPEC.frames, SPEC.height // 2, SPEC.width // 2
        square, whole = torch.zeros(1, 3), torch.zeros(1, GLANCE[2] + 2 * GLANCE[3])
        self._look_over = _session(_LookOver(backbone), torch.zeros(1, C, height, width))
        self._look_closer = _session(_LookCloser(backbone), torch.zeros(1, C, LOOK, LOOK), square, whole)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="backbone")
        self._cores = threading.BoundedSemaphore(threads)
        cv2.setNumThreads(1)  # on pictures as small as these, more cost more than they save

    def __call__(self, clips_NTHWC: np.ndarray) -> np.ndarray:
        """As above. Raises ValueError for another shape."""
        if clips_NTHWC.shape[1:] != (SPEC.frames, SPEC.height, SPEC.width, 3) or clips_NTHWC.dtype != np.uint8:
            raise ValueError(
                f"small reads clips uint8[N, {SPEC.frames}, {SPEC.height}, {SPEC.width}, 3], "
                f"got {clips_NTHWC.dtype}{list(clips_NTHWC.shape)}"
            )
        each = map if len(clips_NTHWC) < 2 else self._pool.map
        found = each(self._feature, clips_NTHWC)
        return np.concatenate([np.empty((0, SPEC.feature_width), np.float32), *found])

    def _feature(self, clip_THWC: np.ndarray) -> np.ndarray:
        with self._cores:
            levels = halves(clip_THWC[None])
            square_N3, whole_NW = self._look_over(_planes(levels[1]))
            (feature_1F,) = self._look_closer(look(levels, square_N3), square_N3, whole_NW)
            return feature_1F


def halves(clips_NTHWC: np.ndarray) -> list[np.ndarray]:
    """As models.small.halves, of bytes: uint8[N, T, H, W, 3] at each size."""
    levels = [np.ascontiguousarray(clips_NTHWC)]
    for _ in range(LEVELS - 1):
        N, T, H, W, _ = levels[-1].shape
        # All frames as one high picture: with an even height no four pixels are of two frames.
        half = cv2.resize(levels[-1].reshape(N * T * H, W, 3), (W // 2, N * T * H // 2), interpolation=cv2.INTER_AREA)
        levels.append(half.reshape(N, T, H // 2, W // 2, 3))
    return levels


def look(levels: list[np.ndarray], square_N3: np.ndarray) -> np.ndarray:
    """As models.small.look: float32[N, T x 3, S, S]."""
    seen_NTSS3 = np.zeros((len(square_N3), SPEC.frames, LOOK, LOOK, 3), np.float32)
    inside_NSS = np.empty((len(square_N3), LOOK, LOOK), bool)
    shares_KN = [share_N.numpy() for share_N in shares(torch.from_numpy(square_N3))]
    for n, (x, y, side) in enumerate(square_N3.astype(np.float64)):
        half = np.exp(side) / 2
        x_S, y_S = x + half * SPEC.height / SPEC.width * _OFFSETS_S, y + half * _OFFSETS_S  # shares of the picture
        for level, share_N in zip(levels, shares_KN, strict=True):
            if share_N[n] > 0:
                columns_S, rows_S = x_S * level.shape[3] - 0.5, y_S * level.shape[2] - 0.5
                left, right = _about(columns_S, level.shape[3])
                top, bottom = _about(rows_S, level.shape[2])
                step = columns_S[1] - columns_S[0]
                to_window = np.array([[step, 0, columns_S[0] - left], [0, step, rows_S[0] - top]])
                for seen_SS3, frame in zip(seen_NTSS3[n], level[n, :, top:bottom, left:right], strict=True):
                    seen_SS3 += share_N[n] * cv2.warpAffine(
                        frame.astype(np.float32), to_window, (LOOK, LOOK), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                        borderMode=cv2.BORDER_REPLICATE, hint=cv2.ALGO_HINT_ACCURATE,
                    )  # fmt: skip
        inside_NSS[n] = (abs(2 * y_S - 1) <= 1)[:, None] & (abs(2 * x_S - 1) <= 1)
    return _planes(seen_NTSS3) * inside_NSS[:, None]


_OFFSETS_S = (np.arange(LOOK) * 2 + 1) / LOOK - 1


def _about(places_S: np.ndarray, size: int) -> tuple[int, int]:
    """The part of 0..size that holds the neighbours of all places; never empty, since beyond the edge the edge goes on."""
    first, last = np.floor(places_S[[0, -1]]).clip(0, size - 1).astype(int)
    return first, min(last + 2, size)


def _planes(clips_NTHWC: np.ndarray) -> np.ndarray:
    """Pictures in 0..255 as the networks want them, see models.small.tone: float32[N, T x 3, H, W]."""
    N, T, H, W, _ = clips_NTHWC.shape
    planes_NCHW = np.ascontiguousarray(clips_NTHWC.transpose(0, 1, 4, 2, 3)).reshape(N, 3 * T, H, W).astype(np.float32)
    planes_NCHW -= 255 * SPEC.mean[0]
    planes_NCHW *= 1 / (255 * SPEC.std[0])
    return planes_NCHW


class _LookOver(nn.Module):
    def __init__(self, backbone: SmallBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, half_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        glance = self.backbone.look_over(half_NCHW)
        return glance.found_B3, glance.whole_BW


class _LookCloser(nn.Module):
    def __init__(self, backbone: SmallBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, near_NCSS: Tensor, square_N3: Tensor, whole_NW: Tensor) -> Tensor:
        return self.backbone.look_closer(near_NCSS, square_N3, whole_NW)[0]


def _session(network: nn.Module, *example: Tensor) -> Callable[..., list[np.ndarray]]:
    """A network that takes and gives arrays of the example's shapes; several threads may share it."""
    names = [f"input{i}" for i in range(len(example))]
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file, warnings.catch_warnings():
        # The exporter through torch.export takes five times as long, at each start.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(network.eval(), example, file.name, dynamo=False, input_names=names, opset_version=18)
        exported = Path(file.name).read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        return session.run(None, dict(zip(names, arrays, strict=True)))

    return run
