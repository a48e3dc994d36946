"""Untrusted video through the whole of open_video: right frames, bad files, budgets, and workers that end badly.

Videos: tests/assets.py. Frames show their numbers, so each test reads off the pixels which frame it got.
"""

import gc
import itertools
import json
import multiprocessing
import os
import signal
import struct
import threading
import time

import numpy as np
import psutil
import pytest

from pipelines.decode import Video, open_video
from pipelines.errors import (
    CorruptVideo,
    DecodeMemory,
    DecoderDied,
    DecodeTimeout,
    EmptyVideo,
    NotAVideo,
    NoVideoStream,
    OverBudget,
    TooManyFrames,
    UnreadableVideo,
    VideoError,
    VideoTooLarge,
    VideoTooLong,
)
from pipelines.messages import FARTHEST, Conversation, Request
from pipelines.sample import Clipper, Sampler, SamplerState, fit
from pipelines.video import Budget
from pipelines.workers import WorkerParent, workers
from tests import processes
from tests.assets import (
    SHARED,
    SPEC,
    VIDEOS,
    audio_only,
    claim_avi_frames,
    claim_mp4_samples,
    copy_repeated,
    cut,
    damage,
    make,
    number_of,
    numbered,
    patch,
    picture,
    retimed,
)

FRAME = struct.Struct("<dIQ")
PIXELS = bytes(SPEC.height * SPEC.width * 3)
SUMMARY = {"duration": 1.0, "fps": 25.0, "width": 64, "height": 48, "frames": 25, "sampled": 8, "decoder": "decord"}


def read(path, **options):
    """[(time, ticks, number shown)], the summary, the codes of the warnings."""
    with open_video(path, spec=SPEC, **options) as video:
        frames = [(round(frame.time, 3), ticks, number_of(frame.pixels)) for frame, ticks in video]
        return frames, video.summary, [warning.code for warning in video.warnings]


# Right frames


@pytest.mark.parametrize("recipe", VIDEOS, ids=lambda recipe: recipe.name)
def test_the_frames_are_those_that_the_rule_asks_for(recipe, videos):
    """Any container, codec, rate and rotation: the pixels shown are those of the frame that fills the tick."""
    truth = make(recipe, videos)
    shown = [(number, t) for number, t in enumerate(truth.times) if t >= 0]
    start = shown[0][1]
    sampler = Sampler(SPEC.rate)
    expected = [(t - start, ticks, number) for number, t in shown if (ticks := sampler.take(t - start))]

    frames, summary, warnings = read(truth.path)

    assert [number for _, _, number in frames] == [number for _, _, number in expected]
    assert [ticks for _, ticks, _ in frames] == [ticks for _, ticks, _ in expected]
    np.testing.assert_allclose([t for t, _, _ in frames], [t for t, _, _ in expected], atol=recipe.exact)
    assert summary.decoder == recipe.decoder
    assert summary.frames == len(shown)
    assert summary.sampled == sum(ticks for _, ticks, _ in expected)
    assert warnings == []
    width, height = recipe.settings.get("width", 128), recipe.settings.get("height", 96)
    assert (summary.width, summary.height) == (width, height)


def test_the_summary_tells_duration_and_rate(tmp_path):
    """12.4 s at 25 fps: 310 frames, of which 99 are sampled at 8 Hz."""
    _, summary, _ = read(numbered(tmp_path / "kitchen.mp4", frames=310).path)

    assert (summary.frames, summary.sampled) == (310, 99)
    assert summary.duration == pytest.approx(12.4, abs=0.01)
    assert summary.fps == pytest.approx(25.0, abs=0.05)


def test_the_header_is_known_before_the_first_frame(named):
    with open_video(named("rotated90.mp4").path, spec=SPEC) as video:
        info = video.info
        with pytest.raises(ValueError, match="only after the last frame"):
            _ = video.summary
    assert (info.container, info.codec, info.width, info.height) == ("mp4", "h264", 128, 96)
    assert (info.frames, info.fps, info.duration, info.rotation) == (50, 25.0, 2.0, 90)


def test_another_rate_than_the_models_can_be_asked_for(named):
    """Every frame, for training data."""
    frames, summary, _ = read(named("fps24.mp4").path, rate=24.0)
    assert [number for _, _, number in frames] == list(range(50))
    assert summary.sampled == 50


@pytest.mark.parametrize("name", ["fps25.mov", "vp9.webm"])
def test_a_file_gives_the_pixels_that_live_frames_give(name, named):
    """The one resize: fit() of the full picture. A codec leaves small differences to what was encoded."""
    with open_video(named(name).path, spec=SPEC) as video:
        for frame, _ in video:
            live = fit(picture(number_of(frame.pixels)), SPEC)
            assert np.abs(frame.pixels.astype(int) - live).mean() < 8


def test_gaps_in_a_file_are_not_filled(tmp_path):
    """A recording that paused for a minute: clips before and after, none across."""
    times = [k / 25 for k in range(25)] + [60 + k / 25 for k in range(25)]
    truth = numbered(tmp_path / "paused.mp4", times=times)
    clipper = Clipper(SPEC)
    with open_video(truth.path, spec=SPEC) as video:
        clips = [clip for frame, ticks in video for clip in clipper.push(frame, ticks)] + clipper.flush()
    assert all(clip.end - clip.start <= 0.5 + 1e-9 for clip in clips)
    assert len(clips) == 4
    assert clips[2].start == pytest.approx(60.0, abs=0.01)


@pytest.mark.parametrize(
    ("name", "wrong"),
    # Not the first of an MP4: its muxer would write an edit list that hides all others.
    [
        (f"leap.{kind}", wrong)
        for kind in ("mp4", "mkv", "ts")
        for wrong in ((40,), (40, 41), (0,), (99,))
        if (kind, wrong) != ("mp4", (0,))
    ],
    ids=str,
)
def test_a_frame_with_a_time_far_ahead_costs_itself_only(name, wrong, tmp_path):
    """All others are there at their times, and a warning says what is not."""
    sound = numbered(tmp_path / f"sound-{name}", frames=100, fps=10.0, codec_options={"bf": "0"}).path
    retimed(sound, tmp_path / name, {number: 100.0 for number in wrong})

    frames, summary, warnings = read(tmp_path / name)

    shown = {number: time for time, _, number in frames}
    first = min(k for k in range(100) if k not in wrong)
    if wrong == (99,):  # the last: nothing shows that it is wrong
        shown.pop(99, None)
        assert len(shown) > 75
    else:
        assert warnings == ["video_timestamps"]
        assert summary.duration == pytest.approx((99 - first) / 10 + 0.1, abs=0.06)
        assert sum(ticks for _, ticks, _ in frames) == summary.sampled >= 78
    assert not set(wrong) & set(shown)
    assert all(time == pytest.approx((number - first) / 10, abs=2e-3) for number, time in shown.items())


def test_frames_far_apart_are_no_mistake(tmp_path):
    """One every three seconds, as some cameras send at night: all are there."""
    path = numbered(tmp_path / "slow.mp4", times=[3.0 * k for k in range(12)], fps=1.0).path
    frames, _, warnings = read(path)
    assert [(time, ticks, number) for time, ticks, number in frames] == [(3.0 * k, 1, k) for k in range(12)]
    assert warnings == []


INFO = {
    "container": "mp4", "codec": "h264", "duration": 1.0, "fps": 25.0, "width": 64, "height": 48, "frames": 25,
    "rotation": 0,
}  # fmt: skip


def frame(time, ticks=1, index=0):
    """A message that says a frame."""
    return b"F", FRAME.pack(time, ticks, index) + PIXELS


def end(last=0.0, **changes):
    """A message that says the end, after one frame."""
    summary = SUMMARY | {"sampled": 1} | changes
    return b"S", json.dumps({"summary": summary, "warnings": [], "last": last}).encode()


def converse(messages, **options):
    """All frames of a worker that says so, after a sound beginning."""
    first = (b"I", json.dumps({"info": INFO, "unconfined": []}).encode())
    conversation = Conversation(
        Request(spec=SPEC, rate=SPEC.rate, budget=Budget(duration=3600.0, frames=100), **options)
    )
    return list(Video(Speaker([first, *messages]), conversation))


@pytest.mark.parametrize(
    "messages",
    [
        [frame(0.0, 20_000)],
        [frame(0.0, 2)],
        [frame(0.0, 0)],
        [frame(float("nan"))],
        [frame(1e6)],
        [frame(-0.1)],
        [frame(0.0, index=100)],
        [frame(1.0), frame(0.5, index=1)],
        [frame(0.0), frame(0.1, index=1)],
        [frame(0.0), frame(0.5, 3, index=1)],
        [frame(0.0, index=3), frame(0.5, index=3)],
        [frame(0.0), end(duration=float("nan"))],
        [frame(0.0), end(duration=4000.0)],
        [frame(0.0), end(frames="many")],
        [frame(0.0), end(frames=101)],
        [frame(0.0, index=25), end()],
        [frame(0.0), end(sampled=2)],
        [frame(0.0), end(last=float("nan"))],
        [frame(0.0), end(last=0.9)],
        [frame(0.0), end(last=-0.1)],
        [end(sampled=0)],
        [(b"S", json.dumps({"summary": SUMMARY, "warnings": [["a", "b"]], "last": 0.0}).encode())],
        [(b"S", b"[1]")],
        [(b"S", b"{")],
        [(b"S", b"")],
        [(b"X", b"")],
        [(b"I", json.dumps({"info": INFO, "unconfined": []}).encode())],
    ],
    ids=[
        "ticks", "ticks at first", "no ticks", "nan", "late", "early", "index", "back", "no open tick", "some open ticks",
        "index again", "nan summary", "duration", "words", "frames", "fewer frames", "sum", "nan last", "unsaid", "last",
        "none", "warnings", "list", "broken", "empty", "kind", "twice",
    ],
)  # fmt: skip
def test_what_a_worker_says_is_not_believed(messages):
    """One that was taken over by its video can say anything: it is ended, and that video has failed."""
    with pytest.raises(DecoderDied, match="out of turn"):
        converse(messages)


def test_what_a_sound_worker_says_is_believed():
    """As above, but nothing is wrong: two ticks and a half after the first frame, and a gap."""
    said = converse([frame(0.0), frame(0.3, 2, 7), frame(60.0, 1, 20), end(60.1, duration=61.0, sampled=4)])
    assert [(frame.time, ticks) for frame, ticks in said] == [(0.0, 1), (0.3, 2), (60.0, 1)]


@pytest.mark.parametrize(
    ("messages", "sound"),
    [
        ([frame(100.0, 8), end(100.0, sampled=8)], True),
        ([frame(100.5, 1), end(100.5)], True),
        ([frame(99.9, 7), end(99.9, sampled=7)], False),
        ([frame(0.0), end(0.0)], False),
        ([end(99.05, sampled=0)], False),
        ([end(99.0, sampled=0)], True),
    ],
    ids=["next", "gap", "before", "its own", "before, at the end", "nothing new"],
)
def test_of_a_piece_times_of_the_stream_are_believed(messages, sound):
    """At 100 s of a stream whose last frame came at 99 s."""
    options = {"offset": 100.0, "sampler": SamplerState(0.0, 99.0, 793)}
    if sound:
        converse(messages, **options)
        return
    with pytest.raises(DecoderDied, match="out of turn"):
        converse(messages, **options)


@pytest.mark.parametrize(
    "info", [{}, {"info": 3, "unconfined": []}, {"info": {"width": "x"}, "unconfined": []}], ids=str
)
def test_a_worker_that_begins_with_nonsense_is_not_believed(info):
    """As above, from the first message on."""
    conversation = Conversation(Request(spec=SPEC, rate=SPEC.rate, budget=Budget()))
    with pytest.raises(DecoderDied, match="out of turn"):
        Video(Speaker([(b"I", json.dumps(info).encode())]), conversation)


class Speaker:
    """Stands for a worker and says what it is given."""

    def __init__(self, messages):
        self.bytes = b"".join(struct.pack("<cI", kind, len(body)) + body for kind, body in messages)

    def read_into(self, target):
        target[:], self.bytes = self.bytes[: len(target)], self.bytes[len(target) :]

    def close(self):
        pass


def test_a_recorder_that_started_anew_goes_on_where_it_stopped(tmp_path):
    """Two transport streams end to end: one timeline, and a warning."""
    part = numbered(tmp_path / "part.ts", frames=100).path.read_bytes()
    other = numbered(tmp_path / "other.ts", frames=100, first_number=100).path.read_bytes()
    path = tmp_path / "joined.ts"
    path.write_bytes(part + other)
    frames, summary, warnings = read(path)

    assert warnings == ["video_timestamps"]
    assert summary.duration == pytest.approx(8.0, abs=0.5)
    numbers = [number for _, _, number in frames]
    assert numbers == sorted(numbers)
    assert numbers[-1] > 190


@pytest.mark.skipif(not (SHARED / "videos").exists(), reason="real videos are on the development machine only")
@pytest.mark.parametrize(
    "path",
    sorted(p for p in (SHARED / "videos").glob("*/*") if p.is_file()) or [None],
    ids=lambda path: path.name if path else "none",
)
def test_real_videos_decode(path):
    """All good ones give frames without a warning, the corrupt one what is left of it, with one."""
    with open_video(path, spec=SPEC) as video:
        frames = list(video)
        summary, warnings = video.summary, [warning.code for warning in video.warnings]
    times = [frame.time for frame, _ in frames]

    assert sum(ticks for _, ticks in frames) == summary.sampled
    assert times == sorted(set(times))
    assert times[0] == pytest.approx(0.0, abs=1e-6)
    assert warnings == (["video_damaged"] if path.name == "decord_corrupted.mp4" else [])
    if video.info.frames and not warnings:
        assert summary.frames == video.info.frames


# Pieces of a stream


LOSSLESS = {"crf": "0"}
"""For codec_options: then a frame's pixels do not depend on those around it."""


def read_pieces(pieces, **options):
    """[(time, ticks, index, pixels)] of each piece, opened one after the other; each is a path and its offset."""
    sampler, read = None, []
    for path, offset in pieces:
        with open_video(path, spec=SPEC, offset=offset, sampler=sampler, **options) as video:
            read.append([(frame.time, ticks, video.index, frame.pixels) for frame, ticks in video])
        sampler = video.sampler
        if read[-1]:
            assert sampler.last >= read[-1][-1][0]
    return read


def encoded(folder, times, cuts, ending):
    """The whole as a file, and [(piece, offset)] of the parts between the cuts; frame k shows the number k."""
    whole = numbered(folder / f"whole{ending}", times=times, codec_options=LOSSLESS).path
    bounds = [0, *cuts, len(times)]
    pieces = []
    for start, stop in itertools.pairwise(bounds):
        part = [time - times[start] for time in times[start:stop]]
        path = folder / f"piece{start}-{stop}{ending}"
        pieces.append((numbered(path, times=part, first_number=start, codec_options=LOSSLESS).path, times[start]))
    return whole, pieces


def assert_same(read, whole):
    """The same times, ticks and pixels; read and whole are lists of (time, ticks, index, pixels)."""
    assert [number_of(pixels) for *_, pixels in read] == [number_of(pixels) for *_, pixels in whole]
    assert [ticks for _, ticks, *_ in read] == [ticks for _, ticks, *_ in whole]
    np.testing.assert_allclose([time for time, *_ in read], [time for time, *_ in whole], rtol=0, atol=1e-6)
    for (*_, ours), (*_, theirs) in zip(read, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


EVEN = [k / 25 for k in range(120)]
SLOW = [k / 5 for k in range(25)]
# None a millisecond before a tick, which is the least that counts (sample.EPSILON): there rounding decides.
UNEVEN = [n / 1000 for n in sorted({0, *np.random.default_rng(3).integers(0, 6000, 90).tolist()}) if (n + 1) % 125]
PAUSED = [k / 25 for k in range(40)] + [7.48 + k / 25 for k in range(40)]


@pytest.mark.parametrize(
    ("times", "cuts"),
    [
        (EVEN, [60]),
        (EVEN, [1, 2, 3, 64, 65, 119]),
        (SLOW, list(range(1, 25))),
        (UNEVEN, [7, 30, 31, 77]),
        (PAUSED, [40]),
        (PAUSED, [39, 41]),
        (PAUSED, [13, 55]),
    ],
    ids=["half", "crumbs", "single frames", "uneven", "paused", "around the pause", "beside the pause"],
)
@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".ts"])
def test_pieces_are_one_video(times, cuts, ending, tmp_path):
    """Wherever it is cut: the same times, ticks and pixels; indices count from 0 in each piece."""
    whole, pieces = encoded(tmp_path, times, cuts, ending)
    read = read_pieces(pieces)

    assert_same([sample for piece in read for sample in piece], read_pieces([(whole, 0.0)])[0])
    for piece, start in zip(read, [0, *cuts], strict=True):
        assert [start + index for _, _, index, _ in piece] == [number_of(pixels) for *_, pixels in piece]


def test_where_sampling_stands_after_a_piece_is_where_it_stands_in_the_whole(tmp_path):
    """Also when the last frames filled no tick."""
    _, pieces = encoded(tmp_path, EVEN, [61], ".mp4")
    expected = Sampler(SPEC.rate)
    for at in EVEN[:61]:
        expected.take(at)
    with open_video(pieces[0][0], spec=SPEC) as video:
        next(video)
        assert video.sampler == SamplerState(0.0, 0.0, 1)
        list(video)
    state = expected.state()
    assert (video.sampler.origin, video.sampler.next_tick) == (state.origin, state.next_tick)
    assert video.sampler.last == pytest.approx(state.last, abs=1e-6)


def test_what_a_piece_repeats_is_ignored(tmp_path):
    """Pieces that overlap, one that holds nothing new, and one that was sent before."""
    whole = numbered(tmp_path / "whole.mp4", times=EVEN, codec_options=LOSSLESS).path
    pieces = []
    for start, stop in [(0, 60), (20, 70), (30, 70), (69, 70), (70, 73), (0, 60), (71, 120)]:
        part = [time - EVEN[start] for time in EVEN[start:stop]]
        path = tmp_path / f"{start}-{stop}.mp4"
        truth = numbered(path, times=part, first_number=start, codec_options=LOSSLESS)
        pieces.append((truth.path, EVEN[start]))
    read = read_pieces(pieces)

    assert [len(piece) > 0 for piece in read] == [True, True, False, False, True, False, True]
    assert_same([sample for piece in read for sample in piece], read_pieces([(whole, 0.0)])[0])


def test_a_piece_of_which_nothing_is_needed_is_no_error(tmp_path):
    """Two frames between two ticks: no frame comes out, but the summary is there, in the piece's own time."""
    path = numbered(tmp_path / "piece.mp4", times=[0.0, 0.04]).path
    sampler = SamplerState(0.0, 1000.0, 8001)
    with open_video(path, spec=SPEC, offset=1000.04, sampler=sampler) as video:
        assert (video.info.width, video.info.height) == (128, 96)
        assert list(video) == []
    assert (video.summary.frames, video.summary.sampled) == (2, 0)
    assert video.summary.duration == pytest.approx(0.08, abs=0.01)
    assert video.sampler.last == pytest.approx(1000.08)
    assert video.sampler.next_tick == 8001
    assert video.warnings == []


def test_a_piece_of_which_nothing_can_be_decoded_is_an_error(tmp_path):
    """Whether something of it would be needed or not."""
    whole = numbered(tmp_path / "a.mp4", frames=100)
    broken = damage(whole.path, tmp_path / "broken.mp4", start=0.01, length=int(whole.path.stat().st_size * 0.8))
    path = broken if broken.read_bytes()[4:8] == b"ftyp" else None
    assert path is not None
    with pytest.raises(CorruptVideo):
        read(path, offset=5.0, sampler=SamplerState(0.0, 1000.0, 8001))


def test_the_budget_goes_by_the_pieces_own_time(tmp_path):
    """Two seconds are two seconds, a thousand hours on in the stream."""
    path = numbered(tmp_path / "piece.ts", frames=50).path
    offset = 3.6e6
    sampler = SamplerState(0.0, offset - 0.04, int(offset * 8))
    frames, summary, _ = read(path, offset=offset, sampler=sampler, budget=Budget(duration=2.5))
    assert [time for time, _, _ in frames][::8] == [
        pytest.approx(offset, abs=1e-3),
        pytest.approx(offset + 1, abs=1e-3),
    ]
    assert summary.duration == pytest.approx(2.0, abs=0.01)
    with pytest.raises(VideoTooLong):
        read(path, offset=offset, sampler=sampler, budget=Budget(duration=1.5))


def test_damage_is_told_by_what_is_missing_in_the_piece(tmp_path):
    """A gap before the piece is none of it."""
    whole = numbered(tmp_path / "a.mkv", frames=250)
    path = damage(whole.path, tmp_path / "d.mkv", start=0.4, length=whole.path.stat().st_size // 10)
    details = []
    for offset, sampler in [(0.0, None), (5000.0, SamplerState(0.0, 100.0, 801))]:
        with open_video(path, spec=SPEC, offset=offset, sampler=sampler) as video:
            list(video)
        details.append([warning.detail for warning in video.warnings])
    assert details[0] == details[1] != []


@pytest.mark.parametrize("offset", [float("nan"), float("inf"), -2 * FARTHEST])
def test_an_offset_that_is_no_time_is_refused(offset, named):
    with pytest.raises(ValueError, match="offset must be"):
        open_video(named("fps24.mp4").path, spec=SPEC, offset=offset)


# Bad files


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", EmptyVideo),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", NotAVideo),
        (b"some words", NotAVideo),
        (bytes(4096), NotAVideo),
        (np.random.default_rng(1).bytes(4096), NotAVideo),
        (b"\0\0\0\x18ftypisom" + np.random.default_rng(2).bytes(4096), CorruptVideo),
        (b"\x1aE\xdf\xa3" + np.random.default_rng(3).bytes(4096), CorruptVideo),
        (b"FLV\x01" + np.random.default_rng(4).bytes(4096), CorruptVideo),
        (b"GIF89a" + np.random.default_rng(5).bytes(4096), CorruptVideo),
        (b"OggS" + np.random.default_rng(6).bytes(4096), CorruptVideo),
        (b"\0\0\0\1\x67" + np.random.default_rng(7).bytes(4096), CorruptVideo),
        (b"\0\0\1\xba" + np.random.default_rng(8).bytes(4096), CorruptVideo),
        (b"".join(b"G" + bytes(187) for _ in range(50)), CorruptVideo),
        (b"ID3\x04" + bytes(100), NoVideoStream),
    ],
    ids=lambda value: repr(value)[:20] if isinstance(value, bytes) else value.code,
)
def test_what_cannot_be_decoded_has_its_code(content, error, tmp_path):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    start = time.monotonic()
    with pytest.raises(error):
        read(path)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("name", ["sound.mp4", "sound.mkv"])
def test_audio_only_has_its_code(name, tmp_path):
    with pytest.raises(NoVideoStream, match="no video stream, only audio"):
        read(audio_only(tmp_path / name))


def test_files_that_are_none_have_their_code(tmp_path):
    """A named pipe without a writer does not hold us up."""
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in ("absent.mp4", "pipe.mp4", ""):
        with pytest.raises(UnreadableVideo):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"options": {"movflags": "faststart"}}),
        ("a.mp4", {"options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("a.mkv", {}),
        ("a.webm", {"codec": "libvpx"}),
        ("a.avi", {"codec": "mpeg4"}),
        ("a.ts", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())) or "plain",
)
def test_what_is_left_of_a_file_that_breaks_off_is_given(name, options, tmp_path):
    """The right frames up to there, and a warning that says how much is missing."""
    whole = numbered(tmp_path / name, frames=250, **options)
    broken = cut(whole.path, tmp_path / f"cut.{name}", keep=0.6)
    complete, _, none = read(whole.path)
    with open_video(broken, spec=SPEC) as video:
        frames = [(round(frame.time, 3), number_of(frame.pixels)) for frame, _ in video]
        warnings = {warning.code: warning.detail for warning in video.warnings}
        summary = video.summary

    assert none == []
    assert 10 <= len(frames) < len(complete)
    assert frames[:-1] == [(t, number) for t, _, number in complete][: len(frames) - 1]  # the last may be half a frame
    assert "are missing" in warnings["video_truncated"]
    assert summary.duration < 9.0


def test_an_mp4_that_breaks_off_before_its_index_says_so(tmp_path):
    whole = numbered(tmp_path / "a.mp4", frames=100)
    with pytest.raises(CorruptVideo, match="no index"):
        read(cut(whole.path, tmp_path / "cut.mp4", keep=0.6))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_damage_in_the_middle_costs_that_part_only(name, tmp_path):
    """What comes before and after is given; noise in a third of the file is told as damage."""
    whole = numbered(tmp_path / name, frames=250)
    size = whole.path.stat().st_size
    frames, summary, warnings = read(damage(whole.path, tmp_path / f"d.{name}", start=0.4, length=size // 10))
    times = [t for t, _, _ in frames]

    assert "video_damaged" in warnings
    assert min(times) == pytest.approx(0.0, abs=0.01)
    assert max(times) > 9.0
    assert summary.frames < 250 or name == "a.ts"
    assert [n for t, _, n in frames if t < 2.0] == [round(t * 25) for t in times if t < 2.0]


# Budgets


@pytest.mark.parametrize(
    ("budget", "error", "words"),
    [
        (Budget(duration=1.0), VideoTooLong, "1 s"),
        (Budget(frames=20), TooManyFrames, "20"),
        (Budget(pixels=1000), VideoTooLarge, "128 x 96"),
        (Budget(seconds=1e-6), DecodeTimeout, "granted"),
    ],
    ids=lambda value: value.code if isinstance(value, type) else "",
)
@pytest.mark.parametrize("name", ["fps25.mov", "stream.ts"])
def test_a_video_over_budget_has_its_code(name, budget, error, words, named):
    """Whether the header claims it (MOV) or it is found out (a transport stream claims nothing)."""
    with pytest.raises(error, match=words) as over:
        read(named(name).path, budget=budget)
    assert isinstance(over.value, OverBudget)


@pytest.mark.parametrize("format", ["mp4", "ts"])
def test_memory_is_part_of_the_budget(format, tmp_path):
    large = numbered(tmp_path / f"large.{format}", frames=3, width=3840, height=2160)
    with pytest.raises(DecodeMemory):
        read(large.path, budget=Budget(memory=48 << 20))
    assert len(read(large.path)[0]) == 1
    assert len(read(large.path, budget=Budget(memory=256 << 20))[0]) == 1  # too little for decord, enough for PyAV


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("mpeg4.avi", claim_avi_frames(10**9), OverBudget),
        ("fps24.mp4", claim_mp4_samples(10**9), OverBudget),
        ("fps24.mp4", claim_mp4_samples(2 * 10**7), OverBudget),
        ("fps24.mp4", claim_mp4_samples(5000), CorruptVideo),
    ],
)
def test_counts_that_no_file_has_end_in_bounded_time(name, change, error, named, tmp_path):
    start = time.monotonic()
    with pytest.raises(error, match="claims"):
        read(patch(named(name).path, tmp_path / name, change))
    assert time.monotonic() - start < 20


def test_a_count_that_is_too_high_but_granted_gives_what_there_is(named, tmp_path):
    """An AVI of 50 frames whose header counts 500: all 50, and a warning that 18 s are missing."""
    with open_video(patch(named("mpeg4.avi").path, tmp_path / "a.avi", claim_avi_frames(500)), spec=SPEC) as video:
        frames = list(video)
    assert len(frames) == 16
    assert video.summary.frames == 50
    assert "18.0 s are missing" in next(w.detail for w in video.warnings if w.code == "video_truncated")


def test_a_slow_consumer_is_not_held_against_the_video(tmp_path):
    """Three times the budget goes by between two frames; the worker waits meanwhile."""
    path = numbered(tmp_path / "a.mp4", frames=300).path
    with open_video(path, spec=SPEC, budget=Budget(seconds=1.5)) as video:
        for index, _ in enumerate(video):
            if index == 3:
                time.sleep(4.5)
    assert video.summary.frames == 300


# Workers


def children() -> list[psutil.Process]:
    """The parent of workers, and the workers. Only this process's: a service in another test has its own."""
    parents = processes.children(psutil.Process(), "pipelines.decode_worker")
    return parents + [worker for parent in parents for worker in parent.children(recursive=True)]


def running_workers() -> list[psutil.Process]:
    return [child for child in children() if child.ppid() != os.getpid()]


def wait_until(condition, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """20 minutes, so that a worker that is not read from is surely not done."""
    folder = tmp_path_factory.mktemp("long")
    source = numbered(folder / "part.mp4", frames=250, codec_options={"bf": "0"})
    copy_repeated(source.path, folder / "long.mp4", times=120)
    return folder / "long.mp4"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_worker_that_dies_is_that_videos_error_only(number, long_video, named):
    """Another video that is being decoded at the same time, and the next one, are not affected."""
    with open_video(long_video, spec=SPEC) as other:
        bystander = {worker.pid for worker in running_workers()}
        with open_video(long_video, spec=SPEC) as video:
            (worker,) = [worker for worker in running_workers() if worker.pid not in bystander]
            worker.send_signal(number)
            with pytest.raises(DecoderDied, match=signal.Signals(number).name):
                list(video)
        assert next(other)[1] == 1
    assert len(read(named("fps24.mp4").path)[0]) == 17


def test_closing_early_kills_the_worker_at_once(long_video):
    with open_video(long_video, spec=SPEC) as video:
        next(video)
        assert len(running_workers()) == 1
    assert running_workers() == []


def test_a_worker_that_nobody_listens_to_any_more_is_killed(long_video):
    """A consumer that was dropped without closing."""
    video = open_video(long_video, spec=SPEC)
    next(video)
    del video
    gc.collect()
    assert wait_until(lambda: running_workers() == [])


def test_no_process_and_no_descriptor_stays_behind(named, tmp_path):
    """After good, bad and abandoned videos."""
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"\0\0\0\x18ftypisom" + bytes(500))
    read(named("fps24.mp4").path)
    me = psutil.Process()

    def held():
        return me.num_fds(), len(children()), children()[0].num_fds()

    assert wait_until(lambda: running_workers() == [])
    time.sleep(0.5)  # the last test's
    before = held()
    for _ in range(10):
        read(named("fps24.mp4").path)
        with pytest.raises(VideoError):
            read(bad)
        with open_video(named("fps60.mp4").path, spec=SPEC) as video:
            next(video)
    assert wait_until(lambda: held() == before)


def test_the_parent_of_workers_is_started_again_when_it_was_killed(named, long_video):
    """A video that was being decoded ends in its error; the next one is decoded."""
    with open_video(long_video, spec=SPEC) as video:
        for child in [child for child in children() if child.ppid() == os.getpid()]:
            child.kill()
        with pytest.raises(DecoderDied):
            list(video)
    assert wait_until(lambda: running_workers() == [])
    assert len(read(named("fps24.mp4").path)[0]) == 17


def test_workers_know_neither_the_services_secrets_nor_its_code(named, monkeypatch):
    """Their environment is made for them, and torch is not in their memory."""
    monkeypatch.setenv("CRT_API_KEYS", "secret")
    parent = WorkerParent()
    parent.start()
    try:
        process = psutil.Process(parent._process.pid)
        assert not any(name.startswith("CRT_") for name in process.environ())
        assert not any("torch" in mapped.path for mapped in process.memory_maps())
        assert process.num_threads() == 1
    finally:
        parent.stop()
    assert not psutil.pid_exists(process.pid)


def test_many_videos_at_once_do_not_mix(named):
    """Eight threads, each with videos of its own."""
    names = ["fps24.mp4", "rotated90.mp4", "vp9.webm", "stream.ts"] * 2
    alone = {name: read(named(name).path)[0] for name in set(names)}
    together: list[bool] = []

    def work(name: str) -> None:
        for _ in range(3):
            together.append(read(named(name).path)[0] == alone[name])

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [True] * 24


def test_a_forked_process_has_workers_of_its_own(named):
    """As data loaders and servers with several processes fork; the first process goes on undisturbed."""
    path = named("fps24.mp4").path
    expected = read(path)[0]
    before = workers._process.pid
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    process = fork.Process(target=lambda: results.put((read(path)[0], workers._process.pid)))
    process.start()
    frames, pid = results.get()
    process.join(20)

    assert frames == expected
    assert pid != before
    assert process.exitcode == 0
    assert wait_until(lambda: not psutil.pid_exists(pid))
    assert read(path)[0] == expected
    assert workers._process.pid == before


@pytest.mark.parametrize("name", ["two_hours.mp4", "two_hours.ts"])
def test_two_hours_of_video_take_no_more_memory_than_a_minute(name, tmp_path):
    """Neither here nor in the worker: at most 200 MB more. 172,800 frames."""
    part = numbered(tmp_path / "part.mp4", frames=240, fps=24.0, width=64, height=48, codec_options={"bf": "0"})
    copy_repeated(part.path, tmp_path / name, times=720)
    me = psutil.Process()
    before, peak, worker_peak, sampled = me.memory_info().rss, 0, 0, 0
    with open_video(tmp_path / name, spec=SPEC) as video:
        (worker,) = running_workers()
        for index, (_, ticks) in enumerate(video):
            sampled += ticks
            if index % 2000 == 0 and worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
                peak = max(peak, me.memory_info().rss)
                worker_peak = max(worker_peak, worker.memory_info().rss)
    assert video.summary.duration == pytest.approx(7200, abs=1)
    assert video.summary.frames == 172_800
    assert sampled == 57_600
    assert peak - before < 200 << 20
    assert worker_peak < 300 << 20


@pytest.mark.parametrize(("megabytes", "decoder"), [(128, "pyav"), (256, "decord")])
def test_a_slow_consumer_costs_no_more_memory(tmp_path, megabytes, decoder):
    """decord's thread goes on decoding while nobody takes its frames: it gets only what fits as a whole (here 104 MB of pictures)."""
    part = numbered(tmp_path / "part.mp4", frames=60, fps=24.0, width=320, height=240, codec_options={"bf": "0"})
    copy_repeated(part.path, tmp_path / "long.mp4", times=8)
    sampled = 0
    with open_video(tmp_path / "long.mp4", spec=SPEC, budget=Budget(memory=megabytes << 20)) as video:
        for _, ticks in video:
            sampled += ticks
            time.sleep(0.02)
    assert (video.summary.decoder, video.summary.frames, sampled) == (decoder, 480, 160)
    assert video.warnings == []


def test_the_module_level_parent_is_shared():
    """One parent of workers serves all videos of this process."""
    workers.start()
    first = workers._process
    workers.start()
    assert workers._process is first
