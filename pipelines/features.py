"""Clips and features of a data set, kept on disk so that each video is decoded once and seen by a backbone once.

    RUN/pixels/NAME.npy      uint8[N, T, H, W, 3], the clips of one video: what the backbone trains on
    RUN/features/DIGEST.npz  NAME -> float16[N, F], the features of all videos by the backbone with this digest

Clip i of a video covers the times from i * T / rate on: the videos of a data set have no gaps.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from models.spec import ClipSpec
from pipelines.datasets import BadDataset, LabelledVideo
from pipelines.decode import open_video
from pipelines.sample import Clipper


def clips_of(path: Path, spec: ClipSpec) -> np.ndarray:
    """All clips of a video, uint8[N, T, H, W, 3]. Raises VideoError."""
    clipper, clips = Clipper(spec), []
    with open_video(path, spec=spec) as video:
        for frame, ticks in video:
            clips += clipper.push(frame, ticks)
    clips += clipper.flush()
    return np.stack([clip.pixels for clip in clips])


def _cache_clips(path: Path, spec: ClipSpec, target: Path) -> None:
    part = target.with_suffix(".part.npy")
    np.save(part, clips_of(path, spec))
    os.replace(part, target)


def cache_clips(videos: list[LabelledVideo], spec: ClipSpec, folder: Path, *, workers: int) -> dict[str, Path]:
    """Decodes what is not yet in `folder`, with `workers` processes; returns the file of each video's clips.

    Raises BadDataset where `folder` holds clips of another data set or for another backbone.
    """
    origin = hashlib.sha256(json.dumps(spec.to_dict(), sort_keys=True).encode())
    for data in sorted({video.path.parent.parent for video in videos}):
        for name in ("homesim.json", "manifest.csv"):
            origin.update((data / name).read_bytes() if (data / name).exists() else b"")
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "origin.txt"
    if not note.exists():
        note.write_text(origin.hexdigest())
    if note.read_text() != origin.hexdigest():
        raise BadDataset(f"{folder} holds the clips of another data set or for another backbone. Remove it.")
    files = {video.name: folder / f"{video.name}.npy" for video in videos}
    missing = [video for video in videos if not files[video.name].exists()]
    for video in missing:
        files[video.name].parent.mkdir(parents=True, exist_ok=True)
    if missing:
        with ProcessPoolExecutor(workers) as pool:
            jobs = [pool.submit(_cache_clips, video.path, spec, files[video.name]) for video in missing]
            for job in tqdm(as_completed(jobs), total=len(jobs), desc="decode", unit="video"):
                job.result()
    return files


def digest_of(network: nn.Module) -> str:
    """A short name for a network's weights."""
    sha = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


def _batches(clips: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(clips), size):
        yield np.array(clips[start : start + size])


@torch.inference_mode()
def cache_features(
    backbone: nn.Module, files: dict[str, Path], folder: Path, *, batch: int = 32
) -> dict[str, np.ndarray]:
    """Features float32[N, F] of each video's clips, from the cache or by the backbone."""
    target = folder / f"{digest_of(backbone)}.npz"
    known: dict[str, np.ndarray] = {}
    if target.exists():
        with np.load(target) as stored:
            known = {name: stored[name] for name in stored.files}
    backbone.eval()
    device = next(backbone.parameters()).device
    if missing := [name for name in files if name not in known]:
        for name in tqdm(missing, desc="features", unit="video"):
            parts = [
                backbone(torch.from_numpy(part).to(device)).cpu()
                for part in _batches(np.load(files[name], mmap_mode="r"), batch)
            ]
            known[name] = torch.cat(parts).to(torch.float16).numpy()
        folder.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(".part.npz")
        np.savez(part, **known)  # type: ignore[arg-type]
        os.replace(part, target)
    return {name: known[name].astype(np.float32) for name in files}
