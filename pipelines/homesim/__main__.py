"""`python -m pipelines.homesim make|preview`: labelled household video from a seed."""

import argparse
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from pipelines import command
from pipelines.homesim import activities
from pipelines.homesim.make import make, write_video
from pipelines.homesim.scenario import SPLITS, Performance, Recording, plan

# The set that the bundled model was trained on.
DEFAULT = {"train": (110, 225), "validation": (8, 10), "test": (20, 24)}
"""For each split, trimmed clips of each class and untrimmed days."""


def contact_sheet(recordings: list[Recording], *, columns: int = 6, seed: int = 0, width: int = 240) -> np.ndarray:
    """A row of frames for each recording, with its label: uint8[H, W, 3]."""
    rows = []
    for recording in tqdm(recordings, desc="preview", unit="row"):
        performance = Performance(recording, seed=seed, width=width, height=width * 3 // 4)
        picks = np.linspace(0, len(performance) - 1, columns).astype(int)
        row = np.concatenate([performance.frame(int(i)) for i in picks], axis=1)
        text = f"{recording.label or 'day'}  {len(performance) / performance.fps:.1f} s  {recording.name}"
        for thickness, colour in ((3, (0, 0, 0)), (1, (255, 255, 255))):
            cv2.putText(row, text, (6, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, thickness, cv2.LINE_AA)
        rows.append(row)
    return np.concatenate(rows, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.homesim", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make", help="write a data set")
    maker.add_argument("folder", type=Path)
    maker.add_argument("--split", choices=(*SPLITS, "all"), default="all")
    maker.add_argument("--clips", type=command.count, help="trimmed clips of each class, instead of the default set's")
    maker.add_argument("--days", type=command.count, help="untrimmed days, instead of the default set's")
    maker.add_argument("--day-seconds", type=float, default=180.0)
    maker.add_argument("--size", type=command.size, default=(320, 240), help="width x height")
    maker.add_argument("--workers", type=command.count, default=2)
    one = commands.add_parser("clip", help="write one trimmed clip")
    one.add_argument("label", choices=activities.LABELS)
    one.add_argument("file", type=Path)
    one.add_argument("--numbers", type=command.numbers, default=(2280, 2280, 0, 2), help="person,room,take,camera")
    one.add_argument("--size", type=command.size, default=(640, 480))
    one.add_argument("--fps", type=float, default=25.0)
    preview = commands.add_parser("preview", help="draw a contact sheet to look at")
    preview.add_argument("file", type=Path, help="a .png or .jpg")
    preview.add_argument("--split", choices=tuple(SPLITS), default="train")
    preview.add_argument("--width", type=command.count, default=240, help="of each picture, in pixels (default: 240)")
    preview.add_argument("--rows", type=command.count, default=1, help="rows of each class")
    for sub in (maker, one, preview):
        sub.add_argument("--seed", type=int, default=0)
    for sub in (maker, preview):
        sub.add_argument("--ceiling", action="store_true", help="all seen by cameras that look down from the ceiling")
    args = parser.parse_args()

    if args.command == "preview":
        recordings = plan(
            args.split,
            clips_per_class=args.rows,
            days=args.rows,
            day_seconds=60.0,
            seed=args.seed,
            ceiling=args.ceiling,
        )
        args.file.parent.mkdir(parents=True, exist_ok=True)
        sheet = contact_sheet(recordings, seed=args.seed, width=args.width)
        cv2.imwrite(str(args.file), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
        print(args.file)
        return
    width, height = args.size
    if args.command == "clip":
        person, room, take, camera = args.numbers
        performance = Performance(
            Recording(person, room, take, camera, args.label, fps=args.fps), width=width, height=height, seed=args.seed
        )
        write_video(args.file, tqdm(performance.frames(), total=len(performance), unit="frame"), performance.fps)
        for start, end, label in performance.spans():
            print(f"{start:6.2f} {end:6.2f} {label}")
        return
    recordings = []
    for split in SPLITS if args.split == "all" else (args.split,):
        clips, days = DEFAULT[split]
        recordings += plan(
            split, clips_per_class=clips if args.clips is None else args.clips, days=days if args.days is None else args.days,
            day_seconds=args.day_seconds, seed=args.seed, ceiling=args.ceiling,
        )  # fmt: skip
    seconds = 0.0
    with tqdm(total=len(recordings), unit="video", smoothing=0.05) as bar:
        for row in make(recordings, args.folder, width=width, height=height, seed=args.seed, workers=args.workers):
            seconds += float(row["seconds"])
            bar.update()
            bar.set_postfix_str(f"{seconds / 3600:.2f} h")
    print(f"{len(recordings)} videos, {seconds / 3600:.2f} h, in {args.folder}")


if __name__ == "__main__":
    command.run(main)
