"""A folder of videos labelled into one table: nothing stops it, and nothing is done twice."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from pipelines.archive import BadArchive, Journal, label_archive
from pipelines.label import BUNDLED
from tests.assets import copy_repeated, numbered
from tests.processes import children, kill

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three videos, one of them in a folder of its own; a playlist and rubbish in the dress of videos; and a text."""
    folder = tmp_path_factory.mktemp("archive")
    (folder / "yard").mkdir()
    for k, name in enumerate(("a.mp4", "b.mkv", "yard/a.mp4")):
        numbered(folder / name, frames=60 + 24 * k, fps=24.0)
    (folder / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
    (folder / "rubbish.avi").write_bytes(os.urandom(5000))
    (folder / "notes.txt").write_text("no video")
    return folder


def command(folder: Path, out: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.label", str(folder), "--out", str(out), "--threads", "2", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_a_table_has_every_video_and_says_which_could_not_be_labelled(folder, tmp_path):
    """The same labels as for one video, and nothing of what is no video."""
    run = command(folder, tmp_path / "out" / "labels.parquet", "--top-k", "2")
    told, said = run.communicate(timeout=120)
    assert run.returncode == 0
    assert "3 videos labelled, 2 not" in told
    assert "video_not_a_video: list.mp4" in said
    table = pq.read_table(tmp_path / "out" / "labels.parquet")
    rows = table.to_pylist()
    assert {row["file"]: row["code"] for row in rows if row["kind"] == "error"} == {
        "list.mp4": "video_not_a_video",
        "rubbish.avi": "video_not_a_video",
    }
    assert [row["file"] for row in rows if row["kind"] == "video"] == ["a.mp4", "b.mkv", "yard/a.mp4"]
    segments = [row for row in rows if row["kind"] == "segment" and row["file"] == "b.mkv"]
    assert [(row["index"], row["start"]) for row in segments] == [(0, 0.0), (1, 2.0)]
    assert all(len(row["labels"]) == 2 and row["labels"][0]["label"] == row["label"] for row in segments)
    assert table.schema.metadata[b"digest"].startswith(b"sha256:")


def test_what_was_labelled_is_not_labelled_again(folder, tmp_path):
    """A run killed on its way goes on; a video that has changed is labelled anew; the last line may be half written."""
    videos = tmp_path / "videos"
    videos.mkdir()
    part = numbered(tmp_path / "part.mp4", frames=240, fps=24.0, width=64, height=48, codec_options={"bf": "0"})
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        copy_repeated(part.path, videos / name, times=3 if name == "a.mp4" else 60)
    out, journal = tmp_path / "labels.parquet", tmp_path / "labels.parquet.journal"
    run = command(videos, out)
    try:
        while not journal.exists() or len(journal.read_bytes().splitlines()) < 2:
            assert run.poll() is None
            time.sleep(0.05)
    finally:
        kill(psutil.Process(run.pid))
        run.communicate()
    assert not out.exists()
    lines = journal.read_bytes()
    with journal.open("ab") as file:
        file.write(lines.splitlines()[1][:40])
    copy_repeated(part.path, videos / "c.mp4", times=2)
    copy_repeated(part.path, videos / "b.mp4", times=2)
    assert label_archive(videos, out, BUNDLED, top_k=3, processes=1) == (3, 0)
    assert journal.read_bytes().startswith(lines)
    before = journal.stat().st_mtime_ns
    numbered(videos / "c.mp4", frames=24)
    assert label_archive(videos, out, BUNDLED, top_k=3, processes=1) == (3, 0)
    ends = {row["file"]: row["end"] for row in pq.read_table(out).to_pylist() if row["kind"] == "video"}
    assert ends == pytest.approx({"a.mp4": 30.0, "b.mp4": 20.0, "c.mp4": 0.96}, abs=0.05)
    assert journal.stat().st_mtime_ns > before


@pytest.mark.parametrize(("deaths", "labelled"), [(1, 2), (2, 1)])
def test_a_process_that_dies_takes_no_other_video_with_it(tmp_path, deaths, labelled):
    """The video is tried once more, alone; when that dies, too, the table says so."""
    part = numbered(tmp_path / "part.mp4", frames=240, fps=24.0, width=64, height=48, codec_options={"bf": "0"})
    (tmp_path / "videos").mkdir()
    copy_repeated(part.path, tmp_path / "videos" / "b_long.mp4", times=30)
    copy_repeated(part.path, tmp_path / "videos" / "a_short.mp4", times=1)
    found = [(0, 0)]

    def work() -> None:
        found[0] = label_archive(tmp_path / "videos", tmp_path / "t.parquet", BUNDLED, top_k=1, processes=1)

    thread = threading.Thread(target=work)
    thread.start()
    killed, me, journal = set(), psutil.Process(), tmp_path / "t.parquet.journal"
    while thread.is_alive() and len(killed) < deaths:
        labelling = journal.exists() and len(journal.read_bytes().splitlines()) == 2  # the short one is done
        for process in children(me) if labelling else ():
            decoders = children(process, "pipelines.decode_worker")
            if process.pid not in killed and any(children(decoder) for decoder in decoders):
                process.kill()
                killed.add(process.pid)
        time.sleep(0.02)
    thread.join(120)
    assert not thread.is_alive()
    assert found[0] == (labelled, 2 - labelled)
    kinds = {
        row["file"]: row["code"] for row in pq.read_table(tmp_path / "t.parquet").to_pylist() if row["kind"] == "error"
    }
    assert kinds == ({"b_long.mp4": "internal"} if deaths == 2 else {})
    # What need not have been the video's fault is tried again by the same command; what is done is not.
    lines = journal.read_bytes()
    assert label_archive(tmp_path / "videos", tmp_path / "t.parquet", BUNDLED, top_k=1, processes=1) == (2, 0)
    assert len(journal.read_bytes().splitlines()) == len(lines.splitlines()) + (deaths == 2)


def test_a_name_that_is_no_utf_8_has_its_rows_like_any_other(tmp_path):
    """A disk's old names: bytes that are no text are told as such, and the table is written. What cannot be labelled is tried once."""
    videos = tmp_path / "videos"
    videos.mkdir()
    good = numbered(tmp_path / "part.mp4", frames=48, fps=24.0).path
    os.rename(good, os.fsencode(videos) + b"/k\xfcche.mp4")
    Path(os.fsdecode(os.fsencode(videos) + b"/bl\xf6d.mp4")).write_text("no video")
    for _ in range(2):
        assert label_archive(videos, tmp_path / "t.parquet", BUNDLED, top_k=1, processes=1) == (1, 1)
        rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
        assert {row["kind"]: row["file"] for row in rows if row["kind"] in ("video", "error")} == {
            "video": "k\\xfcche.mp4",
            "error": "bl\\xf6d.mp4",
        }
    assert len((tmp_path / "t.parquet.journal").read_bytes().splitlines()) == 3


def test_two_runs_do_not_write_one_journal(tmp_path):
    """The second is told; when the first has ended, it may go on."""
    with Journal(tmp_path / "j", "sha256:1", 3) as journal:
        journal.add({"key": "a", "file": "a", "answer": {}})
        with pytest.raises(BadArchive, match="being written by another run"):
            Journal(tmp_path / "j", "sha256:1", 3)
    with Journal(tmp_path / "j", "sha256:1", 3) as journal:
        assert journal["a"]["file"] == "a"


def test_a_recorders_day_is_labelled_whole(tmp_path):
    """Seven hours, of few frames to be quick: more than the service takes of an upload."""
    (tmp_path / "videos").mkdir()
    numbered(tmp_path / "videos" / "day.mp4", frames=50, fps=0.002, width=64, height=48)
    assert label_archive(tmp_path / "videos", tmp_path / "t.parquet", BUNDLED, top_k=1, processes=1) == (1, 0)
    ends = [row["end"] for row in pq.read_table(tmp_path / "t.parquet").to_pylist() if row["kind"] == "video"]
    assert ends == pytest.approx([25_000], abs=500)


def test_a_journal_of_another_model_is_not_gone_on_with(tmp_path):
    """Nor one with another number of labels; and a folder without videos is named."""
    with Journal(tmp_path / "j", "sha256:1", 3):
        pass
    with pytest.raises(BadArchive, match="sha256:1 and --top-k 3, and this is the model sha256:1 and --top-k 5"):
        Journal(tmp_path / "j", "sha256:1", 5)
    with pytest.raises(BadArchive, match="no video is below"):
        label_archive(tmp_path, tmp_path / "t.parquet", BUNDLED, top_k=1, processes=1)
