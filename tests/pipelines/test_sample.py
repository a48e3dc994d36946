"""The sampling rule, the one resize and the grouping into clips; see pipelines/sample.py for the rule itself."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from models.spec import ClipSpec
from pipelines.frames import Clip, Frame
from pipelines.sample import Clipper, ClipperState, Sampler, SamplerState, fit

SPEC = ClipSpec(frames=4, rate=8.0, height=6, width=8, fit="stretch", mean=(0.0,) * 3, std=(1.0,) * 3, feature_width=8)


def spec(**changes: object) -> ClipSpec:
    return dataclasses.replace(SPEC, **changes)


def ticks(times: list[float], rate: float = 8.0) -> list[int]:
    sampler = Sampler(rate)
    return [sampler.take(time) for time in times]


def frame(value: int, time: float) -> Frame:
    return Frame(np.full((6, 8, 3), value, np.uint8), time)


def clips_of(times: list[float], model: ClipSpec = SPEC) -> list[Clip]:
    """Each frame shows its number."""
    sampler, clipper = Sampler(model.rate), Clipper(model)
    clips = [clip for k, time in enumerate(times) for clip in clipper.push(frame(k, time), sampler.take(time))]
    return clips + clipper.flush()


def shown(clip: Clip) -> list[int]:
    return [int(value) for value in clip.pixels()[:, 0, 0, 0]]


@pytest.mark.parametrize(
    ("fps", "frames", "sampled"), [(25, 310, 99), (30, 240, 64), (60, 480, 64), (5, 10, 15), (24, 48, 16), (8, 8, 8)]
)
def test_the_number_of_samples_follows_from_time_alone(fps, frames, sampled):
    """12.4 s at 25 fps are 99 samples at 8 Hz, and a source slower than the grid fills it by repetition."""
    assert sum(ticks([k / fps for k in range(frames)])) == sampled


def test_a_tick_is_filled_by_the_first_frame_at_or_after_it():
    """At 8 Hz the ticks are at 0, 0.125, 0.25; no frame is taken before its time."""
    assert ticks([0.0, 0.05, 0.12, 0.13, 0.2, 0.25]) == [1, 0, 0, 1, 0, 1]


def test_a_slow_frame_fills_all_ticks_that_are_open():
    assert ticks([0.0, 0.2, 0.4, 0.6]) == [1, 1, 2, 1]


def test_times_that_were_rounded_to_milliseconds_or_to_float32_hit_their_ticks():
    """At 7.5 Hz each fourth frame of 30 a second lies on a tick, which neither rounding can tell exactly."""
    exact = [k / 30 for k in range(30 * 60)]
    every_fourth = [int(k % 4 == 0) for k in range(len(exact))]
    assert ticks([round(time, 3) for time in exact], 7.5) == every_fourth
    assert ticks([float(np.float32(7200 + time)) for time in exact], 7.5) == every_fourth


def test_times_count_from_the_first_frame():
    assert ticks([100.0, 100.06, 100.13]) == ticks([0.0, 0.06, 0.13]) == [1, 0, 1]


def test_nothing_fills_a_gap_of_more_than_a_second():
    """The frame after the gap fills the latest tick only; one second is still bridged."""
    assert ticks([0.0, 1.0]) == [1, 8]
    assert ticks([0.0, 1.1]) == [1, 1]
    assert ticks([0.0, 60.0, 60.125]) == [1, 1, 1]


@pytest.mark.parametrize(
    "times", [[0.0, 0.125, 0.125, 0.25], [0.0, 0.125, 0.1, 0.25], [0.0, 0.125, -5.0, 0.25]], ids=str
)
def test_a_frame_that_is_not_later_than_the_one_before_is_ignored(times):
    assert ticks(times) == [1, 1, 0, 1]


@pytest.mark.parametrize("cut", range(0, 40, 7))
def test_a_sampler_and_a_clipper_go_on_from_their_states(cut):
    """Cut anywhere, stored and restored, a stream gives the clips of one that never stopped."""
    times = [k / 10 + (2.0 if k > 25 else 0.0) for k in range(40)]
    sampler, clipper, clips = Sampler(8.0), Clipper(SPEC), []
    for k, time in enumerate(times):
        if k == cut:
            sampler, clipper = Sampler(8.0, state=sampler.state()), Clipper(SPEC, state=clipper.state())
        clips += clipper.push(frame(k, time), sampler.take(time))
    clips += clipper.flush()

    whole = clips_of(times)
    assert [(shown(c), c.start, c.end) for c in clips] == [(shown(c), c.start, c.end) for c in whole]


def test_clips_follow_one_another_on_the_grid():
    """16 frames at 16 fps make two clips of 4 at 8 Hz, of half a second each."""
    clips = clips_of([k / 16 for k in range(16)])

    assert [shown(clip) for clip in clips] == [[0, 2, 4, 6], [8, 10, 12, 14]]
    assert [(clip.start, clip.end) for clip in clips] == [(0.0, 0.5), (0.5, 1.0)]


def test_the_last_clip_is_padded_with_its_last_frame_and_ends_where_frames_end():
    (clip,) = clips_of([0.0, 0.125])

    assert shown(clip) == [0, 1, 1, 1]
    assert (clip.start, clip.end) == (0.0, 0.25)
    assert Clipper(SPEC).flush() == []


def test_no_clip_spans_a_gap():
    """What was filling is padded, and the next clip starts at the frame after the gap."""
    first, second = clips_of([0.0, 0.125, 10.0, 10.125, 10.25, 10.375])

    assert (shown(first), first.start, first.end) == ([0, 1, 1, 1], 0.0, 0.25)
    assert (shown(second), second.start, second.end) == ([2, 3, 4, 5], 10.0, 10.5)


def test_one_slow_frame_can_complete_several_clips():
    """At 32 Hz the frame at 0.25 s fills ticks 1 to 8: two clips, and one tick of a third."""
    clips = clips_of([0.0, 0.25], spec(rate=32.0))

    assert [shown(clip) for clip in clips] == [[0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert clips[-1].end == 9 / 32


def test_clips_start_at_the_streams_own_time():
    """A stream whose first frame is at 5 s has its first clip at 5 s."""
    assert [clip.start for clip in clips_of([5.0 + k / 8 for k in range(8)])] == [5.0, 5.5]


def test_impossible_input_is_refused():
    with pytest.raises(ValueError, match="finite"):
        Sampler(8.0).take(float("nan"))
    with pytest.raises(ValueError, match="rate must be a positive"):
        Sampler(0.0)
    with pytest.raises(ValueError, match="max_gap"):
        Sampler(8.0, max_gap=0.0)
    with pytest.raises(ValueError, match="a sampled frame must be"):
        Clipper(SPEC).push(Frame(np.zeros((5, 8, 3), np.uint8), 0.0), 1)
    with pytest.raises(ValueError, match="cannot fill 3 ticks"):
        Clipper(SPEC).push(frame(0, 0.0), 3)
    with pytest.raises(ValueError, match="fewer than 4 frames"):
        Clipper(SPEC, state=ClipperState(0.0, 4, (frame(0, 0).pixels,) * 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Frame(np.zeros((4, 4), np.uint8), 0.0), r"\[H, W, 3\], got \(4, 4\)"),
        (lambda: Frame(np.zeros((4, 4, 3), np.float32), 0.0), "uint8, got float32"),
        (lambda: Frame(np.zeros((4, 4, 3), np.uint8), float("inf")), "finite"),
        (lambda: Clip((np.zeros((4, 4), np.uint8),), 0.0, 1.0), r"\[H, W, 3\]"),
        (lambda: Clip((), 0.0, 1.0), "got none"),
        (lambda: Clip((np.zeros((4, 4, 3), np.uint8),), 1.0, 1.0), "end after it starts"),
    ],
)
def test_frames_and_clips_check_themselves(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_sampler_state_is_three_plain_numbers():
    sampler = Sampler(8.0)
    for k in range(1000):
        sampler.take(k / 25)
    assert sampler.state() == SamplerState(0.0, 999 / 25, 320)


# The resize


def gradient(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 255 / height, columns * 255 / width, (rows + columns) % 256], -1).astype(np.uint8)


@pytest.mark.parametrize("fitting", ["stretch", "crop"])
@pytest.mark.parametrize(
    "size", [(96, 128), (480, 640), (721, 1281), (20, 30), (20, 3000), (3000, 20), (1, 1)], ids=str
)
def test_any_picture_fits_the_model(size, fitting):
    model = spec(height=96, width=128, fit=fitting)
    fitted = fit(gradient(*size), model)

    assert fitted.shape == (96, 128, 3)
    assert fitted.dtype == np.uint8
    assert fitted.flags.c_contiguous
    np.testing.assert_array_equal(fit(fitted, model), fitted)


def test_shrinking_averages_over_areas():
    """Noise becomes the means of its blocks, not a choice of its pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    blocks = noise.reshape(6, 10, 8, 10, 3).mean((1, 3))
    assert np.abs(fit(noise, SPEC) - blocks).max() < 1.0


@pytest.mark.parametrize("size", list(itertools.product([240, 480], [320, 500])), ids=str)
def test_crop_is_torchvisions_resize_and_centre_crop(size):
    """Smooth pictures agree within rounding and half a source pixel."""
    source = gradient(*size)
    source[..., 2] = source[..., 0]
    theirs = transforms.resize(torch.from_numpy(source).permute(2, 0, 1), [112], antialias=True)
    theirs = transforms.center_crop(theirs, [112, 112]).permute(1, 2, 0).numpy()

    assert np.abs(fit(source, spec(height=112, width=112, fit="crop")).astype(int) - theirs).mean() < 1.0
