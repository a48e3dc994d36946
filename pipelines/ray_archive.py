"""Labels of an archive by all cores of a Ray cluster: `python -m pipelines.label DIR --out labels.parquet --ray HEAD:6379`.

Ray Data hands a video at a time to whoever is free, one process a core, and begins anew elsewhere what a node took along when it died. The journal
and the table are archive.py's, on the machine that asks. The folder is a network's: every node has it, and the model, under the same names.
"""

import itertools
import json
import logging
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipelines import archive
from pipelines.ray_side import join

AT_ONCE = 10_000
"""Videos given to Ray Data at a time: it plans a task for each."""
PASSES = 2
"""By Ray Data, which has given a video up before it knows that a node is dead; then alone, once, as archive.py does."""
PAUSE = 10.0
"""Seconds after which a dead node is known as such."""


class _Labels:
    """A process that labels."""

    def __init__(self, model: str, top_k: int) -> None:
        archive.begin(model, top_k)

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        return {"path": row["path"], "answer": json.dumps(archive.label(Path(row["path"])))}


def answers_by_cluster(
    due: Iterable[Path], *, model: Path | str, top_k: int, address: str
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """As archive.Answers. Raises EngineUnavailable where no cluster is."""
    join(address)
    import ray.data  # join has told where it is missing

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # there is one for all
    context.max_errored_blocks = -1  # a video whose process dies each time stops no other
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "`ray_remote_args`")  # max_task_retries has no other place in this version
    left = iter(due)
    while some := list(itertools.islice(left, AT_ONCE)):
        missing = {str(path): path for path in some}
        for turn in range(PASSES):
            if turn:
                time.sleep(PAUSE)
            for name, answer in _by_data(list(missing), model, top_k):
                yield missing.pop(name), answer
            if not missing:
                break
        else:
            time.sleep(PAUSE)
        for path in missing.values():
            yield path, _alone(path, model, top_k)


def _by_data(paths: list[str], model: Path | str, top_k: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those of the videos that can be labelled by all cores that are free; of the others, nothing."""
    import ray.data

    cores = int(ray.cluster_resources().get("CPU", 1))
    videos = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=len(paths))
    labelled = videos.map(
        _Labels, fn_constructor_args=(str(model), top_k), num_cpus=1, concurrency=(1, min(cores, len(paths))), max_task_retries=1
    )  # fmt: skip
    for row in labelled.iter_rows():
        yield row["path"], json.loads(row["answer"])


def _alone(path: Path, model: Path | str, top_k: int) -> dict[str, Any]:
    """By a process of its own, with no other video that could take it along."""
    import ray

    try:
        told = ray.get(ray.remote(num_cpus=1, max_retries=0)(_label_one).remote(str(model), top_k, str(path)))
    except ray.exceptions.RayError:
        return archive.error_of(
            "internal", "the process that labelled it died, again and again; it may want more memory than there is"
        )
    answer: dict[str, Any] = json.loads(told["answer"])
    return answer


def _label_one(model: str, top_k: int, path: str) -> dict[str, str]:
    return _Labels(model, top_k)({"path": path})
