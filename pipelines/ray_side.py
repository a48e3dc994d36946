"""The recognizer on a Ray cluster: a Serve deployment of its networks, and a recognizer that asks it.

    python -m pipelines.ray_side HEAD:6379 [--least 1 --most 8] [--cores 1 | --gpu 0.25] [--model FOLDER]     deploys it; docker/ray has the rest

What goes over the network are batches of clips and of segments, never a frame or a connection: those stay with the gateways, plain services,
and so does what is decided of streams. A call is a pure function of its arguments. So one that a node took along when it died is
asked again, of another, and the labels are the same to the bit.

    gateway: decode, sample, streams, sessions  --clips, segments-->  cluster: backbone, CRT
                                                <--features, scores, memories--

Calls go by Serve's handles, from process to process, not through its proxies. The gateway's machine needs a Ray node of its own, which may have
no cores to give (`--num-cpus 0`).

Shapes: N clips, T frames, H x W pixels, F feature width, B streams, L clips in a segment, M memory width, C labels.
"""

import argparse
import asyncio
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from models import checkpoint
from models.checkpoint import Checkpoint
from models.errors import BadCheckpoint, CrtError
from pipelines.device import pick
from pipelines.errors import EngineUnavailable
from pipelines.frames import Pixels
from pipelines.label import BUNDLED
from pipelines.recognizer import Prediction, Recognizer
from pipelines.remembering import MemoryUse

try:
    import ray
    from ray import serve
    from ray.exceptions import RayError, RayTaskError
    from ray.serve.exceptions import BackPressureError, RayServeException
except ModuleNotFoundError as error:
    raise EngineUnavailable(
        f"{error.name} is not installed: a Ray cluster needs the packages of requirements-ray.txt"
    ) from error

log = logging.getLogger(__name__)
APPLICATION = "crt"
CALL_SECONDS = 10.0
"""Longest that one call may take before it is asked again: a batch takes a tenth of a second, a node's death is known after some."""
SIDE_BY_SIDE = 8
"""Batches of clips that a gateway has on the way: what it does not send it gathers into larger ones."""
CLIPS = 8
SEGMENTS = 32


@serve.deployment
class Networks:
    """A replica: the networks of one model, on the cores or the part of a GPU that it was given."""

    def __init__(self, model: str, threads: int, device: str) -> None:
        self._recognizer = Recognizer(checkpoint.read(model), threads=threads, device=pick(device))  # type: ignore[arg-type]
        # Serve asks in its loop whether this one lives. And who waits for a segment does not wait for others' clips.
        self._clips = ThreadPoolExecutor(self._recognizer.side_by_side, thread_name_prefix="clips")
        self._segments = ThreadPoolExecutor(1, thread_name_prefix="segments")

    async def digest(self) -> str:
        """Of the model."""
        return self._recognizer.model.digest

    async def features(self, clips_NTHW3: np.ndarray) -> np.ndarray:
        return await self._in(self._clips, self._recognizer.features, clips_NTHW3)

    async def advance(self, *arrays: np.ndarray) -> Prediction:
        return await self._in(self._segments, self._recognizer.advance, *arrays)

    async def provisional(self, *arrays: np.ndarray) -> np.ndarray:
        return await self._in(self._segments, self._recognizer.provisional, *arrays)

    async def memory_use(self, *arrays: np.ndarray) -> MemoryUse | None:
        return await self._in(self._segments, self._recognizer.memory_use, *arrays)

    @staticmethod
    async def _in(threads: ThreadPoolExecutor, work: Callable[..., Any], *arrays: np.ndarray) -> Any:
        return await asyncio.get_running_loop().run_in_executor(threads, work, *arrays)


def deploy(model: str, *, least: int = 1, most: int = 8, cores: int = 1, gpu: float = 0.0) -> None:
    """Runs the networks on the cluster that this process has joined, or replaces what runs there; returns when they answer.

    A replica gets so many cores, or one and a part of a GPU. There are more of them, up to `most`, while more than two batches
    for each are on the way.
    """
    serve.start(proxy_location="Disabled")
    running = Networks.options(  # type: ignore[attr-defined]
        max_ongoing_requests=2 * SIDE_BY_SIDE,
        autoscaling_config={
            "min_replicas": least, "initial_replicas": least, "max_replicas": most,
            "target_ongoing_requests": 2, "upscale_delay_s": 5, "downscale_delay_s": 120,
        },
        health_check_period_s=1, health_check_timeout_s=5, graceful_shutdown_timeout_s=10,
        ray_actor_options={"num_cpus": cores, "num_gpus": gpu},
    )  # fmt: skip
    serve.run(running.bind(model, cores, "cuda" if gpu else "cpu"), name=APPLICATION, route_prefix=None)


def join(address: str) -> None:
    """Makes this process part of the cluster at HOST:PORT. Raises EngineUnavailable."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()  # Ray itself waits for minutes
    except (OSError, ValueError) as error:
        raise EngineUnavailable(
            f"no Ray cluster answers at {address} ({error}); HOST:PORT of its head is wanted"
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING, ignore_reinit_error=True)
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
        raise EngineUnavailable(
            f"there is no Ray cluster at {address} that this machine is part of ({error})"
        ) from error


class RayRecognizer(Recognizer):
    """A Recognizer whose networks are on the cluster. Any thread may call it."""

    def __init__(self, model: Checkpoint, address: str, *, patience: float) -> None:
        """Joins the cluster as a driver. patience: seconds for which a call is tried again. Raises EngineUnavailable, BadCheckpoint."""
        self._describe(model)
        self.side_by_side, self.clips_a_call, self.segments_a_call = SIDE_BY_SIDE, CLIPS, SEGMENTS
        self._patience = patience
        self._joining = threading.Lock()
        join(address)
        self._handle: Any = None
        found = self._ask("digest")
        if found != model.digest:
            raise BadCheckpoint(
                f"{model.folder} has the digest {model.digest}, and the networks on {address} are of {found}"
            )

    def features(self, clips: Sequence[Sequence[Pixels]] | np.ndarray) -> np.ndarray:
        clips_NTHW3 = clips if isinstance(clips, np.ndarray) else np.stack([np.stack(frames) for frames in clips])
        spec = self.spec
        if clips_NTHW3.shape[1:] != (spec.frames, spec.height, spec.width, 3) or clips_NTHW3.dtype != np.uint8:
            raise ValueError(
                f"a clip is uint8[{spec.frames}, {spec.height}, {spec.width}, 3]; got {clips_NTHW3.shape[1:]}"
            )
        return np.array(self._ask("features", clips_NTHW3))

    def advance(self, segment_BLF: np.ndarray, memory_BM: np.ndarray, mask_BL: np.ndarray) -> Prediction:
        told: Prediction = self._ask("advance", segment_BLF, memory_BM, mask_BL)
        # Copies: what lies in Ray's memory may not be written to, and would be kept there.
        return Prediction(np.array(told.scores_BC), np.array(told.scores_BLC), np.array(told.memory_BM))

    def provisional(self, segment_BLF: np.ndarray, memory_BM: np.ndarray, mask_BL: np.ndarray) -> np.ndarray:
        return np.array(self._ask("provisional", segment_BLF, memory_BM, mask_BL))

    def memory_use(
        self, segment_LF: np.ndarray, memory_M: np.ndarray, mask_L: np.ndarray, next_memory_M: np.ndarray
    ) -> MemoryUse | None:
        told: MemoryUse | None = self._ask("memory_use", segment_LF, memory_M, mask_L, next_memory_M)
        return told

    def _ask(self, method: str, *arrays: np.ndarray) -> Any:
        """Calls the deployment until it answers. Raises EngineUnavailable when it does not for too long, and what the networks raise."""
        until, pause, why = time.monotonic() + self._patience, 0.05, "no answer"
        while True:
            asked = getattr(self._deployed(), method).remote(*arrays)
            try:
                return asked.result(timeout_s=CALL_SECONDS)
            except RayTaskError as error:
                raise error.as_instanceof_cause() from None  # a mistake that the networks would make again
            except (RayError, RayServeException, BackPressureError, TimeoutError, ConnectionError) as error:
                why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                asked.cancel()  # nobody waits for it any more
            if time.monotonic() + pause > until:
                raise EngineUnavailable(f"the cluster does not answer ({why}); try again later")
            log.warning("the cluster is asked again for %s (%s)", method, why)
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _deployed(self) -> Any:
        with self._joining:
            if self._handle is None:
                self._handle = serve.get_app_handle(APPLICATION)
            return self._handle


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.ray_side", description="Runs a model's networks on a Ray cluster."
    )
    parser.add_argument(
        "address", help="the cluster's head, as 10.0.0.1:6379; this machine must be part of the cluster"
    )
    parser.add_argument(
        "--model", default=str(BUNDLED), help="a folder that every node has (default: the bundled model)"
    )
    parser.add_argument("--least", type=int, default=1, help="replicas at least (default: 1)")
    parser.add_argument("--most", type=int, default=8, help="replicas at most (default: 8)")
    parser.add_argument("--cores", type=int, default=1, help="of each replica (default: 1)")
    parser.add_argument("--gpu", type=float, default=0.0, help="part of a GPU of each replica, as 0.25 (default: none)")
    args = parser.parse_args()
    try:
        join(args.address)
        deploy(args.model, least=args.least, most=args.most, cores=args.cores, gpu=args.gpu)
    except CrtError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    print(f"the networks of {args.model} run on {args.address}; gateways take CRT_ENGINE=ray:{args.address}")
    return 0


if __name__ == "__main__":
    # What runs on the nodes must be known there under its own name, not as __main__.
    from pipelines import ray_side

    sys.exit(ray_side.main())
