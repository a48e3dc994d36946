"""LitServe, memories in a dict of its one worker: python benchmarks/peers/litserve_server.py MODEL PORT RUNTIME MOST."""

import base64
import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np

from benchmarks.peers.step import first_memory, make


class Api(litserve.LitAPI):
    """Batched, as many as wait."""

    def setup(self, device: str) -> None:
        self._step, self._first = make(MODEL, RUNTIME), first_memory(MODEL)
        self._memories: dict[int, np.ndarray] = {}

    def decode_request(self, request: dict[str, Any], **_: Any) -> tuple[int, bool, np.ndarray]:
        features = np.frombuffer(base64.b64decode(request["features"]), "<f4").reshape(request["shape"])
        return request["stream"], request["start"], features

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, inputs: Any, **_: Any) -> Any:
        inputs = inputs if isinstance(inputs, list) else [inputs]
        memory = np.stack([self._first if new else self._memories[id] for id, new, _ in inputs])
        features = np.stack([features for _, _, features in inputs])
        scores, memory = self._step(features, memory, np.ones(features.shape[:2], bool))
        self._memories.update(zip((id for id, _, _ in inputs), memory, strict=True))
        return list(scores)

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output: np.ndarray, **_: Any) -> dict[str, list[float]]:
        return {"scores": np.ravel(output).tolist()}


MODEL, PORT, RUNTIME, MOST = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
if __name__ == "__main__":
    api = Api(max_batch_size=MOST, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=PORT, log_level="warning", generate_client_file=False)
