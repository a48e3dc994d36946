"""Clips of short videos kept on disk, to train a backbone on, and their features, so that each video is decoded once.

What only needs features has features.py.

    RUN/pixels/SAMPLING/KEY.npy    the clips of one video as JPEGs: what a backbone trains on
    RUN/features/NETWORK.npz       KEY -> float16[N, F], the features of all videos by the networks that have this key
"""

import functools
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from models.spec import ClipSpec
from pipelines.datasets import LabelledVideo, Problem
from pipelines.decode import open_video
from pipelines.errors import VideoError
from pipelines.frames import Clip, Frame
from pipelines.sample import Clipper
from pipelines.video import of_ones_own


def clips_of(path: Path, spec: ClipSpec) -> np.ndarray:
    """All clips of a video, uint8[N, T, H, W, 3]. Raises VideoError."""
    clipper, clips = Clipper(spec), []
    with open_video(path, spec=spec, budget=of_ones_own(path)) as video:
        for frame, ticks in video:
            clips += clipper.push(frame, ticks)
    clips += clipper.flush()
    return np.stack([clip.pixels() for clip in clips])


def frames_in(path: Path, spec: ClipSpec, parts: Sequence[tuple[float, float]]) -> Iterator[tuple[int, Frame, int]]:
    """The sampled frames of a video's parts in one pass: the number of the part, the frame, and how many ticks it fills.

    A part is start <= time < end in seconds from the first frame. A frame's time is that of its last tick on the sampling grid, which
    of each part begins at 0 with its first frame. Parts may overlap. Raises VideoError.
    """
    first: list[int | None] = [None] * len(parts)
    origin = None
    with open_video(path, spec=spec, budget=of_ones_own(path)) as video:
        for frame, ticks in video:
            origin = frame.time if origin is None else origin
            time, newest = frame.time - origin, video.sampler.next_tick - 1
            for number, (start, end) in enumerate(parts):
                if start <= time < end:
                    began = newest if (known := first[number]) is None else known
                    yield number, Frame(frame.pixels, (newest - began) / spec.rate), 1 if known is None else ticks
                    first[number] = began
            if all(time >= end for _, end in parts):
                return


def clips_in(path: Path, spec: ClipSpec, parts: Sequence[tuple[float, float]]) -> Iterator[tuple[int, Clip]]:
    """The clips of a video's parts in one pass, each with the number of its part, in order of time. Raises VideoError."""
    clippers = [Clipper(spec) for _ in parts]
    for number, frame, ticks in frames_in(path, spec, parts):
        for clip in clippers[number].push(frame, ticks):
            yield number, clip
    for number, clipper in enumerate(clippers):
        for clip in clipper.flush():
            yield number, clip


class StoredClips:
    """The clips of one video, kept as JPEGs: a tenth of their size.

    NAME.npy has the bytes of all frames, NAME.ends.npy where each ends, int64[N, T], NAME.times.npy when each clip starts and ends.
    """

    QUALITY = 92

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ends_NT = np.load(path.with_suffix(".ends.npy"))
        self.times_N2 = np.load(path.with_suffix(".times.npy"))
        """float64[N, 2]: in seconds from where the part begins that counts."""

    @staticmethod
    def there(path: Path) -> bool:
        """Whether they are stored, whole."""
        return path.exists() and path.with_suffix(".times.npy").exists()

    @classmethod
    def store(cls, path: Path, clips: np.ndarray, times_N2: np.ndarray) -> None:
        """Clips uint8[N, T, H, W, 3], RGB, and when they start and end."""
        encoded = [
            cv2.imencode(".jpg", frame[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, cls.QUALITY))[1].ravel()
            for clip in clips
            for frame in clip
        ]
        np.save(path.with_suffix(".ends.npy"), np.cumsum([len(one) for one in encoded]).reshape(clips.shape[:2]))
        np.save(path.with_suffix(".times.npy"), times_N2)
        part = path.with_suffix(".part.npy")
        np.save(part, np.concatenate(encoded))
        os.replace(part, path)

    def __len__(self) -> int:
        return len(self._ends_NT)

    def __getitem__(self, clip: int) -> np.ndarray:
        """uint8[T, H, W, 3]."""
        stored = _mapped(self._path)
        starts = [int(self._ends_NT[clip - 1, -1]) if clip else 0, *self._ends_NT[clip, :-1]]
        frames = [
            np.asarray(cv2.imdecode(stored[start:end], cv2.IMREAD_COLOR))
            for start, end in zip(starts, self._ends_NT[clip], strict=True)
        ]
        return np.stack(frames)[..., ::-1]


@functools.lru_cache(maxsize=256)
def _mapped(path: Path) -> np.ndarray:
    """Of few files at a time: a data set has more videos than a process may open files."""
    return np.load(path, mmap_mode="r")


def _cache_clips(video: LabelledVideo, spec: ClipSpec, target: Path) -> Problem | None:
    cv2.setNumThreads(1)
    try:
        clips = [clip for _, clip in clips_in(video.path, spec, [(video.start, video.end)])]
    except VideoError as error:
        return Problem("unreadable", video.name, str(error))
    if not clips:
        return Problem("bad_span", video.name, f"the video ends before {video.start:g} s, where the part begins")
    times_N2 = np.array([(clip.start, clip.end) for clip in clips])
    StoredClips.store(target, np.stack([clip.pixels() for clip in clips]), times_N2)
    return None


def cache_clips(
    videos: Sequence[LabelledVideo], spec: ClipSpec, folder: Path, *, workers: int
) -> tuple[dict[str, Path], list[Problem]]:
    """Decodes what is not yet in `folder`, with `workers` processes; the file of each video's clips, and which videos have none.

    A folder below it for each way of sampling; another video of the same name has another file.
    """
    sampling = hashlib.sha256(json.dumps(spec.to_dict(), sort_keys=True).encode()).hexdigest()[:8]
    files = {video.name: folder / sampling / f"{video.key}.npy" for video in videos}
    missing = [video for video in videos if not StoredClips.there(files[video.name])]
    for video in missing:
        files[video.name].parent.mkdir(parents=True, exist_ok=True)
    problems = []
    if missing:
        # Not forked: a process that runs networks has threads, and what they hold locked would stay locked in a copy.
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            jobs = [pool.submit(_cache_clips, video, spec, files[video.name]) for video in missing]
            for job in tqdm(as_completed(jobs), total=len(jobs), desc="decode", unit="video"):
                if (problem := job.result()) is not None:
                    problems.append(problem)
                    del files[problem.what]
    return files, problems


def some_clips(files: Sequence[Path], count: int = 400) -> list[np.ndarray]:
    """One clip uint8[T, H, W, 3] of each of so many of the stored videos, the same ones each time."""
    rng = np.random.default_rng(0)
    chosen = [StoredClips(files[i]) for i in rng.choice(len(files), min(count, len(files)), replace=False)]
    return [clips[int(rng.integers(len(clips)))] for clips in chosen]


@dataclass(frozen=True, slots=True)
class Look:
    """A further look at each video."""

    number: int = 0
    overhead: bool = False
    """From the ceiling: turned by any angle, too."""

    @property
    def key(self) -> str:
        """For files."""
        return f"look{self.number}{'-overhead' if self.overhead else ''}"


def second_look(clips: np.ndarray, name: str, look: Look = Look()) -> np.ndarray:
    """A video's clips as another camera in another light would have taken them, the same for all of the video.

    uint8[N, T, H, W, 3] to the same; which camera and light follows from the video's name and the look's number. The first is mirrored, others
    may be.
    """
    rng = np.random.default_rng([*name.encode(), *([look.number] if look.number else [])])
    N, T, H, W, _ = clips.shape
    share = rng.uniform(0.86, 1.0)
    h, w = round(H * share), round(W * share)
    y, x = int(rng.integers(H - h + 1)), int(rng.integers(W - w + 1))
    gain, balance = rng.uniform(0.75, 1.25), rng.uniform(0.92, 1.08, 3)
    table = np.arange(256)[:, None] * gain * balance + (1 - gain) * 115 + rng.uniform(-20, 20)
    table = table.clip(0, 255).astype(np.uint8)
    across = -1 if look.number == 0 or rng.random() < 0.5 else 1
    turn = any_turn(rng, W, H) if look.overhead else None
    out = np.empty_like(clips)
    for n in range(N):
        for t in range(T):
            frame = cv2.resize(clips[n, t, y : y + h, x : x + w], (W, H), interpolation=cv2.INTER_LINEAR)
            frame = np.ascontiguousarray(frame[:, ::across])
            out[n, t] = cv2.LUT(frame if turn is None else turned(frame, turn), table[:, None, :])
    return out


def any_turn(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A turn of pictures about their middle, by any angle, float64[2, 3] as cv2 has it; perhaps made smaller, so that less is cut off."""
    return cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), rng.uniform(0, 360), rng.uniform(0.75, 1.0))


def turned(frame: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """A picture uint8[H, W, 3], turned; what it does not show is as the pixel at its border."""
    height, width, _ = frame.shape
    return cv2.warpAffine(frame, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def cache_features(
    features: Callable[[np.ndarray], np.ndarray],
    key: str,
    files: dict[str, Path],
    folder: Path,
    *,
    threads: int,
    batch: int = 32,
    look: Look | None = None,
) -> dict[str, np.ndarray]:
    """Features float32[N, F] of each video's clips, from the cache or by `features`; with `look`, of that further look.

    features: clips uint8[N, T, H, W, 3] to float32[N, F], called by so many threads at the same time. key: tells it from others.
    """
    target = folder / f"{key}{'-' + look.key if look else ''}.npz"
    known: dict[str, np.ndarray] = {}
    if target.exists():
        with np.load(target) as stored:
            known = {name: stored[name] for name in stored.files}

    def see(name: str) -> tuple[str, np.ndarray]:
        stored_clips, parts = StoredClips(files[name]), []
        for start in range(0, len(stored_clips), batch):
            clips = np.stack([stored_clips[i] for i in range(start, min(start + batch, len(stored_clips)))])
            parts.append(features(second_look(clips, name, look) if look else clips))
        return name, np.concatenate(parts).astype(np.float16)

    if missing := [name for name, file in files.items() if file.stem not in known]:
        with ThreadPoolExecutor(threads) as pool:
            jobs = [pool.submit(see, name) for name in missing]
            for job in tqdm(
                as_completed(jobs),
                total=len(jobs),
                desc=f"features, {look.key}" if look else "features",
                unit="video",
            ):
                name, found = job.result()
                known[files[name].stem] = found
        folder.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(".part.npz")
        np.savez(part, **known)  # type: ignore[arg-type]
        os.replace(part, target)
    return {name: known[file.stem].astype(np.float32) for name, file in files.items()}
