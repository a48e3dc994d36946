"""The whole way for a file: `python -m pipelines.label FILE`, and what the service does with an upload.

Segments come as they are made; the result follows the last one. A label's score is the mean of the segments' probabilities, each
segment weighted by its clips and the first three less, as in streaming.weight. The background is a label of segments, not of a
whole video: it is left out there, and what is left is not scaled up, so that a video in which little happens has low scores.
"""

import argparse
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from tqdm import tqdm

from models import checkpoint
from pipelines import command
from pipelines.decode import Video, open_video
from pipelines.device import Device, pick
from pipelines.events import Event, EventOptions
from pipelines.frames import Clip
from pipelines.recognizer import Recognizer
from pipelines.remembering import describe_memory
from pipelines.streaming import Segment, SegmentResult, Step, Stream, StreamState, weight, weighted_mean
from pipelines.video import Budget, VideoSummary, VideoWarning, of_ones_own

BUNDLED = Path(__file__).parent.parent / "models" / "bundled"
"""The model that ships with the project."""
CLIPS_A_CALL = 1
"""Clips that go through the backbone together. While more are waited for and worked on, the decoder's pipe is full, and decord's
threads use the time to make pictures that nobody wants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Where the time went, in seconds."""

    decode: float
    """Waiting for frames; decoding runs in a process of its own, beside the rest."""
    features: float
    crt: float
    total: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VideoResult:
    """What a whole video gave."""

    video: VideoSummary
    scores_C: np.ndarray
    """float64[C]: mean over the segments, see above."""
    segments: tuple[SegmentResult, ...]
    events: tuple[Event, ...]
    warnings: tuple[VideoWarning, ...]
    timing: Timing


class Labelling:
    """A video being labelled: open, iterate once for its segments, then read `result`. Closing it ends the decoding at once.

    A video may be the next piece of a stream; then what is full is labelled, and the rest waits in the stream for more.
    """

    video: Video
    """There once it is open."""

    def __init__(
        self,
        path: Path,
        recognizer: Recognizer,
        *,
        budget: Budget | None = None,
        events: EventOptions | None = None,
        stream: Stream | None = None,
        offset: float = 0.0,
        end: bool = True,
        memory: bool = False,
    ) -> None:
        """Does nothing yet, so that it can be killed from the first moment on.

        stream is the one that goes on with this video, at `offset` seconds; end says whether it ends with it. memory: segments say
        what the memory did.
        """
        self._memory = memory
        self._path, self._budget, self._offset, self._end = path, budget, offset, end
        self._recognizer = recognizer
        self._lock = threading.Lock()
        self._killed = False
        self._kill: Callable[[], None] | None = None
        self._features = self._crt = 0.0
        self._result: VideoResult | None = None
        self._piece = stream is not None
        self._stream = stream or Stream(
            recognizer.spec, recognizer.segment, recognizer.labels, recognizer.background,
            StreamState(memory_M=recognizer.initial_memory()), events=events, remembers=recognizer.remembers,
            several=recognizer.several,
        )  # fmt: skip
        self._segments: list[SegmentResult] = []
        self._events: list[Event] = []
        self.states: dict[int, StreamState] = {}
        """Of a piece, the stream's states after each of its segments, by the number of segments finished."""

    def open(self) -> None:
        """Opens the video and waits for its first frame. Raises VideoError when none can be had."""
        self._started = time.perf_counter()
        self.video = open_video(
            self._path, spec=self._recognizer.spec, budget=self._budget, started=self._decoder_started,
            offset=self._offset, sampler=self._stream.sampler if self._piece else None,
        )  # fmt: skip

    def _decoder_started(self, kill: Callable[[], None]) -> None:
        with self._lock:
            self._kill = kill
            if self._killed:
                kill()

    def __iter__(self) -> Iterator[SegmentResult]:
        """Segments as they are made. Raises VideoError when the video goes over its budget."""
        due: list[Clip] = []
        first = self._stream.frame
        for frame, ticks in self.video:
            due += self._stream.push(frame, ticks, first + self.video.index)
            if len(due) >= CLIPS_A_CALL:
                yield from self._advance(due)
                due = []
        summary = self.video.summary
        self._stream.skip_to(self.video.sampler, first + summary.frames, self._offset + summary.duration)
        if self._end:
            due += self._stream.finish()
        yield from self._advance(due)
        if self._end:
            if (rest := self._stream.rest()) is not None:
                yield self._step(rest).result
            self._events += [change.event for change in self._stream.close()]
        scores = self._mean_scores()
        total = time.perf_counter() - self._started
        timing = Timing(
            decode=max(total - self._features - self._crt, 0.0), features=self._features, crt=self._crt, total=total
        )
        self._result = VideoResult(
            video=summary, scores_C=scores, segments=tuple(self._segments), events=tuple(self._events),
            warnings=tuple(self.video.warnings), timing=timing,
        )  # fmt: skip

    def _advance(self, clips: list[Clip]) -> Iterator[SegmentResult]:
        if not clips:
            return
        began = time.perf_counter()
        features_NF = self._recognizer.features([clip.frames for clip in clips])
        self._features += time.perf_counter() - began
        for clip, feature_F in zip(clips, features_NF, strict=True):
            if (segment := self._stream.add(clip, feature_F)) is not None:
                yield self._step(segment).result

    def _mean_scores(self) -> np.ndarray:
        totals_C, weighed = np.zeros(len(self._recognizer.labels)), 0
        for segment in self._segments:
            part = weight(segment.index, segment.clips, remembers=self._recognizer.remembers)
            totals_C += segment.scores_C.astype(np.float64) * part
            weighed += part
        return weighted_mean(totals_C, weighed)

    def _step(self, segment: Segment) -> Step:
        began = time.perf_counter()
        prediction = self._recognizer.advance(segment.features_LF[None], segment.memory_M[None], segment.mask_L[None])
        self._crt += time.perf_counter() - began
        step = self._stream.advance(segment, prediction.scores_BC[0], prediction.scores_BLC[0], prediction.memory_BM[0])
        if self._memory:
            use = self._recognizer.memory_use(
                segment.features_LF, segment.memory_M, segment.mask_L, prediction.memory_BM[0]
            )
            step = replace(step, result=replace(step.result, memory=use))
        self._segments.append(step.result)
        if self._piece:
            self.states[step.result.index + 1] = self._stream.state()
        self._events += [change.event for change in step.events if change.state == "ended"]
        return step

    @property
    def result(self) -> VideoResult:
        """The whole video's; there after the last segment."""
        if self._result is None:
            raise RuntimeError("the result is there after the last segment: iterate first")
        return self._result

    def kill(self) -> None:
        """Ends the labelling from another thread, at any time: the one that opens or iterates gets DecoderDied. close is still due."""
        with self._lock:
            self._killed = True
            if self._kill is not None:
                self._kill()

    def close(self) -> None:
        """Ends the decoding, at once if it still runs."""
        if hasattr(self, "video"):
            self.video.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def ranked(
    scores_C: np.ndarray, labels: tuple[str, ...], top_k: int, *, without: str | None = None
) -> list[dict[str, Any]]:
    """The `top_k` best labels with their scores, best first; `without` is left out."""
    order = [i for i in np.argsort(-scores_C, kind="stable") if labels[i] != without]
    return [{"label": labels[i], "score": round(float(scores_C[i]), 6)} for i in order[:top_k]]


def describe_segment(segment: SegmentResult, labels: tuple[str, ...], top_k: int) -> dict[str, Any]:
    """A segment as JSON values; `memory` only where it was asked for."""
    memory = {} if segment.memory is None else {"memory": describe_memory(segment.memory, labels)}
    return {
        "index": segment.index, "start": round(segment.start, 6), "end": round(segment.end, 6),
        "labels": ranked(segment.scores_C, labels, top_k), **memory,
    }  # fmt: skip


def describe(result: VideoResult, recognizer: Recognizer, top_k: int) -> dict[str, Any]:
    """A result as JSON values: what POST /v1/clips answers."""
    video, labels = result.video, recognizer.labels
    return {
        "model": {"name": recognizer.model.name, "digest": recognizer.model.digest},
        "video": {
            "duration": round(video.duration, 6), "fps": round(video.fps, 6), "width": video.width, "height": video.height,
            "frames": video.frames, "sampled": video.sampled,
        },
        "labels": ranked(result.scores_C, labels, top_k, without=recognizer.background),
        "segments": [describe_segment(segment, labels, top_k) for segment in result.segments],
        "events": [
            {"label": e.label, "start": round(e.start, 6), "end": round(e.end, 6), "confidence": round(e.confidence, 6)} for e in result.events
        ],
        "warnings": [{"code": warning.code, "detail": warning.detail} for warning in result.warnings],
        "timing": {name: round(getattr(result.timing, name), 6) for name in ("decode", "features", "crt", "total")},
    }  # fmt: skip


def _print(answer: dict[str, Any]) -> None:
    video = answer["video"]
    print(
        f"{video['duration']:.1f} s, {video['width']}x{video['height']}, {video['frames']} frames, {video['sampled']} sampled"
    )
    print("\nThe whole video")
    for one in answer["labels"]:
        print(f"  {one['score']:6.1%}  {one['label']}")
    print("\nEvents" if answer["events"] else "\nNo events")
    for event in answer["events"]:
        print(f"  {event['start']:7.1f} to {event['end']:7.1f} s  {event['label']:18} {event['confidence']:6.1%}")
    for warning in answer["warnings"]:
        print(f"\nWarning ({warning['code']}): {warning['detail']}")


def _archive(parser: argparse.ArgumentParser, args: argparse.Namespace, processes: int, device: Device) -> None:
    from pipelines.archive import label_archive  # which is built on this file

    if not args.video.is_dir() or args.json:
        parser.error("--out wants a folder of videos, and goes without --json")
    labelled, bad = label_archive(
        args.video, args.out, args.model, top_k=args.top_k, processes=processes, device=device, ray=args.ray
    )
    print(f"{labelled} videos labelled, {bad} not; {args.out}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.label", description="Labels what people do in a video, or in a folder of them."
    )
    parser.add_argument("video", type=Path, help="a video; or, with --out, a folder of them, and of folders")
    parser.add_argument(
        "--model", default=BUNDLED, help="a checkpoint's folder, or kinetics400:NAME (default: the bundled model)"
    )
    parser.add_argument("--top-k", type=command.count, default=3, help="labels to show (default: 3)")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON, as POST /v1/clips does")
    parser.add_argument("--threads", type=command.count, help="processor cores to use (default: all)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.parquet", help="label a folder into this table; resumes (archive.py)"
    )
    parser.add_argument(
        "--ray", default="", metavar="HOST:PORT", help="with --out: on the cores of this Ray cluster (docker/ray)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args()
    if args.ray and args.out is None:
        parser.error("--ray labels a folder: it goes with --out")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    threads, device = args.threads or len(os.sched_getaffinity(0)), pick(args.device)
    if args.out is not None:
        _archive(parser, args, threads, device)
        return
    recognizer = Recognizer(checkpoint.read(args.model), threads=threads, device=device)
    with Labelling(args.video, recognizer, budget=of_ones_own(args.video)) as labelling:
        duration = labelling.video.info.duration
        shape = "{l_bar}{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]" if duration else "{n:.0f} s [{elapsed}]"
        with tqdm(total=duration, bar_format=shape, disable=None) as bar:
            for segment in labelling:
                bar.update(segment.end - bar.n)
        answer = describe(labelling.result, recognizer, args.top_k)
    if args.json:
        print(json.dumps(answer, indent=2))
    else:
        _print(answer)


if __name__ == "__main__":
    command.run(main)
