"""Labels of an archive by all cores of a Ray cluster: `python -m pipelines.label DIR --out labels.parquet --ray HEAD:6379`.

Ray Data hands a video at a time to whoever is free, one process a core, and begins anew elsewhere what a node took along when it died. The journal
and the table are archive.py's, on the machine that asks. The folder is a network's: every node has it, and the model, under the same names.
"""

import itertools
import json
import logging
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipelines import archive
from pipelines.ray_side import join

AT_ONCE = 10_000
"""Videos given to Ray Data at a time: it plans a task for each."""
TRIES = 3
"""Of a video whose process or node dies; then it is given up, as archive.py does."""


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
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "`ray_remote_args`")  # max_task_retries has no other place in this version
    left = iter(due)
    while some := list(itertools.islice(left, AT_ONCE)):
        cores = int(ray.cluster_resources().get("CPU", 1))
        labelled = ray.data.from_items([{"path": str(path)} for path in some], override_num_blocks=len(some)).map(
            _Labels, fn_constructor_args=(str(model), top_k), num_cpus=1, concurrency=(1, min(cores, len(some))), max_task_retries=TRIES - 1,
        )  # fmt: skip
        missing = {str(path): path for path in some}
        for row in labelled.iter_rows():
            yield missing.pop(row["path"]), json.loads(row["answer"])
        for path in missing.values():
            yield path, archive.error_of("internal", f"the process that labelled it died, {TRIES} times")
