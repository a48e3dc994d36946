"""What a second of video costs as a stream grows, from frames: ours, a sliding window, and a Transformer over all that was seen.

One thread, process time. Ours goes 24 hours on a simulated clock, through sampler, clips, CRT, events and a commit to SQLite a
segment; its features are given on the way, and at both ends whole segments from frames are timed in turns with a stream in its first minute.
The window is torchvision's S3D over the last 16 frames at each of our steps (half a second), as most demos do. The other peer keeps a feature
of each half second (MobileNetV3-Small, four frames) in a ring and runs a Transformer of our CRT's size over all of them at each step. The weights
are random: what is timed does not depend on them.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import psutil
import torch
from torch import nn
from tqdm import tqdm

from app.sessions import open_store
from app.sessions.base import Session, SessionStore
from benchmarks.harness import Row
from benchmarks.timing import cpu_ms
from models import checkpoint
from models.backbones import create_backbone
from models.config import ClassifierConfig
from pipelines import state as states
from pipelines.frames import Frame
from pipelines.label import BUNDLED
from pipelines.recognizer import Recognizer
from pipelines.streaming import Stream, StreamState

DAY, MINUTE = 24 * 3600.0, 60.0
LENGTHS = {"1 minute": 60, "10 minutes": 600, "1 hour": 3600}
"""Seconds, of the Transformer over all: a step at 24 hours would take minutes."""
STEP = 0.5
"""Seconds of video a step, for all three."""


class Ours:
    """A stream as the service keeps it, driven by a simulated clock."""

    def __init__(self, recognizer: Recognizer, store: SessionStore, id: str) -> None:
        self._recognizer, self._store = recognizer, store
        spec, r = recognizer.spec, recognizer
        self._stream = Stream(spec, r.segment, r.labels, r.background, StreamState(r.initial_memory()))
        now = time.time()
        self._session = Session(
            id=id, version=0, state=states.to_bytes(self._stream.state()), model=r.model.digest, segment=0, options={},
            created=now, touched=now, expires=now + 30 * DAY,
        )  # fmt: skip
        self._made = False
        self._tick = 0
        rng = np.random.default_rng(0)
        self._frames = rng.integers(0, 256, (64, spec.height, spec.width, 3), dtype=np.uint8)
        self._feature = r.features([list(self._frames[: spec.frames])])[0]

    async def segment(self, *, whole: bool) -> None:
        """The next one, from frames; without `whole`, their features are given."""
        recognizer, stream, segment = self._recognizer, self._stream, None
        while segment is None:
            frame = Frame(self._frames[self._tick % len(self._frames)], self._tick / recognizer.spec.rate)
            self._tick += 1
            for clip in stream.push(frame, stream.take(frame.time)):
                feature = recognizer.features([clip.frames])[0] if whole else self._feature
                segment = stream.add(clip, feature)
        out = recognizer.advance(segment.features_LF[None], segment.memory_M[None], segment.mask_L[None])
        stream.advance(segment, out.scores_BC[0], out.scores_BLC[0], out.memory_BM[0])
        state = stream.state()
        made = replace(self._session, state=states.to_bytes(state), segment=state.segments, touched=time.time())
        if not self._made:
            await self._store.create(self._session)
            self._made = True
        self._session = await self._store.save(made, expected=self._session.version)

    @property
    def position(self) -> float:
        """Seconds of video so far."""
        return self._tick / self._recognizer.spec.rate

    @property
    def state_bytes(self) -> int:
        return len(self._session.state)


def run(turns: int = 300) -> Iterable[Row]:
    """turns: segments timed at each end."""
    recognizer = Recognizer(checkpoint.load(BUNDLED), threads=1)
    found = asyncio.run(_ours(recognizer, turns))
    segment_seconds = recognizer.segment * recognizer.spec.clip_seconds
    young, old = found["minute"] / segment_seconds, found["day"] / segment_seconds
    yield Row(metric="ours, in the first minute", value=young, unit="ms a second of video")
    yield Row(metric="ours, after 24 hours", value=old, unit="ms a second of video")
    yield Row(metric="hour24_over_minute1", value=found["ratio"], unit="median of the turns")
    yield Row(metric="ours, state in the first minute", value=found["state_minute"], unit="bytes")
    yield Row(metric="ours, state after 24 hours", value=found["state_day"], unit="bytes")
    yield Row(metric="ours, store's growth in the last 23 hours", value=found["store"], unit="bytes")
    yield Row(metric="ours, memory's growth in the last 23 hours", value=found["rss"], unit="MB")
    window = create_backbone("s3d").eval()
    clip = torch.randint(0, 256, (1, *_clip_of(window)), dtype=torch.uint8)
    cost = cpu_ms({"window": lambda: window(clip)}, seconds=10.0)["window"] / STEP
    yield Row(
        metric="S3D over a sliding window", value=cost, unit="ms a second of video", peer="ours", ratio=cost / young
    )
    yield Row(metric="S3D over a sliding window, state", value=clip.numpy().nbytes, unit="bytes")
    for name, seconds in LENGTHS.items():
        cost, size = _transformer_over_all(recognizer, int(seconds / STEP))
        yield Row(
            metric=f"Transformer over all, at {name}", value=cost / STEP, unit="ms a second of video", peer="ours", ratio=cost / STEP / young
        )  # fmt: skip
        yield Row(metric=f"Transformer over all, state at {name}", value=size, unit="bytes")
    yield Row(
        metric="Transformer over all, state at 24 hours",
        value=size / LENGTHS["1 hour"] * DAY,
        unit="bytes, by its length",
    )


async def _ours(recognizer: Recognizer, turns: int) -> dict[str, float]:
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        async with open_store(f"sqlite:///{folder}/sessions.db?synchronous=normal") as store:
            old, young = Ours(recognizer, store, "old"), Ours(recognizer, store, "young")
            for one in (old, young):
                for _ in range(5):
                    await one.segment(whole=True)
            state_minute = young.state_bytes
            rss = size = 0
            with tqdm(total=round(DAY), desc="24 hours", unit="s", unit_scale=True) as bar:
                while old.position < DAY:
                    before = old.position
                    await old.segment(whole=False)
                    bar.update(old.position - before)
                    if before < 3600 <= old.position:
                        rss, size = process.memory_info().rss, await store.size()
            grown = process.memory_info().rss - rss
            store_grown = await store.size() - size
            taken: dict[Ours, list[float]] = {young: [], old: []}
            for turn in range(turns):
                for one in (young, old) if turn % 2 else (old, young):
                    began = time.process_time()
                    await one.segment(whole=True)
                    taken[one].append((time.process_time() - began) * 1e3)
                if young.position >= MINUTE:
                    young = _fresh(taken, young, Ours(recognizer, store, f"young{turn}"))
            ratio = statistics.median(b / a for a, b in zip(taken[young], taken[old], strict=True))
            return {
                "minute": statistics.median(taken[young]), "day": statistics.median(taken[old]), "ratio": ratio,
                "state_minute": state_minute, "state_day": old.state_bytes, "store": store_grown, "rss": grown / 1e6,
            }  # fmt: skip


def _fresh(taken: dict[Ours, list[float]], before: Ours, after: Ours) -> Ours:
    """Another stream takes the place of one whose first minute is over."""
    taken[after] = taken.pop(before)
    return after


def _clip_of(backbone: nn.Module) -> tuple[int, ...]:
    spec = backbone.spec
    return spec.frames, spec.height, spec.width, 3  # type: ignore[union-attr, return-value]


def _transformer_over_all(recognizer: Recognizer, steps: int) -> tuple[float, int]:
    """Milliseconds of one step when so many features are kept, and their bytes."""
    config = recognizer.model.config.classifier
    assert isinstance(config, ClassifierConfig)
    crt = config.crt
    frames = create_backbone("mobilenet_v3_small").eval()
    width = frames.spec.feature_width
    project = nn.Linear(width, crt.width)
    layer = nn.TransformerEncoderLayer(
        crt.width, crt.heads, crt.hidden, activation="gelu", batch_first=True, norm_first=True, dropout=0.0
    )
    transformer = nn.TransformerEncoder(layer, crt.layers, enable_nested_tensor=False).eval()
    clip = torch.randint(0, 256, (1, *_clip_of(frames)), dtype=torch.uint8)
    kept = torch.randn(1, steps, width)

    def step() -> object:
        kept[:, -1] = frames(clip)
        return transformer(project(kept))[:, -1]

    return cpu_ms({"step": step}, seconds=5.0)["step"], kept.numpy().nbytes
