"""decord and PyAV on the same files: the same pictures at the same times. Videos: tests/assets.py, and real ones."""

from pathlib import Path

import numpy as np
import pytest

from pipelines import containers
from pipelines.errors import VideoError
from pipelines.readers import DecordReader, PyavReader, ReaderFailed, quiet
from pipelines.reading import read_video
from pipelines.video import Budget
from tests.assets import SHARED, VIDEOS, cut, make, number_of, numbered, with_late_sound

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


def read(path: Path) -> tuple[list[int], list[str]]:
    """The numbers that the samples show, and the codes of the warnings."""
    with path.open("rb", buffering=0) as file:
        reading = read_video(file, rate=8.0, budget=Budget())
        return [number_of(sample.pixels) for sample in reading], [warning.code for warning in reading.warnings]


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.flv", "flv")],
)
def test_a_title_in_another_encoding_than_utf8_harms_nothing(name, codec, tmp_path):
    """Küche in Latin-1, as older cameras and programs write it."""
    plain = tmp_path / f"plain-{name}"
    numbered(plain, codec=codec, metadata={"title": "K-QQQ-che"})
    whole = read(plain)
    data = plain.read_bytes()
    assert b"K-QQQ-che" in data
    path = tmp_path / name
    path.write_bytes(data.replace(b"K-QQQ-che", b"K\xfcche".ljust(9)))
    assert read(path) == whole
    assert whole[0][:3] == [0, 4, 7]


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.wmv"])
def test_a_video_that_does_not_start_at_zero_lacks_nothing(name, tmp_path):
    """Matroska and ASF count their length from zero, wherever the first picture lies; cut off, it is still told what is missing."""
    codec = {"a.mkv": "libx264", "a.webm": "libvpx", "a.wmv": "wmv2"}[name]
    late = numbered(tmp_path / name, times=[20 + k / 25 for k in range(100)], codec=codec)
    numbers, warnings = read(late.path)
    assert len(numbers) == 32
    assert warnings == []
    cut(late.path, tmp_path / f"cut-{name}", keep=0.5)
    assert "video_truncated" in read(tmp_path / f"cut-{name}")[1] or name == "a.wmv"


def test_streams_that_come_up_late_do_not_end_the_reading(tmp_path):
    """All pictures before and after the sound begins."""
    pictures = with_late_sound(tmp_path / "a.ts")
    with (tmp_path / "a.ts").open("rb", buffering=0) as file:
        reading = read_video(file, rate=8.0, budget=Budget())
        assert sum(sample.ticks for sample in reading) >= 30
        assert reading.summary.frames == pictures


def test_bytes_behind_a_complete_video_are_not_missing_from_it(tmp_path):
    """Phones append data of their own behind an MP4; all frames that it counts are there."""
    whole = numbered(tmp_path / "a.mp4")
    path = tmp_path / "b.mp4"
    path.write_bytes(whole.path.read_bytes() + np.random.default_rng(0).bytes(5000))
    assert read(path) == read(whole.path)
