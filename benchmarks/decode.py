"""Video files to sampled frames at a model's size: the confined worker against bare decord and bare PyAV loops.

All do the same work on the same files: each frame decoded by one thread, 8 a second resized to 128x96. The peers do it
in this process, unprotected, with no limits. Wall clock, the fastest of several turns, as others on the machine only slow
one down. The pictures are a moving texture, so that the codec has something to do. The last row is what a video costs
beside its decoding: open, fork, confine, end.
"""

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import av
import cv2
import decord
import numpy as np

from benchmarks.harness import Row
from models.spec import ClipSpec
from pipelines.decode import open_video
from pipelines.sample import Sampler, fit

SPEC = ClipSpec(
    frames=4, rate=8.0, height=96, width=128, fit="stretch", mean=(0.5,) * 3, std=(0.5,) * 3, feature_width=8
)
FILES = (
    ("H.264 340x256 MP4", "small.mp4", 340, 256, 20.0),
    ("H.264 1280x720 MP4", "large.mp4", 1280, 720, 6.0),
    ("H.264 340x256 MPEG-TS", "small.ts", 340, 256, 20.0),
)
FPS = 25


def run(turns: int = 7) -> Iterable[Row]:
    """turns: how often each is timed."""
    cv2.setNumThreads(0)
    decord.logging.set_level(decord.logging.QUIET)
    with tempfile.TemporaryDirectory() as folder:
        for title, name, width, height, seconds in FILES:
            path = make(Path(folder) / name, width, height, round(seconds * FPS))
            peers = {"decord": by_decord, "PyAV": by_pyav} if name.endswith(".mp4") else {"PyAV": by_pyav}
            ours, *theirs = timed([by_worker, *peers.values()], path, turns)
            frames = seconds * FPS
            for peer, taken in zip(peers, theirs, strict=True):
                yield Row(
                    metric=f"{title}, frames decoded",
                    value=frames / ours,
                    unit="frames/s",
                    peer=peer,
                    ratio=taken / ours,
                )
        shortest = make(Path(folder) / "one.mp4", 340, 256, 2)
        ours, bare = timed([by_worker, by_decord], shortest, 5 * turns)
        yield Row(
            metric="a video of two frames, from open to end",
            value=ours * 1e3,
            unit="ms",
            peer="decord",
            ratio=ours / bare,
        )


def make(path: Path, width: int, height: int, frames: int) -> Path:
    """A texture that drifts and flickers, in H.264 as cameras and phones write it."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 255, (height // 16 + 2, 2 * width // 16, 3), np.uint8)
    texture = cv2.resize(coarse, (2 * width, height), interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.options = {"preset": "veryfast", "crf": "23"}
        for k in range(frames):
            shift = 3 * k % width
            noise = random.integers(0, 12, (height, width, 1), np.uint8)
            picture = np.ascontiguousarray(cv2.add(texture[:, shift : shift + width], np.repeat(noise, 3, axis=2)))
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    return path


def timed(works: list[Callable[[Path], int]], path: Path, turns: int) -> list[float]:
    """The fastest seconds of each, in turns, after one that does not count. All must sample the same number of frames."""
    counts = {work(path) for work in works}
    if len(counts) != 1:
        raise RuntimeError(f"the loops sampled different numbers of frames: {counts}")
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(turns):
        for times, work in zip(taken, works, strict=True):
            start = time.perf_counter()
            work(path)
            times.append(time.perf_counter() - start)
    return [min(times) for times in taken]


def by_worker(path: Path) -> int:
    """What the service does."""
    with open_video(path, spec=SPEC) as video:
        return sum(1 for _ in video)


def by_decord(path: Path) -> int:
    """The least that decord needs for the same."""
    reader = decord.VideoReader(str(path), num_threads=1)
    times = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0]
    sampler, count = Sampler(SPEC.rate), 0
    for t in times:
        frame = reader.next()
        if sampler.take(float(t)):
            fit(frame.asnumpy(), SPEC)
            count += 1
    return count


def by_pyav(path: Path) -> int:
    """The least that PyAV needs for the same."""
    sampler, count, first = Sampler(SPEC.rate), 0, None
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in video.decode(stream):
            if frame.time is None:
                raise RuntimeError(f"{path.name} has frames without times")
            first = frame.time if first is None else first
            if sampler.take(frame.time - first):
                fit(frame.to_ndarray(format="rgb24", threads=1), SPEC)
                count += 1
    return count
