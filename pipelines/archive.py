"""Labels for a folder of videos: `python -m pipelines.label DIR --out labels.parquet`.

    labels.parquet            a row for each video, segment and event, see write_table; videos that cannot be labelled have a row that says why
    labels.parquet.journal    JSON Lines: the model, then each video's answer as soon as it is there

The journal makes the work resumable: the same command goes on where it was stopped, at any moment, and after new videos have come
labels only those, those that have changed, and those that failed by what need not be their own fault (RETRIED). The table is
written at the end, whole or not at all.
"""

import fcntl
import functools
import itertools
import json
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from models import checkpoint
from models.errors import CrtError
from pipelines.device import Device
from pipelines.errors import VideoError
from pipelines.label import Labelling, describe
from pipelines.recognizer import Recognizer
from pipelines.video import of_ones_own

SUFFIXES = (
    ".3gp", ".avi", ".flv", ".gif", ".h264", ".h265", ".hevc", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".ogv", ".ts", ".webm", ".wmv",
)  # fmt: skip
"""Of files that are taken for videos; what they are in truth, their first bytes tell."""
RETRIED = ("internal", "video_decoder_died", "video_out_of_memory", "video_timeout", "video_unreadable")
"""Codes of what need not be the video's own fault, but a disk's, a network's or a busy machine's: the same command tries again."""
_ROW_GROUP = 100_000
"""Rows written at a time."""


class BadArchive(CrtError):  # noqa: N818 - named after what is wrong
    """There is nothing to label, or the journal belongs to another run."""

    code = "archive_bad"


def videos_below(folder: Path) -> list[Path]:
    """All files with a video's suffix, by name. Raises BadArchive where there are none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise BadArchive(f"no video is below {folder}: no file ends in {', '.join(SUFFIXES)}")
    return found


class Journal:
    """Answers by video, on disk as soon as they are given, and there only: of an archive's they would not fit into memory.

    A context manager.
    """

    def __init__(self, path: Path, model: str, top_k: int) -> None:
        """Finds what is there. Raises BadArchive for a journal of another model or with another number of labels, or of a run that goes on."""
        self._places: dict[str, int] = {}
        self.bad = set[str]()
        """Keys of videos that could not be labelled."""
        self.due_again = set[str]()
        """Of these, the keys of those that are worth another try."""
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise BadArchive(f"{path} is being written by another run; let it end, or give another --out") from None
        self._end = 0
        head = {"model": model, "top_k": top_k}
        self._file.seek(0)
        for line in self._file:
            if not line.endswith(b"\n"):
                break  # half written when the run was stopped
            entry = json.loads(line)
            if self._end == 0 and entry != head:
                self._file.close()
                raise BadArchive(
                    f"{path} was begun with {_said(entry)}, and this is {_said(head)}. "
                    "Give another --out, or remove the journal to begin anew."
                )
            if self._end:
                self._note(entry)
            self._end += len(line)
        self._file.truncate(self._end)
        if not self._end:
            self._write(head)

    def _note(self, entry: Mapping[str, Any]) -> None:
        self._places[entry["key"]] = self._end
        code = entry["error"]["code"] if "error" in entry else None
        (self.bad.add if code else self.bad.discard)(entry["key"])
        (self.due_again.add if code in RETRIED else self.due_again.discard)(entry["key"])

    def add(self, entry: Mapping[str, Any]) -> None:
        """A video's answer under its "key"."""
        self._note(entry)
        self._write(entry)

    def _write(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        self._file.write(line)
        self._file.flush()
        self._end += len(line)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> dict[str, Any]:
        self._file.seek(self._places[key])
        found: dict[str, Any] = json.loads(self._file.readline())
        return found

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _said(head: Mapping[str, Any]) -> str:
    return f"the model {head.get('model')} and --top-k {head.get('top_k')}"


def key_of(path: Path, folder: Path) -> str:
    """A video as it is now. Raises OSError when it is gone."""
    found = path.stat()
    return f"{path.relative_to(folder).as_posix()} {found.st_size} {found.st_mtime_ns}"


Answers = Callable[[list[Path]], Iterator[tuple[Path, dict[str, Any]]]]
"""Labels videos: each one's `answer` (what POST /v1/clips answers) or `error`, in any order, each once."""


def label_archive(
    folder: Path, out: Path, model: Path | str, *, top_k: int, processes: int, device: Device = "cpu", ray: str = ""
) -> tuple[int, int]:
    """Labels all videos below a folder and writes the table; how many were labelled, and how many could not be.

    With so many processes here; or, given the address of a Ray cluster, on all of its cores: then every node has the folder and the model
    under the same names. Raises BadArchive; EngineUnavailable; BadCheckpoint and what else a model may lack.
    """
    if ray:
        from pipelines.ray_archive import answers_by_cluster  # which is built on this file

        answers: Answers = functools.partial(answers_by_cluster, model=model, top_k=top_k, address=ray)
        folder = folder.absolute()
    else:
        answers = functools.partial(_answers, model=model, top_k=top_k, processes=processes, device=device)
    name, digest = _named(model)
    paths = videos_below(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    with Journal(out.with_name(out.name + ".journal"), digest, top_k) as journal:
        keys = {path: key_of(path, folder) for path in paths}
        sizes = {path: path.stat().st_size for path in paths}
        due = [path for path in paths if keys[path] not in journal or keys[path] in journal.due_again]
        labelled = len(paths) - len(due)
        with tqdm(
            total=sum(sizes.values()), initial=sum(sizes.values()) - sum(sizes[path] for path in due),
            unit="B", unit_scale=True, unit_divisor=1024, desc="label", smoothing=0.05,
        ) as bar:  # fmt: skip
            for count, (path, answer) in enumerate(answers(due), labelled + 1):
                file = readable(path.relative_to(folder).as_posix())
                journal.add({"key": keys[path], "file": file, **answer})
                if "error" in answer:
                    tqdm.write(f"{answer['error']['code']}: {file}: {answer['error']['detail']}", file=sys.stderr)
                bar.update(sizes[path])
                bar.set_postfix_str(f"{count}/{len(paths)} videos", refresh=False)
        write_table(out, (journal[keys[path]] for path in paths), {"model": name, "digest": digest})
        bad = sum(keys[path] in journal.bad for path in paths)
    return len(paths) - bad, bad


def _named(model: Path | str) -> tuple[str, str]:
    found = checkpoint.read(model)
    return found.name, found.digest


def _answers(
    due: list[Path], model: Path | str, top_k: int, processes: int, device: Device
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each video's answer as it comes. A video at which a process dies is tried once more, alone, and then given up."""
    waiting, suspects = deque(due), deque[Path]()
    while waiting or suspects:
        alone = not waiting
        try:
            yield from _in_pool(
                suspects if alone else waiting, suspects, model, top_k, 1 if alone else processes, device
            )
        except BrokenProcessPool:
            if alone:
                path = suspects.popleft()
                yield (
                    path,
                    error_of(
                        "internal", "the process that labelled it died, twice; it may want more memory than there is"
                    ),
                )


def _in_pool(
    waiting: deque[Path], suspects: deque[Path], model: Path | str, top_k: int, processes: int, device: Device
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Works the queue off. Raises BrokenProcessPool when a process died; then what was being worked on is among the suspects."""
    running: dict[Future[dict[str, Any]], Path] = {}
    alone = waiting is suspects
    # Not forked: a process that runs networks has threads, and what they hold locked would stay locked in a copy.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn, begin, (str(model), top_k, device)) as pool:
        try:
            while waiting or running:
                # No more than are worked on: of those that only wait, none is lost with a process.
                while waiting and len(running) < processes and not (alone and running):
                    path = waiting[0] if alone else waiting.popleft()
                    running[pool.submit(label, path)] = path
                for job in wait(running, return_when=FIRST_COMPLETED).done:
                    path = running[job]
                    answer = job.result()
                    del running[job]
                    if alone:
                        waiting.popleft()
                    yield path, answer
        except BrokenProcessPool:
            if not alone:
                suspects.extend(running.values())
            raise
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_recognizer: Recognizer
_top_k: int


def begin(model: str, top_k: int, device: Device = "cpu") -> None:
    """Makes this process one that labels, on one core."""
    global _recognizer, _top_k
    _recognizer, _top_k = Recognizer(checkpoint.read(model), threads=1, device=device), top_k


def label(path: Path) -> dict[str, Any]:
    """What POST /v1/clips answers, or an error. begin comes before. Raises CrtError for what is wrong with this machine."""
    try:
        with Labelling(path, _recognizer, budget=of_ones_own(path)) as labelling:
            for _ in labelling:
                pass
            return {"answer": describe(labelling.result, _recognizer, _top_k)}
    except VideoError as error:
        return error_of(error.code, str(error))
    except OSError as error:  # gone, or a disk that fails
        return error_of("video_unreadable", str(error))
    except CrtError:  # this machine's fault, at every video
        raise
    except Exception as error:  # a defect that one video brings to light must not keep the others from their labels
        return error_of("internal", f"{type(error).__name__}: {error}")


def error_of(code: str, detail: str) -> dict[str, Any]:
    """Why a video has no labels."""
    return {"error": {"code": code, "detail": readable(detail)}}


def readable(text: str) -> str:
    """A text in which a file's name may be: bytes of it that are no UTF-8 are written as \\xNN."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def rows(entry: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A video's rows of the table, the video itself first."""
    file = entry["file"]
    if "error" in entry:
        yield {"file": file, "kind": "error", **entry["error"]}
        return
    answer = entry["answer"]
    video = answer["video"]
    yield {"file": file, "kind": "video", "start": 0.0, "end": video["duration"], **_best(answer["labels"])}
    for segment in answer["segments"]:
        yield {
            "file": file, "kind": "segment", "index": segment["index"], "start": segment["start"], "end": segment["end"],
            **_best(segment["labels"]),
        }  # fmt: skip
    for index, event in enumerate(answer["events"]):
        yield {
            "file": file, "kind": "event", "index": index, "start": event["start"], "end": event["end"], "label": event["label"],
            "score": event["confidence"],
        }  # fmt: skip
    for warning in answer["warnings"]:
        yield {"file": file, "kind": "warning", **warning}


def _best(labels: list[dict[str, Any]]) -> dict[str, Any]:
    first = labels[0] if labels else {"label": None, "score": None}
    return {"label": first["label"], "score": first["score"], "labels": labels}


def write_table(out: Path, answers: Iterable[Mapping[str, Any]], about: Mapping[str, str]) -> None:
    """As Parquet; answers in the order of the journal's keys.

    Columns: file, kind (video, segment, event, warning, error), index, start and end in seconds, label and score (the best, or the event's
    own), labels (the top_k, best first), code and detail (of warnings and errors).
    """
    import pyarrow as pa  # only here, and half a second to load
    import pyarrow.parquet as pq

    text, number = pa.string(), pa.float64()
    schema = pa.schema(
        {
            "file": text, "kind": text, "index": pa.int32(), "start": number, "end": number, "label": text, "score": number,
            "labels": pa.list_(pa.struct({"label": text, "score": number})), "code": text, "detail": text,
        },
        metadata=dict(about),
    )  # fmt: skip
    part = out.with_name(out.name + ".part")
    every = itertools.chain.from_iterable(rows(entry) for entry in answers)
    with pq.ParquetWriter(part, schema) as writer:
        while some := list(itertools.islice(every, _ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(some, schema))
    os.replace(part, out)
