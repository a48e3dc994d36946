"""A stream's state as bytes: exact, small, and refused when it is anything else."""

import contextlib
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pipelines import state as states
from pipelines.events import EventOptions
from pipelines.state import BadState
from pipelines.streaming import Stream, StreamState
from tests.pipelines.test_streaming import LABELS, SPEC, feed, frames, fresh, told

MEMORY, CLASSES = 2, len(LABELS)


def read(data):
    return states.from_bytes(data, memory=MEMORY, classes=CLASSES)


@pytest.fixture(scope="module")
def busy():
    """A state in the middle of things: an event goes on."""
    stream = fresh()
    feed(stream, frames(np.arange(0, 9.7, 1 / 25)), finish=False)
    state = stream.state()
    assert len(state.runs) == 1
    assert state.recent
    assert any(step.events for step in state.recent)
    return state


def test_what_is_read_is_what_was_written_to_the_bit(busy):
    """Written again it is the same bytes."""
    data = states.to_bytes(busy)
    again = read(data)
    assert states.to_bytes(again) == data
    assert again.memory_M.tobytes() == busy.memory_M.tobytes()
    assert again.totals_C.tobytes() == busy.totals_C.tobytes()
    assert (again.sampler, again.runs, again.frame, again.missing) == (
        busy.sampler,
        busy.runs,
        busy.frame,
        busy.missing,
    )
    assert [step.events for step in again.recent] == [step.events for step in busy.recent]


def test_a_stream_goes_on_from_bytes_as_from_the_state(busy):
    """The same results, numbers and events."""
    rest = [f for f in frames(np.arange(0, 20, 1 / 25)) if f.time > busy.sampler.last]
    assert told(feed(fresh(read(states.to_bytes(busy))), rest)) == told(feed(fresh(busy), rest))


def test_a_state_of_several_labels_at_once_goes_on_as_it_would_have():
    """Two events in the midst of which it is cut, and scores that do not sum to one: read again, all of it is the same."""
    times = np.arange(0, 20, 1 / 8)

    def go(cut):
        stream, steps = fresh(several=True), []
        for index, start in enumerate(range(0, len(times) - 11, 12)):  # a segment's twelve frames
            if index == cut:
                data = states.to_bytes(stream.state())
                stream = fresh(read(data), several=True)
                assert states.to_bytes(stream.state()) == data
            for frame in frames(times[start : start + 12]):
                for clip in stream.push(frame, stream.take(frame.time)):
                    if segment := stream.add(clip, np.zeros(1, np.float32)):
                        scores = np.array([0.0, 0.9, 0.8 if 2 <= index < 9 else 0.1], np.float32)
                        steps.append(stream.advance(segment, scores, np.tile(scores, (3, 1)), segment.memory_M))
        events = [(c.state, c.event) for step in steps for c in step.events] + [
            (c.state, c.event) for c in stream.close()
        ]
        return events, stream.state().scores_C.tolist()

    whole = go(None)
    assert [one.label for state, one in whole[0] if state == "ended"] == ["B", "A"]
    assert whole[1][1] == pytest.approx(0.9)
    assert sum(whole[1]) > 1.2
    for cut in (1, 3, 5, 9, 11):
        assert go(cut) == whole


def test_a_state_is_small_and_does_not_grow():
    """2 KB of memory and 400 labels fit; an hour takes as much as a minute but for digits."""
    sizes = []
    for seconds in (60, 3600):
        stream = fresh()
        feed(stream, frames(np.arange(0, seconds, 1 / 8)), finish=False)
        sizes.append(len(states.to_bytes(stream.state())))
    assert sizes[1] - sizes[0] < 64
    large = StreamState(memory_M=np.zeros(512, np.float32), totals_C=np.zeros(400))
    assert len(states.to_bytes(large)) < 6000


def test_a_state_of_many_labels_that_all_flicker_is_read_again():
    """More than 65,535 bytes of events in its last segments; of all labels that are sure, eight are said at a time."""
    labels = ("Background", *(f"A label with a rather long name, number {n}" for n in range(200)))
    options = {"several": True, "events": EventOptions(shortest=0.0)}
    stream = Stream(SPEC, 64, labels, "Background", StreamState(memory_M=np.zeros(2, np.float32)), **options)
    for number, frame in enumerate(frames(np.arange(0, 200, 1 / 8))):
        for clip in stream.push(frame, stream.take(frame.time), number):
            if segment := stream.add(clip, np.zeros(1, np.float32)):
                by_clip = np.zeros((64, 201), np.float32)
                by_clip[::2, 1:] = 0.9
                step = stream.advance(segment, by_clip.mean(0), by_clip, segment.memory_M)
    assert Counter(change.state for change in step.events) == {"started": 256, "ended": 256}
    data = states.to_bytes(stream.state())
    assert len(data) > 1 << 16
    again = states.from_bytes(data, memory=2, classes=201)
    assert states.to_bytes(again) == data
    with pytest.raises(BadState):
        states.from_bytes(data[:70_000], memory=2, classes=201)


def test_a_count_beyond_all_numbers_is_refused(busy):
    """Which no float can hold."""
    data = states.to_bytes(busy)
    header = data[7 : 7 + int.from_bytes(data[5:7], "little")]
    changed = header[:-1] + b',"weighed":1' + b"0" * 400 + b"}"
    with pytest.raises(BadState, match="weighed"):
        read(data[:5] + len(changed).to_bytes(2, "little") + changed + data[7 + len(header) :])


def test_a_state_whose_scores_are_none_is_refused(busy):
    """Less than nothing, or more than its segments can have."""
    for totals in (-busy.totals_C, busy.totals_C * np.array([1, 1, 3])):
        with pytest.raises(BadState, match="scores"):
            read(states.to_bytes(replace(busy, totals_C=totals)))


def test_a_state_that_was_cut_or_changed_is_refused(busy):
    """Whatever is wrong, it is BadState, never a state that is something else, and never another error."""
    data = states.to_bytes(busy)
    for length in range(len(data)):
        with pytest.raises(BadState):
            read(data[:length])
    with pytest.raises(BadState, match="goes on"):
        read(data + b"x")
    rng = random.Random(0)
    for _ in range(3000):
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 5)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        with contextlib.suppress(BadState):
            read(bytes(changed))


def test_the_state_of_a_model_of_another_shape_is_refused(busy):
    """By its numbers."""
    with pytest.raises(BadState, match="2 numbers of memory and 3 labels; this one has 4 and 3"):
        states.from_bytes(states.to_bytes(busy), memory=4, classes=3)
    with pytest.raises(BadState, match="this one has 2 and 5"):
        states.from_bytes(states.to_bytes(busy), memory=2, classes=5)


def test_numbers_that_are_left_out_count_in_the_segment_that_was_filling():
    """And a stream that goes on counts them just so."""
    some = frames(np.arange(0, 8, 1 / 25))

    def run(stream, numbered):
        steps = []
        for number, frame in numbered:
            if ticks := stream.take(frame.time, number):
                for clip in stream.push(frame, ticks):
                    segment = stream.add(clip, np.zeros(1, np.float32))
                    if segment is not None:
                        scores = np.array([0.2, 0.5, 0.3], np.float32)
                        steps.append(stream.advance(segment, scores, np.stack([scores] * 3), segment.memory_M))
        return [step.result.missing for step in steps]

    numbered = [(i, f) for i, f in enumerate(some) if not 50 <= i < 57 and i != 120]
    whole = run(fresh(), numbered)
    assert sum(whole) == 8
    assert whole[1] == 7
    for cut in range(20, 190, 13):
        first = fresh()
        before = run(first, numbered[:cut])
        state = read(states.to_bytes(first.state()))
        after = run(fresh(state), [(i, f) for i, f in numbered if i >= state.frame])
        assert before + after == whole, cut
