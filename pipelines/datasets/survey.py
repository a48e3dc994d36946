"""What a data set holds, counted: clips, hours and classes by split, and every problem, those of its videos included."""

import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from models.spec import SMALL
from pipelines.datasets.base import SPLITS, Found, LabelledVideo, Problem, overlap
from pipelines.decode import open_video
from pipelines.errors import VideoError


@dataclass(frozen=True, slots=True)
class Survey:
    """Of a data set whose videos have all been opened."""

    found: Found
    """Without what cannot be read."""
    hours: dict[str, float]
    """By split, of what counts."""

    def counts(self) -> dict[str, dict[str, int]]:
        """By class and split: trimmed clips, or spans of untrimmed videos."""
        counted = {split: Counter(labels(self.found.of(split))) for split in SPLITS}
        return {label: {split: counted[split][label] for split in SPLITS} for label in self.found.classes}

    def text(self) -> str:
        """For people."""
        found, counts = self.found, self.counts()
        wide = max(map(len, (*found.classes, "classes")))
        rows = [("", *SPLITS), ("videos", *(f"{len(found.of(split)):,}" for split in SPLITS))]
        rows += [("hours", *(f"{self.hours[split]:.2f}" for split in SPLITS))]
        rows += [("classes", *(str(sum(count[split] > 0 for count in counts.values())) for split in SPLITS)), ("",) * 4]
        rows += [(label, *(f"{count[split]:,}" for split in SPLITS)) for label, count in counts.items()]
        lines = [found.title, "", *(f"{row[0]:{wide}}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in rows)]
        for split in SPLITS:
            if (none := [label for label in found.classes if not counts[label][split]]) and found.of(split):
                lines += ["", f"Nothing in {split} of {', '.join(none)}."]
        if together := overlap(found.videos):
            lines += [
                "",
                f"Several labels at once in {together:.1%} of the time that has any: `crt: {{several: true}}` learns them all.",
            ]
        lines += [
            "",
            f"{len(found.problems)} problems" + (":" if found.problems else "."),
            *(f"  {one}" for one in found.problems),
        ]
        return "\n".join(line.rstrip() for line in lines)

    def to_dict(self) -> dict[str, object]:
        """JSON values."""
        return {
            "title": self.found.title,
            "videos": {split: len(self.found.of(split)) for split in SPLITS},
            "hours": {split: round(hours, 4) for split, hours in self.hours.items()},
            "classes": self.counts(),
            "several_at_once": round(overlap(self.found.videos), 4),
            "problems": [{"code": one.code, "what": one.what, "detail": one.detail} for one in self.found.problems],
        }


def labels(videos: Iterable[LabelledVideo]) -> Iterable[str]:
    """Of the clips, or of the spans of what is untrimmed."""
    for video in videos:
        yield from [video.label] if video.label is not None else [span.label for span in video.spans]


def survey(found: Found, *, threads: int | None = None) -> Survey:
    """Opens every video, so many at a time, and takes its length from the header, or where that has none by decoding it all."""
    paths = sorted({video.path for video in found.videos})
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        lengths = dict(
            zip(paths, tqdm(pool.map(_length, paths), total=len(paths), desc="open", unit="video"), strict=True)
        )
    problems, videos = list(found.problems), []
    hours = dict.fromkeys(SPLITS, 0.0)
    for video in found.videos:
        length = lengths[video.path]
        if isinstance(length, str):
            problems.append(Problem("unreadable", video.name, length))
        elif video.start >= length:
            detail = f"begins at {video.start:g} s of a video of {length:.2f} s"
            problems.append(Problem("bad_span", video.name, detail))
        else:
            videos.append(video)
            hours[video.split] += (min(video.end, length) - video.start) / 3600
            for span in video.spans:
                if span.start >= length:
                    detail = f"{span.label} from {span.start:g} s on, in a video of {length:.2f} s"
                    problems.append(Problem("bad_span", video.name, detail))
    return Survey(replace(found, videos=videos, problems=problems), hours)


def _length(path: Path) -> float | str:
    """Seconds; or why it cannot be decoded."""
    try:
        with open_video(path, spec=SMALL) as video:
            if video.info.duration:
                return video.info.duration
            for _ in video:
                pass
            return video.summary.duration
    except VideoError as error:
        return str(error)
