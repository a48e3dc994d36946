"""Features once: `python -m pipelines.features CONFIG` extracts those of a data set by its configuration's backbone.

    CACHE/KEY/NAME-ID.npz          of one video's clips, features float16[N, F] and times float64[N, 2], from and to in seconds
    CACHE/KEY-LOOK/NAME-ID.npz     the same of a further look at it (clips.second_look)

KEY stands for backbone, weights and sampling, ID for the file (size and time of change) and the part of it that counts, so that another
backbone, or a video that has changed, is extracted anew and nothing else is. A file is whole or not there: an extraction that was
stopped, at any moment, goes on where it was, and several may share a cache.
"""

import argparse
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import groupby
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipelines import command
from pipelines.backbone import OpenBackbone, open_backbone
from pipelines.clips import Look, clips_in, second_look
from pipelines.config import BackboneChoice, BadConfig, read_config
from pipelines.datasets import LabelledVideo, Problem
from pipelines.device import Device, pick
from pipelines.errors import VideoError
from pipelines.frames import Clip, Pixels

BATCH = 8
"""Clips that a backbone sees at a time: what is in memory, whatever a video's length."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One video by a backbone."""

    features_NF: np.ndarray
    """float16[N, F]."""
    times_N2: np.ndarray
    """float64[N, 2]: each clip's start and end, in seconds from where the part begins that counts."""


class FeatureCache:
    """The features of one backbone."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder / key
        """Of this backbone's."""

    def path(self, video: LabelledVideo) -> Path:
        """Where a video's features are, or would be. Raises OSError for a video that is not there."""
        return self.folder / f"{video.key}.npz"

    def load(self, video: LabelledVideo) -> Seen:
        """What was extracted. Raises OSError where nothing was."""
        return self.load_file(self.path(video))

    @staticmethod
    def load_file(path: Path) -> Seen:
        """The same by the file. Raises OSError where there is none."""
        with np.load(path) as stored:
            return Seen(stored["features_NF"], stored["times_N2"])

    @staticmethod
    def store(path: Path, seen: Seen) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part.npz")
        np.savez(part, features_NF=seen.features_NF, times_N2=seen.times_N2)
        os.replace(part, path)


def extract(
    videos: Sequence[LabelledVideo],
    backbone: BackboneChoice,
    folder: Path,
    *,
    processes: int,
    device: Device = "cpu",
    look: Look | None = None,
) -> tuple[FeatureCache, list[Problem]]:
    """Extracts what is not in the cache, with so many processes; says which videos could not be decoded. With `look`, that further look.

    With a GPU the processes take turns on all there are. Raises BadCheckpoint, UnknownBackbone, WeightsUnavailable, BadWeights.
    """
    key = open_backbone(backbone, threads=1, device=device).key
    cache = FeatureCache(folder, f"{key}-{look.key}" if look else key)
    due = sorted((v for v in videos if not cache.path(v).exists()), key=lambda video: (str(video.path), video.start))
    jobs = [
        (path, [(video.name, video.start, video.end, cache.path(video)) for video in of])
        for path, of in groupby(due, key=lambda video: video.path)
    ]
    problems: list[Problem] = []
    if not jobs:
        return cache, problems
    # Not forked: a process that runs networks has threads, and what they hold locked would stay locked in a copy.
    spawn = multiprocessing.get_context("spawn")
    started = spawn.Value("i", 0)
    with (
        ProcessPoolExecutor(processes, spawn, _begin, (backbone, device, look, started)) as pool,
        tqdm(total=len(due), desc=f"features, {look.key}" if look else "features", unit="video") as bar,
    ):
        running = {pool.submit(_extract, path, parts): parts for path, parts in jobs}
        try:
            for job in as_completed(running):
                problems += job.result()
                bar.update(len(running[job]))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return cache, problems


_opened: OpenBackbone
"""In a process that extracts."""
_further: Look | None
"""The look at videos there, if it is not the plain one."""


def _begin(backbone: BackboneChoice, device: Device, look: Look | None, started: "Synchronized[int]") -> None:
    global _opened, _further
    _further = look
    with started.get_lock():
        number = started.value
        started.value += 1
    if device == "cuda":
        import torch

        torch.cuda.set_device(number % torch.cuda.device_count())
    _opened = open_backbone(backbone, threads=1, device=device)


def _extract(path: Path, parts: Sequence[tuple[str, float, float, Path]]) -> list[Problem]:
    """All parts of one video; what cannot be decoded is told, not raised."""
    waiting: list[tuple[int, Clip]] = []
    features: list[list[np.ndarray]] = [[] for _ in parts]
    times: list[list[tuple[float, float]]] = [[] for _ in parts]

    def look() -> None:
        shown = [_shown(clip, parts[number][0]) for number, clip in waiting]
        for (number, clip), feature_F in zip(waiting, _opened.look(shown), strict=True):
            features[number].append(feature_F.astype(np.float16))
            times[number].append((clip.start, clip.end))
        waiting.clear()

    try:
        for one in clips_in(path, _opened.spec, [(start, end) for _, start, end, _ in parts]):
            waiting.append(one)
            if len(waiting) == BATCH:
                look()
        if waiting:
            look()
    except VideoError as error:
        return [Problem("unreadable", name, str(error)) for name, *_ in parts]
    problems = []
    for (name, start, _, target), found, when in zip(parts, features, times, strict=True):
        if found:
            FeatureCache.store(target, Seen(np.stack(found), np.array(when)))
        else:
            problems.append(Problem("bad_span", name, f"the video ends before {start:g} s, where the part begins"))
    return problems


def _shown(clip: Clip, name: str) -> Sequence[Pixels]:
    """A clip's frames, by the look that is asked for at the video of this name."""
    return clip.frames if _further is None else tuple(second_look(np.stack(clip.frames)[None], name, _further)[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.features", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="of a training: its data, backbone and cache")
    parser.add_argument("--processes", type=command.count, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="instead of the file's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="instead of the file's, such as data.fold=1"
    )
    args = parser.parse_args()
    config = read_config(args.config, args.set)
    if config.backbone.training is not None:
        raise BadConfig(
            f"{args.config}: its backbone is still to be trained; `python -m pipelines.train` extracts then"
        )
    found = config.data.find()
    cache, problems = extract(
        found.videos,
        config.backbone,
        config.features,
        processes=args.processes,
        device=pick(args.device or config.device),
    )
    for problem in (*found.problems, *problems):
        print(problem)
    print(f"features of {len(found.videos) - len(problems)} of {len(found.videos)} videos are in {cache.folder}")
    config.data.accept(replace(found, problems=[*found.problems, *problems]))


if __name__ == "__main__":
    command.run(main)
