"""Video that is fed byte by byte: the frames of a file of the same bytes, early, and nothing that grows.

Videos: tests/assets.py. `as_recorded` makes a WebM what a browser's MediaRecorder sends, `frame_ends` tells where in a
file's bytes each frame is complete. Every test goes through open_live, but for those of the demuxer's renewal.
"""

import asyncio
import io
import json
import os
import random
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipelines import containers, live, live_input, messages
from pipelines.decode import open_video
from pipelines.errors import (
    CorruptVideo,
    DecodeMemory,
    DecoderDied,
    DecodeTimeout,
    EmptyVideo,
    NotAVideo,
    NoVideoStream,
    UnsupportedVideo,
    VideoError,
    VideoTooLarge,
)
from pipelines.live import LiveVideo, open_live
from pipelines.live_input import open_input
from pipelines.reading import read_live
from pipelines.video import Budget
from tests.assets import SPEC, audio_only, copy_repeated, damage, number_of, numbered
from tests.processes import children

SEGMENT, CLUSTER = bytes.fromhex("18538067"), bytes.fromhex("1f43b675")
UNKNOWN = b"\x01" + b"\xff" * 7
"""An EBML size that is not told."""
REALTIME = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
NO_REORDERING = {"bf": "0", "rc-lookahead": "0"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
FRAGMENT_EACH = {"movflags": "frag_every_frame+empty_moov+default_base_moof"}

KINDS = {
    "vp8.webm": {"codec": "libvpx", "options": {"live": "1"}, "codec_options": REALTIME},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"live": "1"}, "codec_options": REALTIME},
    "h264.mkv": {"options": {"live": "1"}},
    "seekable.webm": {"codec": "libvpx"},
    "fragments.mp4": {"options": FRAGMENTS},
    "fragment_each.mp4": {"options": FRAGMENT_EACH, "codec_options": NO_REORDERING},
    "delayed.mp4": {"options": {"movflags": "frag_keyframe+delay_moov"}},
    "by_file_offset.mp4": {"options": {"movflags": "frag_keyframe+empty_moov"}},
    "rotated.mp4": {"options": FRAGMENTS, "rotation": 90},
    "sound.mp4": {"options": FRAGMENTS, "audio": True},
    "stream.ts": {},
    "sound.ts": {"audio": True},
    "hevc.ts": {"codec": "libx265", "codec_options": {"x265-params": "log-level=none:pools=1"}},
}
"""What can be read live, by name: for numbered()."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One of KINDS, 4 s at 25 fps, made once; a WebM is as recorded."""
    folder = tmp_path_factory.mktemp("live")

    def make(name: str) -> Path:
        path = folder / name
        if not path.exists():
            numbered(path, frames=100, **KINDS[name])
            if name.startswith("vp"):
                path.write_bytes(as_recorded(path.read_bytes()))
        return path

    return make


def elements(data: bytes):
    """(id, where it begins, where its contents begin, where it ends or None) of a WebM; into segments and clusters."""
    at = 0
    while at < len(data):
        begin = at
        length = 9 - data[at].bit_length()
        name, at = data[at : at + length], at + length
        length = 9 - data[at].bit_length()
        size = int.from_bytes(data[at : at + length]) & ((1 << 7 * length) - 1)
        at += length
        into = name in (SEGMENT, CLUSTER)
        yield name, begin, at, None if into else at + size
        at += 0 if into else size


def as_recorded(data: bytes) -> bytes:
    """A live WebM in the manner of MediaRecorder: the sizes of the segment and of all clusters are unknown."""
    parts = [name + UNKNOWN if end is None else data[begin:end] for name, begin, _, end in elements(data)]
    return b"".join(parts)


def frame_ends(path: Path) -> list[int]:
    """Up to where the bytes have come when a frame of the video has come."""
    data = path.read_bytes()
    if path.suffix in (".webm", ".mkv"):
        return [end for name, _, _, end in elements(data) if name in (b"\xa3", b"\xa0")]
    if path.suffix == ".ts":
        starts = [
            at
            for at in range(0, len(data), 188)
            if data[at + 1] & 0x40 and int.from_bytes(data[at + 1 : at + 3]) & 0x1FFF == 256
        ]
        return [*starts[1:], len(data)]
    file = io.BytesIO(data)
    return [stop for name, _, stop in containers._walk(file, 0, len(data)) if name == b"mdat"]


def chunks(data: bytes, seed: int | None, size: int = 40_000):
    """The data in parts: of a size, or of random ones, most of them small."""
    cut = random.Random(seed)
    at = 0
    while at < len(data):
        count = size if seed is None else cut.choice([1, 3, 10, 100, 187, 1000, 4096, 30_000, 200_000])
        yield data[at : at + count]
        at += count


async def feed(video: LiveVideo, parts) -> None:
    for part in parts:
        await video.feed(part)
    await video.end()


async def collect(video: LiveVideo) -> list:
    """[(time, ticks, index, pixels)] of the rest."""
    return [(frame.time, ticks, video.index, frame.pixels) async for frame, ticks in video]


async def watch(data: bytes, *, seed: int | None = 0, size: int = 40_000, **options):
    """What comes out of all the data, and the video."""
    async with await open_live(spec=SPEC, **options) as video:
        feeding = asyncio.create_task(feed(video, chunks(data, seed, size)))
        try:
            return await collect(video), video
        finally:
            await feeding


def as_file(path: Path, **options):
    """The same of a file."""
    with open_video(path, spec=SPEC, **options) as video:
        return [(frame.time, ticks, video.index, frame.pixels) for frame, ticks in video], video


def assert_same(one, other, *, pixels: float = 0.0) -> None:
    """Both are lists of (time, ticks, index, pixels); `pixels` is how far they may differ on average."""
    assert [sample[1:3] for sample in one] == [sample[1:3] for sample in other]
    np.testing.assert_allclose([s[0] for s in one], [s[0] for s in other], rtol=0, atol=1e-6)
    for (*_, ours), (*_, theirs) in zip(one, other, strict=True):
        assert np.abs(ours.astype(int) - theirs).mean() <= pixels


# The same frames


@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize("name", KINDS)
def test_live_video_gives_the_frames_of_a_file_of_the_same_bytes(name, seed, made):
    """However the bytes are cut. decord, which reads some of the files, may round pixels in its own way."""
    path = made(name)
    frames, video = asyncio.run(watch(path.read_bytes(), seed=seed))
    expected, file = as_file(path)

    assert_same(frames, expected, pixels=0.0 if file.summary.decoder == "pyav" else 1.5)
    assert 32 <= len(frames) <= 33
    assert video.warnings == []
    assert replace(video.summary, decoder="") == replace(
        file.summary, decoder="", duration=video.summary.duration, fps=video.summary.fps
    )
    assert video.summary.duration == pytest.approx(file.summary.duration, abs=0.05)
    assert video.sampler.next_tick == file.sampler.next_tick
    assert video.info.container == file.info.container
    assert (video.info.codec, video.info.rotation) == (file.info.codec, file.info.rotation)
    assert (video.info.duration, video.info.frames) == (None, None)


@pytest.mark.parametrize("name", ["vp8.webm", "fragment_each.mp4", "stream.ts"])
def test_bytes_may_come_one_by_one(name, made):
    path = made(name)
    assert_same(asyncio.run(watch(path.read_bytes(), size=1, seed=None))[0], as_file(path)[0], pixels=1.5)


@pytest.mark.parametrize("name", ["vp8.webm", "fragments.mp4", "stream.ts"])
def test_live_videos_go_on_where_another_stopped(name, tmp_path):
    """Three videos, the second overlapping the first, a pause before the third: as one file with that pause."""
    times = [k / 25 for k in range(60)] + [8 + k / 25 for k in range(40)]
    whole = numbered(tmp_path / f"whole-{name}", times=times, **KINDS[name]).path
    sampler, frames = None, []
    for start, stop in ((0, 45), (30, 60), (60, 100)):
        part = [time - times[start] for time in times[start:stop]]
        piece = numbered(tmp_path / f"{start}-{name}", times=part, first_number=start, **KINDS[name]).path
        given, video = asyncio.run(watch(piece.read_bytes(), offset=times[start], sampler=sampler))
        frames += [(time, ticks, number_of(pixels)) for time, ticks, _, pixels in given]
        sampler = video.sampler
    expected = [(time, ticks, number_of(pixels)) for time, ticks, _, pixels in as_file(whole)[0]]
    assert [frame[1:] for frame in frames] == [frame[1:] for frame in expected]
    np.testing.assert_allclose([frame[0] for frame in frames], [frame[0] for frame in expected], atol=1.1e-3)


@pytest.mark.parametrize("name", ["h264.mkv", "fragment_each.mp4", "stream.ts"])
@pytest.mark.parametrize("keep", [0.3, 0.71])
def test_what_has_come_before_an_end_in_the_middle_is_given(name, keep, made, tmp_path):
    """A recorder that broke off: the same frames as of a file that breaks off there."""
    path = tmp_path / name
    path.write_bytes(made(name).read_bytes()[: int(made(name).stat().st_size * keep)])
    frames, video = asyncio.run(watch(path.read_bytes()))
    expected, file = as_file(path)
    assert_same(frames, expected, pixels=1.5)
    assert 0 < video.summary.frames == file.summary.frames < 100


def test_a_transport_stream_may_be_entered_half_way(made, tmp_path):
    """From within a packet on: the pictures from the next key frame on."""
    path = tmp_path / "entered.ts"
    path.write_bytes(made("stream.ts").read_bytes()[12_345:])
    frames, _ = asyncio.run(watch(path.read_bytes()))
    assert_same(frames, as_file(path)[0])
    assert len(frames) > 10


# Early


@pytest.mark.parametrize(
    ("name", "late"), [("vp8.webm", 0), ("vp9.webm", 0), ("h264.mkv", 0), ("fragment_each.mp4", 0), ("stream.ts", 2)]
)
def test_a_frame_comes_out_when_its_bytes_are_in(name, late, tmp_path):
    """The first when three more are in; later ones at once, but for a transport stream's."""
    settings = dict(KINDS[name])
    if settings.get("codec", "libx264") == "libx264":
        settings["codec_options"] = NO_REORDERING
    path = numbered(tmp_path / name, frames=60, fps=25.0, **settings).path
    if name.startswith("vp"):
        path.write_bytes(as_recorded(path.read_bytes()))
    data, ends = path.read_bytes(), frame_ends(path)
    assert len(ends) == 60

    async def lockstep() -> list[int]:
        numbers = []
        async with await open_live(spec=SPEC, rate=25.0) as video:
            fed = 0
            for number in range(60 - late):
                upto = ends[max(number + late, 3 + late)]
                await video.feed(data[fed:upto])
                fed = max(fed, upto)
                frame, _ = await asyncio.wait_for(anext(video), 10)
                numbers.append(number_of(frame.pixels))
        return numbers

    assert asyncio.run(lockstep()) == list(range(60 - late))


# What is wrong


def without_moov(data: bytes) -> bytes:
    return data[data.index(b"moof") - 4 :]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda folder: b"", EmptyVideo, "empty"),
        (lambda folder: b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", NotAVideo, "playlist.*fragmented MP4, WebM"),
        (lambda folder: b"ffconcat version 1.0\nfile /etc/passwd\n", NotAVideo, "playlist"),
        (lambda folder: b"some words", NotAVideo, "text"),
        (lambda folder: bytes(100_000), NotAVideo, "zeros"),
        (lambda folder: np.random.default_rng(1).bytes(100_000), NotAVideo, "unknown kind"),
        (lambda folder: b"\x89PNG\r\n\x1a\n" + bytes(50), NotAVideo, "picture"),
        (lambda folder: b"\0\0\0\x18ftypisom" + np.random.default_rng(2).bytes(100_000), CorruptVideo, "MP4"),
        (lambda folder: b"\x1aE\xdf\xa3" + np.random.default_rng(3).bytes(100_000), CorruptVideo, "matroska"),
        (lambda folder: b"".join(b"G" + bytes(187) for _ in range(500)), VideoError, "."),
        (lambda folder: numbered(folder / "a.mp4").path, UnsupportedVideo, "not fragmented"),
        (lambda folder: numbered(folder / "a.mp4", options={"movflags": "faststart"}).path, UnsupportedVideo, "not fragmented"),
        (lambda folder: without_moov(numbered(folder / "a.mp4", options=FRAGMENTS).path.read_bytes()), CorruptVideo, "moov"),
        (lambda folder: numbered(folder / "a.avi", codec="mpeg4").path, UnsupportedVideo, "A avi file.*MPEG-TS"),
        (lambda folder: numbered(folder / "a.h264").path, UnsupportedVideo, "A h264 file"),
        (lambda folder: numbered(folder / "a.mp4", options=FRAGMENTS).path.read_bytes()[:300], CorruptVideo, "complete"),
        (lambda folder: audio_only(folder / "a.mkv"), NoVideoStream, "only audio"),
        (lambda folder: audio_only(folder / "a.ts"), NoVideoStream, "only audio"),
        (lambda folder: b"ID3\x04" + bytes(100), NoVideoStream, "audio"),
    ],
    ids=["empty", "m3u", "ffconcat", "text", "zeros", "noise", "png", "mp4 noise", "mkv noise", "ts noise", "mp4", "faststart",
         "no moov", "avi", "h264", "cut moov", "sound.mkv", "sound.ts", "mp3"],
)  # fmt: skip
def test_what_cannot_be_read_live_has_its_code(make, error, words, tmp_path):
    """Feeding it raises nothing; iterating does, and does again."""
    made = make(tmp_path)
    data = made if isinstance(made, bytes) else made.read_bytes()

    async def attempt() -> None:
        async with await open_live(spec=SPEC) as video:
            feeding = asyncio.create_task(feed(video, chunks(data, seed=4)))
            with pytest.raises(error, match=words):
                await anext(video)
            with pytest.raises(error, match=words):
                await anext(video)
            await asyncio.wait_for(feeding, 10)

    asyncio.run(asyncio.wait_for(attempt(), 30))


@pytest.mark.parametrize(
    ("head", "error"),
    [(b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", NotAVideo), (b"\0\0\1\xba" + bytes(30), UnsupportedVideo)],
    ids=["playlist", "mpeg"],
)
def test_a_few_bytes_are_enough_to_refuse(head, error):
    """Nothing more comes, and no end either."""

    async def attempt() -> None:
        async with await open_live(spec=SPEC) as video:
            await video.feed(head)
            with pytest.raises(error):
                await asyncio.wait_for(anext(video), 10)

    asyncio.run(attempt())


@pytest.mark.parametrize("name", ["h264.mkv", "stream.ts"])
def test_damage_costs_the_frames_that_it_hits(name, made, tmp_path):
    """As in a file; the rest is there, and a warning."""
    path = damage(made(name), tmp_path / name, start=0.5, length=3000)
    frames, video = asyncio.run(watch(path.read_bytes()))
    expected, _ = as_file(path)
    assert [warning.code for warning in video.warnings] == ["video_damaged"]
    assert [frame[0] for frame in frames] == [pytest.approx(frame[0]) for frame in expected]


def test_an_mp4_without_a_next_part_is_an_error_at_once(made):
    """Where a fragment should begin there is noise: nothing behind it could be found, so nothing is waited for."""
    data = made("fragment_each.mp4").read_bytes()
    cut = frame_ends(made("fragment_each.mp4"))[49]

    async def attempt() -> None:
        async with await open_live(spec=SPEC, rate=25.0) as video:
            await video.feed(data[:cut])
            await video.feed(np.random.default_rng(5).bytes(100))
            for _ in range(50):
                await anext(video)
            with pytest.raises(CorruptVideo, match="damaged"):
                await anext(video)
            await video.feed(data[cut:])

    asyncio.run(asyncio.wait_for(attempt(), 20))


@pytest.mark.parametrize("frames", [0, 13])
def test_without_frames_no_more_is_read_for_ever(frames, made, monkeypatch):
    """Empty packets of a transport stream, behind its tables or behind some frames."""
    monkeypatch.setattr(live_input, "FRAMELESS_BYTES", 100_000)
    data = made("stream.ts").read_bytes()
    ends = frame_ends(made("stream.ts"))
    begin = data[: ends[frames - 1]] if frames else data[:564]  # the tables
    with pytest.raises(CorruptVideo, match="No frame can be decoded from"):
        in_process(begin + (b"G\x1f\xff\x10" + bytes(184)) * 2000)


def test_the_budget_holds_for_memory_and_pixels_only(made, tmp_path):
    path = made("vp8.webm")
    frames, _ = asyncio.run(watch(path.read_bytes(), budget=Budget(seconds=1e-6, duration=0.1, frames=2)))
    assert len(frames) == 32
    with pytest.raises(VideoTooLarge, match="128 x 96"):
        asyncio.run(watch(path.read_bytes(), budget=Budget(pixels=1000)))
    large = numbered(tmp_path / "large.ts", frames=3, width=3840, height=2160).path
    with pytest.raises(DecodeMemory):
        asyncio.run(watch(large.read_bytes(), budget=Budget(memory=48 << 20)))


@pytest.mark.parametrize("name", ["vp8.webm", "vp9.webm", "fragments.mp4", "sound.ts"])
def test_a_changed_byte_never_leads_to_more_than_a_video_error(name, made):
    """60 copies with a few random bytes changed, read in this process: frames or a VideoError, always."""
    data = made(name).read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(60):
        changed = bytearray(data)
        for at in rng.integers(0, min(len(data), 6000), 4):
            changed[at] = int(rng.integers(0, 256))
        try:
            outcomes.add(len(in_process(bytes(changed))) > 0)
        except VideoError as error:
            outcomes.add(error.code)
    assert True in outcomes


# The demuxer's renewal


def in_process(data: bytes, rate: float = SPEC.rate) -> list:
    """What the worker would find, found here: [(time, ticks, index, pixels)]."""
    read_fd, write_fd = os.pipe()

    def write() -> None:
        with open(write_fd, "wb") as pipe, suppress(BrokenPipeError):
            pipe.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        source, container = open_input(read_fd)
        reading = read_live(source, container, rate=rate, budget=Budget(duration=1e9, frames=10**9))
        return [(sample.time, sample.ticks, sample.index, sample.pixels) for sample in reading]
    finally:
        os.close(read_fd)
        thread.join()


@pytest.mark.parametrize(
    "name", ["fragments.mp4", "fragment_each.mp4", "sound.mp4", "delayed.mp4", "by_file_offset.mp4"]
)
def test_renewing_the_demuxer_changes_nothing(name, made, monkeypatch):
    """After each fragment, or each few: all frames, each as it was."""
    data = made(name).read_bytes()
    once = in_process(data, rate=25.0)
    opened = []
    real = live_input.FragmentedInput.renew

    def renew(self) -> bool:
        opened.append(real(self))
        return opened[-1]

    monkeypatch.setattr(live_input.FragmentedInput, "renew", renew)
    for limit in (0, 300, 1000):
        opened.clear()
        monkeypatch.setattr(live_input, "RENEW_BYTES", limit)
        assert_same(in_process(data, rate=25.0), once)
        assert sum(opened) >= 1
    assert len(once) == 100


# Feeding, waiting, ending


def workers_of() -> list[psutil.Process]:
    """The workers that run for this process."""
    parents = children(psutil.Process(), "pipelines.decode_worker")
    return [worker for parent in parents for worker in children(parent)]


async def until(condition, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture(scope="module")
def long_stream(tmp_path_factory) -> bytes:
    """Ten minutes as a transport stream, 15,000 frames, 10 MB."""
    folder = tmp_path_factory.mktemp("long")
    part = numbered(folder / "part.mp4", frames=250, codec_options=NO_REORDERING).path
    copy_repeated(part, folder / "long.ts", times=60)
    return (folder / "long.ts").read_bytes()


def test_feeding_waits_while_nobody_takes_the_frames(long_stream):
    """Less than 4 MB are taken; all goes on as soon as frames are."""

    async def attempt() -> tuple[int, int]:
        taken = 0
        async with await open_live(spec=SPEC) as video:

            async def count() -> None:
                nonlocal taken
                for part in chunks(long_stream, None, 10_000):
                    await video.feed(part)
                    taken += len(part)
                await video.end()

            feeding = asyncio.create_task(count())
            waited = -1
            while waited < taken:
                waited = taken
                await asyncio.sleep(1.0)
            assert not feeding.done()
            frames = await collect(video)
            await feeding
        return waited, len(frames)

    waited, frames = asyncio.run(attempt())
    assert 100_000 < waited < 4_000_000
    assert frames == 600 * 8


def test_a_cancelled_wait_for_a_frame_loses_nothing(made):
    """A consumer with a time limit of its own."""
    data = made("vp8.webm").read_bytes()

    async def attempt() -> list:
        frames = []
        async with await open_live(spec=SPEC) as video:
            feeding = asyncio.create_task(slowly(video, data))
            while True:
                try:
                    frame, ticks = await asyncio.wait_for(anext(video), 0.003)
                    frames.append((frame.time, ticks, video.index, frame.pixels))
                except TimeoutError:
                    continue
                except StopAsyncIteration:
                    break
            await feeding
        return frames

    async def slowly(video: LiveVideo, data: bytes) -> None:
        for part in chunks(data, None, len(data) // 50):
            await video.feed(part)
            await asyncio.sleep(0.005)
        await video.end()

    assert_same(asyncio.run(attempt()), as_file(made("vp8.webm"))[0])


@pytest.mark.parametrize("how", ["kill", "kill from a thread", "signal", "close"])
def test_ending_it_half_way_ends_who_waits(how, long_stream):
    """Who feeds goes on undisturbed, who iterates gets DecoderDied, and the worker is gone."""

    async def attempt() -> None:
        async with await open_live(spec=SPEC) as video:
            await feed_some(video)
            frame, _ = await anext(video)
            assert frame.time == 0.0
            feeding = asyncio.create_task(feed(video, chunks(long_stream, None)))
            await asyncio.sleep(0.5)
            assert not feeding.done()
            if how == "kill":
                video.kill()
            elif how == "signal":
                for worker in workers_of():
                    worker.send_signal(signal.SIGSEGV)
            elif how == "close":
                await video.close()
            else:
                threading.Thread(target=video.kill).start()
            await asyncio.wait_for(feeding, 5)
            with pytest.raises(DecoderDied):
                await asyncio.wait_for(collect(video), 5)
            await until(lambda: workers_of() == [])

    async def feed_some(video: LiveVideo) -> None:
        await video.feed(long_stream[:100_000])

    asyncio.run(attempt())


def test_closing_ends_who_waits_for_a_frame():
    """Nothing was fed, and another task closes."""

    async def attempt() -> None:
        video = await open_live(spec=SPEC)
        waiting = asyncio.create_task(collect(video))
        await asyncio.sleep(0.1)
        await video.close()
        with pytest.raises(DecoderDied, match="closed"):
            await asyncio.wait_for(waiting, 5)
        await video.close()
        await video.end()

    asyncio.run(attempt())


def test_a_worker_that_hangs_is_killed(long_stream, monkeypatch):
    """It neither reads nor says anything, though there is much to read: nobody waits for ever."""
    monkeypatch.setattr(live, "STALL_SECONDS", 0.5)

    async def attempt() -> None:
        async with await open_live(spec=SPEC) as video:
            await video.feed(long_stream[:100_000])
            await anext(video)
            iterating = asyncio.create_task(collect(video))
            for worker in workers_of():
                worker.suspend()
            await asyncio.wait_for(feed(video, chunks(long_stream, None)), 10)
            with pytest.raises(DecodeTimeout, match="no progress"):
                await asyncio.wait_for(iterating, 5)

    asyncio.run(attempt())


def test_who_is_slow_to_take_frames_is_not_taken_for_a_hanging_worker(long_stream, monkeypatch):
    async def attempt() -> int:
        async with await open_live(spec=SPEC) as video:
            monkeypatch.setattr(live, "STALL_SECONDS", 0.5)
            feeding = asyncio.create_task(feed(video, chunks(long_stream, None)))
            await asyncio.sleep(2.0)
            monkeypatch.setattr(live, "STALL_SECONDS", 60.0)  # on a busy machine half a second is soon gone
            await asyncio.sleep(0.6)
            frames = await collect(video)
            await feeding
            return len(frames)

    assert asyncio.run(attempt()) == 600 * 8


def test_nothing_can_be_fed_after_the_end(made):
    async def attempt() -> None:
        async with await open_live(spec=SPEC) as video:
            await feed(video, [made("vp8.webm").read_bytes()])
            with pytest.raises(ValueError, match="ended"):
                await video.feed(b"more")
            with pytest.raises(ValueError, match="only after the last frame"):
                _ = video.summary
            assert len(await collect(video)) == 32
            assert await collect(video) == []

    asyncio.run(attempt())


def test_an_offset_that_is_no_time_is_refused():
    with pytest.raises(ValueError, match="offset must be"):
        asyncio.run(open_live(spec=SPEC, offset=float("nan")))


def test_an_idle_worker_takes_no_processor_time(made):
    """And what comes after the silence is decoded."""
    data, ends = made("vp8.webm").read_bytes(), frame_ends(made("vp8.webm"))

    async def attempt() -> float:
        async with await open_live(spec=SPEC, rate=25.0) as video:
            await video.feed(data[: ends[49]])
            for _ in range(50):
                await anext(video)
            await until(workers_of)  # forking takes a moment
            (worker,) = workers_of()
            before = sum(worker.cpu_times()[:2])
            await asyncio.sleep(1.5)
            took = sum(worker.cpu_times()[:2]) - before
            await video.feed(data[ends[49] :])
            await video.end()
            assert len(await collect(video)) == 50
            return took

    assert asyncio.run(attempt()) <= 0.02


def test_many_at_once_do_not_mix_and_leave_nothing_behind(made):
    """Eight videos in one event loop; then no process and no descriptor is left."""
    names = ["vp8.webm", "fragments.mp4", "stream.ts", "rotated.mp4"] * 2

    async def together() -> list:
        return await asyncio.gather(*(watch(made(name).read_bytes(), seed=seed) for seed, name in enumerate(names)))

    alone = {name: asyncio.run(watch(made(name).read_bytes()))[0] for name in set(names)}
    before = psutil.Process().num_fds()
    for name, (frames, _) in zip(names, asyncio.run(together()), strict=True):
        assert_same(frames, alone[name])
    assert workers_of() == []
    assert psutil.Process().num_fds() == before


def test_a_live_worker_is_confined_as_far_as_a_files(made):
    """Nothing is missing that a file's worker has."""
    messages._told.clear()
    as_file(made("vp8.webm"))
    known = set(messages._told)
    asyncio.run(watch(made("vp8.webm").read_bytes()))
    assert messages._told == known


# Memory


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("matroska", {"live": "1"}), ("mp4", FRAGMENT_EACH), ("mp4", FRAGMENTS), ("mpegts", {})],
    ids=["matroska", "mp4, each frame a fragment", "mp4", "mpegts"],
)
def test_an_hour_takes_no_more_memory_than_twelve_minutes(suffix, options, tmp_path):
    """At 24 fps, 86,400 frames: there are spans of six minutes from the twelfth on in which nothing comes on top, in the worker and here.

    Not each span, because a renewal of the demuxer (live_input.py) leaves 6 to 9 MB, once, and the allocator takes and gives back 4 MB for
    itself, some kilobytes at a time on a busy machine. A note of each frame, as FFmpeg would keep it, makes 270 KB in every span and
    megabytes in some; its muxer keeps one too, and so works in a process of its own.
    """
    part = numbered(tmp_path / "part.mp4", frames=240, fps=24.0, width=64, height=48, codec_options=NO_REORDERING).path
    me = psutil.Process()

    async def attempt() -> tuple[int, list[tuple[int, int]]]:
        sizes, sampled = [], 0
        muxer = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.pipelines.growing", part, suffix, "360", json.dumps(options),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip

        async def feed_all(video: LiveVideo) -> None:
            while data := await muxer.stdout.read(60_000):
                await video.feed(data)
            await video.end()

        async with await open_live(spec=SPEC) as video:
            feeding = asyncio.create_task(feed_all(video))
            await until(workers_of)  # forking takes a moment
            (worker,) = workers_of()
            async for _, ticks in video:
                sampled += ticks
                if sampled % 2880 == 0:  # six minutes
                    sizes.append((me.memory_info().rss, worker.memory_info().rss))
            await feeding
            assert video.summary.frames == 86_400
        assert await muxer.wait() == 0
        return sampled, sizes

    sampled, sizes = asyncio.run(attempt())
    assert sampled == 28_800
    assert len(sizes) == 10
    for of_one in zip(*sizes, strict=True):
        assert sorted(b - a for a, b in pairwise(of_one[2:]))[1] < 128 << 10, of_one
