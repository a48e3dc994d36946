"""For Triton's python backend: memories by the sequence batcher's correlation id."""

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path[1:1] = os.environ["PYTHONPATH"].split(os.pathsep)  # which Triton's interpreter leaves out

import numpy as np  # noqa: E402
import triton_python_backend_utils as pb  # noqa: E402 - which Triton has

from benchmarks.peers.step import first_memory, make  # noqa: E402


class TritonPythonModel:
    """Triton's own name for it."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters: dict[str, Any] = json.loads(args["model_config"])["parameters"]
        model = Path(parameters["model"]["string_value"])
        self._step = make(model, os.environ["PEER_RUNTIME"])
        self._first = first_memory(model)
        self._memories: dict[int, np.ndarray] = {}

    def execute(self, requests: list[Any]) -> list[Any]:
        def given(request: Any, name: str) -> np.ndarray:
            array: np.ndarray = pb.get_input_tensor_by_name(request, name).as_numpy()
            return array

        ids = [int(given(one, "CORRID").ravel()[0]) for one in requests]
        starts = [bool(given(one, "START").ravel()[0]) for one in requests]
        memory = np.stack([self._first if new else self._memories[id] for id, new in zip(ids, starts, strict=True)])
        features = np.concatenate([given(one, "features") for one in requests])
        scores, memory = self._step(features, memory, np.ones(features.shape[:2], bool))
        self._memories.update(zip(ids, memory, strict=True))
        return [pb.InferenceResponse([pb.Tensor("scores", one[None].copy())]) for one in scores]
