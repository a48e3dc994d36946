"""The step itself, on one thread, as torch or ONNX Runtime runs it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

Step = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""features float32[B, L, F], memory float32[B, M], mask bool[B, L] to scores float32[B, C] and the next memory."""


def first_memory(model: Path) -> np.ndarray:
    """float32[M]."""
    from models import checkpoint

    return checkpoint.read(model).first_memory_M


def make(model: Path, runtime: str) -> Step:
    """runtime: torch or onnx."""
    from models import checkpoint

    read = checkpoint.read(model)
    if runtime == "onnx":
        from pipelines.onnx_weights import fill
        from pipelines.runtime import OnnxClassifier

        fast = OnnxClassifier(fill(read.graphs["classify"], read.weights))

        def by_onnx(features: np.ndarray, memory: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            scores, _, memory = fast.advance(features, memory, mask)
            return scores, memory

        return by_onnx
    import torch

    torch.set_num_threads(1)
    classifier = read.classifier

    @torch.inference_mode()
    def by_torch(features: np.ndarray, memory: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out = classifier(*map(torch.from_numpy, (features, memory, mask)))
        return out.logits_BC.softmax(-1).numpy(), out.memory_BM.numpy()

    return by_torch
