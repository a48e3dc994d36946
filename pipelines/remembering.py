"""What the memory did for a segment: how much its prediction read from it, what it would have been without, how much was written.

For those who ask: it costs about as much as another prediction, changes none, and until someone asks nothing is loaded for it.

How much was read is in the checkpoint's own graph. In cross-attention each token divides its attention between the memory and the null key
(models/reading.py), with `prepend` between the memory and the other tokens: the softmax that does so becomes an output of a copy of the
graph in memory. The files stay as they are, and so does the model's digest.
Shapes: B streams, L clips in a segment, N heads, S keys, F feature width, M memory width, C labels.
"""

import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from models.config import ReaderName
from pipelines.runtime import part, session

_PLACES: dict[ReaderName, str] = {"cross_attention": "/glances.", "prepend": "/attention"}
"""In the names of the nodes that divide the attention; `add` divides none. In both the memory is the first key."""


@dataclass(frozen=True, slots=True, eq=False)
class MemoryUse:
    """What the memory did for one segment."""

    vector_M: np.ndarray
    """float32[M]: the memory that the segment wrote."""
    change: float
    """Root mean square of what that changed in each number; a GRU's lie between -1 and 1."""
    read: float | None
    """Share of attention that the segment's clips gave to the memory they found, 0 to 1; None where the reader divides none."""
    without_C: np.ndarray
    """float32[C]: the prediction with the memory of a stream that begins here."""


class Reads:
    """Segments, memories and masks to the share of attention that each segment gave to its memory, float32[B].

    Threads may share one. The session is made at the first call.
    """

    def __init__(self, graph: bytes, reader: ReaderName) -> None:
        """graph: graphs.classify's. Raises ValueError where it does not say what is read."""
        self._graph = _with_shares(graph, _PLACES.get(reader))
        self._run: Callable[..., list[np.ndarray]] | None = None
        self._making = threading.Lock()

    def __call__(self, features_BLF: np.ndarray, memory_BM: np.ndarray, mask_BL: np.ndarray) -> np.ndarray:
        with self._making:
            if self._run is None:
                self._run = session(self._graph)
        shares_BNLS = self._run(features_BLF, memory_BM, mask_BL)
        # Of each clip, over layers and heads; then over the clips that are there.
        read_BL = np.mean([one[..., 0].mean(axis=1) for one in shares_BNLS], axis=0)
        return (read_BL * mask_BL).sum(axis=1) / mask_BL.sum(axis=1).clip(min=1)


def _with_shares(graph: bytes, place: str | None) -> bytes:
    model = onnx.load(io.BytesIO(graph))
    names = [
        node.output[0] for node in model.graph.node if node.op_type == "Softmax" and place and place in node.name
    ]  # fmt: skip
    if not names:
        raise ValueError("the graph has no attention that is divided between the memory and something else")
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return part(model.SerializeToString(), names)


def change(before_M: np.ndarray, after_M: np.ndarray) -> float:
    """As MemoryUse.change."""
    return float(np.sqrt(np.mean((after_M - before_M) ** 2))) if len(after_M) else 0.0


def describe_memory(use: MemoryUse, labels: tuple[str, ...]) -> dict[str, Any]:
    """As JSON values."""
    best = int(use.without_C.argmax())
    return {
        "vector": [round(float(number), 3) for number in use.vector_M],
        "change": round(use.change, 6),
        "read": None if use.read is None else round(use.read, 6),
        "without": {"label": labels[best], "score": round(float(use.without_C[best]), 6)},
    }
