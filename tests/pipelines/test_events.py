"""Events out of predictions, clip by clip."""

import numpy as np
import pytest

from pipelines.events import EventOptions, EventTracker

LABELS = ("Background", "Walk", "Fall")


def scores(background=0.0, walk=0.0, fall=0.0):
    return np.array([background, walk, fall])


def run(segments, *, several=False, **options):
    """All changes over segments of two seconds, as (state, label, start, end)."""
    tracker = EventTracker(LABELS, "Background", EventOptions(**options), several=several)
    changes = [c for i, s in enumerate(segments) for c in tracker.push(s, 2.0 * i, 2.0 * i + 2)] + tracker.flush()
    return [(c.state, c.event.label, c.event.start, c.event.end) for c in changes]


def test_a_run_of_equal_labels_is_one_event():
    """It starts, goes on and ends; the background is none."""
    changes = run([scores(1.0), scores(walk=0.9), scores(walk=0.8), scores(fall=0.9), scores(1.0)])
    assert changes == [
        ("started", "Walk", 2.0, 4.0),
        ("updated", "Walk", 2.0, 6.0),
        ("ended", "Walk", 2.0, 6.0),
        ("started", "Fall", 6.0, 8.0),
        ("ended", "Fall", 6.0, 8.0),
    ]


def test_a_label_that_is_hardly_better_does_not_end_a_run():
    """Only one that is better by more than `hold`."""
    wavering = [scores(walk=0.9), scores(walk=0.45, fall=0.5), scores(walk=0.9)]
    assert [c for c in run(wavering) if c[0] == "ended"] == [("ended", "Walk", 0.0, 6.0)]
    assert [c[1] for c in run(wavering, hold=0.0) if c[0] == "ended"] == ["Walk", "Fall", "Walk"]


def test_a_run_that_is_hardly_believed_is_no_event():
    """Until its confidence reaches `least`; then it starts where the run did."""
    assert run([scores(walk=0.15, fall=0.1)], least=0.2) == []
    late = run([scores(walk=0.15), scores(walk=0.9)], least=0.2)
    assert late[0] == ("started", "Walk", 0.0, 4.0)


def test_a_moment_is_no_event():
    """A run is one from `shortest` on, and then from where it began."""
    tracker = EventTracker(LABELS, "Background", EventOptions(shortest=1.0))
    assert tracker.push(scores(walk=0.9), 0.0, 0.5) == []
    assert tracker.push(scores(fall=0.9), 0.5, 1.0) == []
    (change,) = tracker.push(scores(fall=0.9), 1.0, 1.5)
    assert (change.state, change.event.label, change.event.start, change.event.end) == ("started", "Fall", 0.5, 1.5)


@pytest.mark.parametrize("wrong", [{"hold": 1.1}, {"least": -0.1}, {"shortest": -1.0}, {"shortest": float("nan")}])
def test_impossible_options_are_refused(wrong):
    """By name."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EventOptions(**wrong)


def test_confidence_is_the_mean_score_over_time():
    """Long segments weigh more."""
    tracker = EventTracker(LABELS, "Background")
    tracker.push(scores(walk=0.9), 0.0, 3.0)
    (change,) = tracker.push(scores(walk=0.5), 3.0, 4.0)
    assert change.event.confidence == pytest.approx(0.8)


def test_a_silence_ends_an_event():
    """What was not seen is not claimed."""
    tracker = EventTracker(LABELS, "Background")
    tracker.push(scores(walk=0.9), 0.0, 2.0)
    changes = tracker.push(scores(walk=0.9), 10.0, 12.0)
    assert [(c.state, c.event.start, c.event.end) for c in changes] == [("ended", 0.0, 2.0), ("started", 10.0, 12.0)]


def test_a_tracker_goes_on_from_its_state():
    """Cut anywhere, the events are the same."""
    segments = [scores(walk=0.9), scores(walk=0.45, fall=0.5), scores(walk=0.9), scores(fall=0.9), scores(fall=0.8)]
    whole = run(segments)
    for cut in range(len(segments) + 1):
        tracker, changes = EventTracker(LABELS, "Background"), []
        for i, s in enumerate(segments):
            if i == cut:
                tracker = EventTracker(LABELS, "Background", runs=tracker.state())
            changes += tracker.push(s, 2.0 * i, 2.0 * i + 2)
        changes += tracker.flush()
        assert [(c.state, c.event.label, c.event.start, c.event.end) for c in changes] == whole


def test_labels_that_may_be_true_at_once_have_events_of_their_own():
    """They overlap; the background is none however sure it is, and neither is what is not sure."""
    changes = run(
        [scores(background=0.9, fall=0.49), scores(walk=0.9), scores(walk=0.7, fall=0.8), scores(fall=0.9)],
        several=True,
    )
    assert changes == [
        ("started", "Walk", 2.0, 4.0),
        ("updated", "Walk", 2.0, 6.0),
        ("started", "Fall", 4.0, 6.0),
        ("ended", "Walk", 2.0, 6.0),
        ("updated", "Fall", 4.0, 8.0),
        ("ended", "Fall", 4.0, 8.0),
    ]


def test_a_label_of_several_goes_on_until_it_is_clearly_less_sure():
    """More than `hold` below a half; another label that is surer does not end it."""
    wavering = [scores(walk=0.6), scores(walk=0.42, fall=0.9), scores(walk=0.6)]
    ends = [c[1:] for c in run(wavering, several=True) if c[0] == "ended"]
    assert ends == [("Fall", 2.0, 4.0), ("Walk", 0.0, 6.0)]
    assert [c[1:] for c in run(wavering, several=True, hold=0.05) if c[0] == "ended" and c[1] == "Walk"] == [
        ("Walk", 0.0, 2.0),
        ("Walk", 4.0, 6.0),
    ]


def test_more_labels_than_go_on_at_a_time_do_not_end_each_other():
    """Ten are true throughout, about equally: eight of them are said, from the first to the last moment."""
    labels = ("Background", *map(str, range(10)))
    rng = np.random.default_rng(0)
    tracker, changes = EventTracker(labels, "Background", several=True), []
    for n in range(40):
        changes += tracker.push(np.array([0.0, *rng.uniform(0.85, 0.95, 10)]), n / 2, n / 2 + 0.5)
    changes += tracker.flush()
    ended = [c.event for c in changes if c.state == "ended"]
    assert [(event.start, event.end) for event in ended] == [(0.0, 20.0)] * 8


def test_a_tracker_of_several_labels_goes_on_from_its_state():
    """Cut anywhere, in the midst of two events too, the changes are the same."""
    segments = [
        scores(walk=0.9),
        scores(walk=0.42, fall=0.8),
        scores(walk=0.9, fall=0.45),
        scores(fall=0.9),
        scores(fall=0.1),
    ]
    whole = run(segments, several=True)
    for cut in range(len(segments) + 1):
        tracker, changes = EventTracker(LABELS, "Background", several=True), []
        for i, s in enumerate(segments):
            if i == cut:
                tracker = EventTracker(LABELS, "Background", runs=tracker.state(), several=True)
            changes += tracker.push(s, 2.0 * i, 2.0 * i + 2)
        changes += tracker.flush()
        assert [(c.state, c.event.label, c.event.start, c.event.end) for c in changes] == whole
