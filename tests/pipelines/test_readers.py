"""decord and PyAV on the same files: the same pictures at the same times. Videos: tests/assets.py, and real ones."""

from pathlib import Path

import numpy as np
import pytest

from pipelines import containers
from pipelines.errors import VideoError
from pipelines.readers import DecordReader, PyavReader, ReaderFailed, quiet
from pipelines.reading import read_video
from pipelines.video import Budget
from tests.assets import SHARED, VIDEOS, make, number_of

BOTH = [recipe for recipe in VIDEOS if recipe.decoder == "decord"]
LARGEST = 2_000_000
"""Bytes: enough real files are smaller."""
PYAVS = {
    "subject2-13.mp4",
    "drink_water_ntu_S001C001P001R001A001_rgb.avi",
    "mmaction2_test.avi",
    "nasa_13013_two_streams.mp4",
    "torchcodec_av1_video.mkv",
    "torchcodec_test_non_zero_start.mp4",
    "torchcodec_testsrc2_av1_10bit.mp4",
}
"""Those that are PyAV's alone: AV1, several video streams, edit lists, times that decord gets wrong."""
REAL = [
    path
    for path in sorted((SHARED / "videos").glob("*/*.*")) + sorted((SHARED / "home").glob("*/*/*.mp4"))
    # Of the damaged one, decord gives up what PyAV still reads.
    if path.stat().st_size <= LARGEST and path.name != "decord_corrupted.mp4"
]


def both(path: Path) -> tuple[PyavReader, DecordReader]:
    """Both readers on one file; ReaderFailed where it is PyAV's alone."""
    quiet()
    with path.open("rb") as file:
        container = containers.sniff(file.read(containers.HEAD))
        pyav = PyavReader(str(path), container, threads=1, max_pixels=10**8)
        edited = container.name == "mp4" and containers.edit_list_cuts(file)
        rotation = containers.rotation(file) if container.name == "mp4" else 0
    try:
        if edited or not pyav.alone:
            raise ReaderFailed("not for decord")
        info = pyav.info(container, rotation=rotation, edited=edited)
        return pyav, DecordReader(str(path), info=info, threads=1, memory=1 << 34)
    except ReaderFailed:
        pyav.close()
        raise


def compare(path: Path, every: int) -> int:
    """Compares all times and every so many pictures; returns how many were compared."""
    pyav, decord = both(path)
    compared = 0
    for index, (ours, theirs) in enumerate(zip(decord.pictures(), pyav.pictures(), strict=True)):
        assert ours.time == pytest.approx(theirs.time, abs=1e-3)
        if index % every == 0:
            one, other = ours.render(), theirs.render()
            assert one.shape == other.shape
            assert np.abs(one.astype(np.int16) - other).mean() < 1.5, index
            compared += 1
    pyav.close()
    decord.close()
    return compared


@pytest.mark.parametrize("recipe", BOTH, ids=lambda recipe: recipe.name)
def test_both_readers_give_the_same_pictures_at_the_same_times(recipe, videos):
    truth = make(recipe, videos)
    assert compare(truth.path, every=1) == len(truth.times)


@pytest.mark.skipif(not REAL, reason="real videos are on the development machine only")
@pytest.mark.parametrize("path", REAL or [None], ids=lambda path: path.name if path else "none")
def test_both_readers_agree_on_real_videos(path):
    """Every eighth picture, of those that decord may read; the others PyAV reads alone."""
    if not {path.name, f"{path.parent.parent.name}-{path.name}"} & PYAVS:
        assert compare(path, every=8) > 0
        return
    with pytest.raises(ReaderFailed):
        both(path)
    with path.open("rb") as file:
        container = containers.sniff(file.read(containers.HEAD))
    alone = PyavReader(str(path), container, threads=1, max_pixels=10**8)
    assert sum(picture.render().any() for picture in alone.pictures()) > 10
    alone.close()


def test_an_unrendered_picture_changes_no_later_one(named):
    """Only the last frame but one is asked for, far behind the first key frames."""
    for reader in both(named("fragmented.mp4").path):
        shown = next(picture.render() for index, picture in enumerate(reader.pictures()) if index == 48)
        assert number_of(shown) == 48


@pytest.mark.parametrize("name", ["fps25.mov", "fps30.mkv", "mpeg4.avi", "stream.ts", "moving.gif", "vp8.webm"])
def test_a_changed_byte_never_leads_to_more_than_a_video_error(name, named, tmp_path):
    """60 copies of each with a few random bytes changed: frames or a VideoError, always."""
    data = named(name).path.read_bytes()
    random = np.random.default_rng(0)
    outcomes = set()
    for _ in range(60):
        changed = bytearray(data)
        for at in random.integers(0, min(len(data), 6000), 4):
            changed[at] = int(random.integers(0, 256))
        path = tmp_path / name
        path.write_bytes(changed)
        try:
            with path.open("rb", buffering=0) as file:
                reading = read_video(file, rate=8.0, budget=Budget(duration=1e6, frames=10**6))
                outcomes.add(sum(sample.ticks for sample in reading) > 0)
                assert reading.summary.frames > 0
                assert all(warning.detail for warning in reading.warnings)
        except VideoError as error:
            outcomes.add(error.code)
    assert True in outcomes
