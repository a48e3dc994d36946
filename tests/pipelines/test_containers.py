"""The allow-list of containers, and what can be told from an MP4's boxes. Videos: tests/assets.py."""

import pytest

from pipelines import containers
from pipelines.errors import EmptyVideo, NotAVideo, NoVideoStream, UnsupportedVideo
from tests.assets import VIDEOS, cut, make

EXPECTED = {
    "mp4": "mp4", "mov": "mp4", "mkv": "matroska", "webm": "matroska", "avi": "avi", "ts": "mpegts", "mpg": "mpegps",
    "h264": "h264", "gif": "gif",
}  # fmt: skip


@pytest.mark.parametrize("recipe", VIDEOS, ids=lambda recipe: recipe.name)
def test_a_video_is_known_by_its_bytes(recipe, videos):
    """Not by its name: only the first bytes are looked at."""
    head = make(recipe, videos).path.read_bytes()[: containers.HEAD]
    assert containers.sniff(head).name == EXPECTED[recipe.name.rsplit(".")[-1]]


def test_a_recording_may_begin_within_a_packet(named):
    """As one that was cut out of a broadcast does; its first whole packet is found."""
    data = named("stream.ts").path.read_bytes()
    for missing in (1, 100, 187):
        assert containers.sniff(data[missing:][: containers.HEAD]).name == "mpegts"


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:///etc/passwd\n", r"a playlist \(M3U\)"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", r"a playlist \(ffconcat\)"),
        (b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 5004 RTP/AVP 96\n", "a text|unknown"),
        (b"<?xml version='1.0'?><MPD></MPD>", "XML"),
        (b"\xef\xbb\xbf#EXTM3U\n", "not a video"),
        (b"   #EXTM3U\n", "not a video"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "JPEG"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP"),
        (b"\0\0\0\x1cftypavif" + bytes(100), "HEIF or AVIF"),
        (b"PK\x03\x04" + bytes(100), "ZIP"),
        (bytes(500), "zeros"),
        (b"G" + bytes(500), "not a video"),
        (b"\0\0\0\1", "not a video"),
        (bytes(range(7, 200)), "07 08 09 0a"),
        (b"x", "a text"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_what_is_no_video_is_refused_by_name(head, found):
    """The message says what was found and what would be right."""
    with pytest.raises(NotAVideo, match=found) as refused:
        containers.sniff(head)
    assert containers.ACCEPTED in str(refused.value)


@pytest.mark.parametrize("head", [b"ID3\x04", b"RIFF\0\0\0\0WAVEfmt ", b"fLaC\0", b"\xff\xfb\x90\x00", b"\xff\xf1\x50"])
def test_audio_files_have_a_code_of_their_own(head):
    with pytest.raises(NoVideoStream, match="audio file"):
        containers.sniff(head)


def test_an_empty_file_has_a_code_of_its_own():
    with pytest.raises(EmptyVideo, match="empty"):
        containers.sniff(b"")


@pytest.mark.parametrize(
    ("name", "turned"), [("rotated90.mp4", 90), ("rotated180.mov", 180), ("rotated270.mp4", 270), ("fps24.mp4", 0)]
)
def test_rotation_is_read_from_the_track(name, turned, named):
    with named(name).path.open("rb") as file:
        assert containers.rotation(file) == turned


def test_only_edit_lists_that_leave_something_out_count(named):
    """Nearly each MP4 has an edit list; that of one whose first frames come after its decoding is usual."""
    for name, cuts in (
        ("fps24.mp4", False),
        ("sound.mp4", False),
        ("fragmented.mp4", False),
        ("cut_by_edits.mp4", True),
    ):
        with named(name).path.open("rb") as file:
            assert containers.edit_list_cuts(file) == cuts, name


@pytest.mark.parametrize("name", ["faststart.mp4", "mpeg4.avi", "stream.ts"])
def test_bytes_that_are_missing_at_the_end_are_noticed(name, named, tmp_path):
    whole = named(name).path
    broken = cut(whole, tmp_path / name, keep=0.603)
    for path, missing in ((whole, False), (broken, True)):
        with path.open("rb") as file:
            container = containers.sniff(file.read(containers.HEAD))
            assert bool(containers.missing_bytes(file, container)) == missing


def test_an_mp4_cut_anywhere_harms_no_reading_of_its_boxes(named, tmp_path):
    """Each length of a short file, as after a transfer that broke off there."""
    data = named("rotated90.mp4").path.read_bytes()
    for length in [*range(4, 200), *range(len(data) - 1200, len(data), 3)]:
        path = tmp_path / "cut.mp4"
        path.write_bytes(data[:length])
        with path.open("rb") as file:
            assert containers.rotation(file) in (0, 90)
            containers.edit_list_cuts(file)
            containers.has_index(file)


# Live


@pytest.mark.parametrize("name", ["recorded.webm", "fragmented.mp4", "fps30.mkv", "stream.ts"])
def test_a_live_video_is_known_as_soon_as_its_bytes_tell(name, named):
    """16 bytes are enough, but for a transport stream's; more never change the verdict."""
    head = named(name).path.read_bytes()[: containers.HEAD]
    found = [containers.sniff_live(head[:count], whole=False) for count in range(containers.HEAD + 1)]
    enough = containers.HEAD if name == "stream.ts" else 16
    assert found == [None] * enough + [containers.sniff(head)] * (containers.HEAD + 1 - enough)


@pytest.mark.parametrize("name", ["mpeg4.avi", "raw.h264", "mpeg2.mpg", "moving.gif"])
def test_what_cannot_be_read_as_it_comes_is_refused(name, named):
    with pytest.raises(UnsupportedVideo, match="before it is complete") as refused:
        containers.sniff_live(named(name).path.read_bytes()[: containers.HEAD], whole=False)
    assert containers.LIVE in str(refused.value)


@pytest.mark.parametrize("head", [b"#EXTM3U\n#EXTINF:1,\n", b"\x89PNG\r\n\x1a\n" + bytes(20), bytes(containers.HEAD)])
def test_what_is_no_live_video_is_told_what_would_be(head):
    with pytest.raises(NotAVideo) as refused:
        containers.sniff_live(head, whole=False)
    assert containers.LIVE in str(refused.value)


def test_a_few_bytes_that_tell_nothing_are_refused_only_when_they_are_all():
    assert containers.sniff_live(b"some words, no video", whole=False) is None
    with pytest.raises(NotAVideo, match="a text"):
        containers.sniff_live(b"some words, no video", whole=True)
    with pytest.raises(EmptyVideo):
        containers.sniff_live(b"", whole=True)


@pytest.mark.parametrize(
    ("name", "fragmented"), [("fragmented.mp4", True), ("faststart.mp4", False), ("fps24.mp4", False)]
)
def test_fragments_are_announced(name, fragmented, named):
    with named(name).path.open("rb") as file:
        assert containers.is_fragmented(file) == fragmented


def test_a_fragment_that_is_moved_says_anew_where_its_data_lie(named):
    """Where it counts from the file's beginning; a header of another kind, or a cut one, stays as it is."""
    data = named("fragmented.mp4").path.read_bytes()
    at = data.index(b"moof") - 4
    moof = data[at : at + int.from_bytes(data[at : at + 4])]
    base = moof.index(b"tfhd") + 12
    assert int.from_bytes(moof[base : base + 8]) == at

    changed = containers.moved(moof, 100)
    assert int.from_bytes(changed[base : base + 8]) == at - 100
    assert changed[:base] + moof[base : base + 8] + changed[base + 8 :] == moof
    assert containers.moved(moof, 0) == moof
    assert containers.moved(b"", 100) == b""
    assert containers.moved(data[:at], 100) == data[:at]
    assert len(containers.moved(moof[: base + 2], 100)) == base + 2
