"""Writes HomeSim data sets to disk: videos, annotations and a manifest.

A data set is a folder:

    trimmed/LABEL_pNN_rNN_vNN_cNN.mp4       one activity each, 2 to 20 s
    untrimmed/PNN_RNN_VNN_CNN.mp4 and .csv  start,end,label in seconds; what no row covers is background
    visible/NAME.csv                        for every video, what can be seen without knowing the past
    poses/NAME.npy                          for every video, where the person's joints are (Performance.poses)
    manifest.csv                            a row for each video
    homesim.json                            what made it: version, seed and size
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from pipelines.datasets import BadDataset
from pipelines.homesim.scenario import Performance, Recording

VERSION = 4
"""Grows with each change to people, rooms or stories: the same numbers then give another recording."""
MANIFEST_FIELDS = ("file", "kind", "split", "label", "person", "room", "take", "camera", "seconds", "fps")


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float, *, crf: int = 26) -> None:
    """Encodes frames uint8[H, W, 3] as H.264 in MP4. The file appears under its name only when it is whole."""
    part = path.with_suffix(".part")
    with av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        assert isinstance(stream, av.VideoStream)
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
        for index, pixels in enumerate(frames):
            if index == 0:
                stream.height, stream.width = pixels.shape[:2]
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    os.replace(part, path)


def _write_spans(path: Path, spans: list[tuple[float, float, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("start", "end", "label"))
        writer.writerows((f"{start:.3f}", f"{end:.3f}", label) for start, end, label in spans)


def write_recording(recording: Recording, folder: Path, *, width: int, height: int, seed: int) -> dict[str, str]:
    """Makes one recording, unless it is there already; returns its row of the manifest."""
    kind = "untrimmed" if recording.label is None else "trimmed"
    video = folder / kind / f"{recording.name}.mp4"
    performance = Performance(recording, width=width, height=height, seed=seed)
    visible = folder / "visible" / f"{recording.name}.csv"
    poses = folder / "poses" / f"{recording.name}.npy"
    if not poses.exists():
        np.save(poses, performance.poses().astype(np.float16))
    if not video.exists():
        crf = int(np.random.default_rng([seed, recording.take, recording.room]).integers(20, 32))
        _write_spans(visible, performance.spans(visible=True))
        if recording.label is None:
            _write_spans(video.with_suffix(".csv"), performance.spans())
        write_video(video, performance.frames(), performance.fps, crf=crf)
    row = (
        f"{kind}/{video.name}", kind, recording.split, recording.label or "", recording.person, recording.room, recording.take,
        recording.camera, f"{len(performance) / performance.fps:.3f}", performance.fps,
    )  # fmt: skip
    return dict(zip(MANIFEST_FIELDS, map(str, row), strict=True))


def _sign(folder: Path, ours: dict[str, int]) -> None:
    """Notes how the recordings are made, and makes sure that those which are there were made so."""
    note = folder / "homesim.json"
    if not note.exists() and not (folder / "manifest.csv").exists():
        note.write_text(json.dumps(ours))
    theirs = json.loads(note.read_text()) if note.exists() else {}
    if theirs != ours:
        differing = ", ".join(
            f"{name} {theirs.get(name)} there, {value} now" for name, value in ours.items() if theirs.get(name) != value
        )
        raise BadDataset(
            f"{folder} holds recordings that were made in another way ({differing}). Give another folder, or remove it."
        )


def make(
    recordings: list[Recording], folder: Path, *, width: int, height: int, seed: int, workers: int
) -> Iterator[dict[str, str]]:
    """Makes all recordings with `workers` processes, yields a manifest row for each as it is done, and writes the manifest.

    What is there already is kept, so that an interrupted run goes on where it stopped. Raises BadDataset for a folder that
    holds recordings made in another way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _sign(folder, {"version": VERSION, "seed": seed, "width": width, "height": height})
    for name in ("trimmed", "untrimmed", "visible", "poses"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(write_recording, r, folder, width=width, height=height, seed=seed) for r in recordings]
        for job in as_completed(jobs):
            rows.append(job.result())
            yield rows[-1]
    manifest = folder / "manifest.csv"
    known = {}
    if manifest.exists():
        with manifest.open(newline="") as file:
            known = {row["file"]: row for row in csv.DictReader(file)}
    known.update({row["file"]: row for row in rows})
    part = manifest.with_suffix(".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, MANIFEST_FIELDS)
        writer.writeheader()
        writer.writerows(known[name] for name in sorted(known))
    os.replace(part, manifest)
