"""One stream: the state machine that all doors share, with a model that is plain arithmetic, so that every number is known."""

import numpy as np
import pytest

from models.spec import ClipSpec
from pipelines.events import EventOptions
from pipelines.frames import Frame
from pipelines.streaming import Stream, StreamState

SPEC = ClipSpec(
    frames=4, rate=8.0, height=2, width=3, fit="stretch", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), feature_width=1
)
SEGMENT = 3
LABELS = ("Background", "A", "B")


def fresh(state=None, **options):
    return Stream(
        SPEC, SEGMENT, LABELS, "Background", state or StreamState(memory_M=np.zeros(2, np.float32)), **options
    )


def frames(times):
    return [Frame(np.full((2, 3, 3), int(time * 30) % 256, np.uint8), float(time)) for time in times]


def feed(stream, some, *, finish=True):
    """Frames through a stand-in for the networks whose memory depends on all before; the segments' results."""
    steps = []

    def advance(segment):
        content = float((segment.features_LF[:, 0] * segment.mask_L).sum())
        memory = segment.memory_M * np.float32(0.5) + np.float32(content)
        b = 1 / (1 + np.exp(-float(memory[0]) / 100 + 3))
        scores = np.array([0.0, 1 - b, b], np.float32)
        # Each clip a little surer of B than the one before: events begin inside segments, too.
        by_clip = np.stack([scores + np.float32(0.1 * i) * np.array([0, -1, 1], np.float32) for i in range(SEGMENT)])
        steps.append(stream.advance(segment, scores, by_clip, memory))

    def take(clips):
        for clip in clips:
            if (
                segment := stream.add(clip, clip.pixels().mean(keepdims=True).reshape(1).astype(np.float32))
            ) is not None:
                advance(segment)

    for frame in some:
        if ticks := stream.take(frame.time):
            take(stream.push(frame, ticks))
    if finish:
        take(stream.finish())
        if (rest := stream.rest()) is not None:
            advance(rest)
    return steps


def told(steps):
    return [(s.result.index, s.result.start, s.result.end, s.result.clips, s.result.scores_C.tolist()) for s in steps]


@pytest.mark.parametrize("fps", [5, 8, 12.5, 25, 29.97, 60])
def test_a_stream_cut_anywhere_goes_on_with_the_same_results(fps):
    """From the state of the last finished segment, with all frames from any earlier one on: index, times, scores, events."""
    some = frames(np.arange(0, 11, 1 / fps))
    whole = feed(fresh(), some)
    assert len(whole) > 5
    for cut in range(1, len(some), max(1, len(some) // 23)):
        first = fresh()
        before = feed(first, some[:cut], finish=False)
        state = first.state()
        # The client sends again from the last frame before the position: what was already seen changes nothing.
        again = [f for f in some if f.time > (state.sampler.last or -1.0)] if state.segments else some
        after = feed(fresh(state), again)
        assert told(before + after) == told(whole), (fps, cut)
        changes = [c for step in before + after for c in step.events]
        assert changes == [c for step in whole for c in step.events]


def test_frames_sent_again_change_nothing():
    """Every frame twice, the second time late: the same segments."""
    some = frames(np.arange(0, 6, 1 / 25))
    doubled = [frame for pair in zip(some, [some[0], *some[:-1]], strict=True) for frame in pair]
    assert told(feed(fresh(), doubled)) == told(feed(fresh(), some))


def test_the_state_is_as_small_after_an_hour_as_after_a_minute():
    """Numbers only; its memory never grows."""
    stream = fresh()
    feed(stream, frames(np.arange(0, 60, 1 / 8)), finish=False)
    minute = stream.state()
    feed(stream, frames(np.arange(60, 3600, 1 / 8)), finish=False)
    hour = stream.state()
    assert hour.memory_M.nbytes == minute.memory_M.nbytes
    assert hour.totals_C.nbytes == minute.totals_C.nbytes
    assert hour.segments > 50 * minute.segments


@pytest.mark.parametrize(("remembers", "expected"), [(True, [3, 6, 9, 12, 12, 4]), (False, [3, 3, 3, 3, 3, 1])])
def test_a_whole_videos_scores_are_a_mean_in_which_an_empty_memory_counts_less(remembers, expected):
    """Segments of three clips each: the first counts once, the second twice, from the fourth on all alike; a last one of one clip as one clip."""
    stream = fresh(remembers=remembers)
    steps = feed(stream, frames(np.arange(0, 8.0, 1 / 8)))
    assert [step.result.clips for step in steps] == [3, 3, 3, 3, 3, 1]
    wanted = sum(step.result.scores_C * part for step, part in zip(steps, expected, strict=True)) / sum(expected)
    np.testing.assert_allclose(stream.state().scores_C, wanted, atol=1e-6)
    assert fresh().state().scores_C is None


@pytest.mark.parametrize("several", [False, True])
def test_what_begins_again_within_a_segment_is_told_apart(several):
    """A, B, A and A, a clip each: the first A ends as it was, and the second one is one word, about all of it."""
    stream = Stream(
        SPEC, 4, LABELS, "Background", StreamState(memory_M=np.zeros(2, np.float32)), events=EventOptions(shortest=0.5), several=several
    )  # fmt: skip
    by_clip = np.float32([[0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.1, 0.9, 0.1], [0.1, 0.9, 0.1]])
    for frame in frames(np.arange(0, 2.1, 1 / 8)):
        for clip in stream.push(frame, stream.take(frame.time)):
            if segment := stream.add(clip, np.zeros(1, np.float32)):
                step = stream.advance(segment, by_clip.mean(0), by_clip, segment.memory_M)
    assert [(c.state, c.event.label, c.event.start, c.event.end) for c in step.events] == [
        ("started", "A", 0.0, 0.5), ("ended", "A", 0.0, 0.5), ("started", "B", 0.5, 1.0), ("ended", "B", 0.5, 1.0), ("started", "A", 1.0, 2.0),
    ]  # fmt: skip


def test_a_gap_ends_a_clip_and_no_segment_lies_about_time():
    """Ten seconds without frames: the clip before is padded, and the next starts when frames do."""
    some = frames([*np.arange(0, 1.3, 1 / 8), *np.arange(11.3, 14, 1 / 8)])
    stream = fresh()
    clips = []
    for frame in some:
        if ticks := stream.take(frame.time):
            clips += stream.push(frame, ticks)
    assert any(clip.end <= 1.5 for clip in clips)
    assert not any(clip.start < 2 and clip.end > 11 for clip in clips)


def test_a_prediction_out_of_turn_is_refused():
    """The state moves on one segment at a time."""
    stream = fresh()
    feed(stream, frames(np.arange(0, 4, 1 / 8)), finish=False)
    segment = stream.rest()
    stream.advance(segment, np.ones(3) / 3, np.ones((SEGMENT, 3)) / 3, segment.memory_M)
    with pytest.raises(ValueError, match="is due"):
        stream.advance(segment, np.ones(3) / 3, np.ones((SEGMENT, 3)) / 3, segment.memory_M)
