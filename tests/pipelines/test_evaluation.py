"""Figures that papers report: each by hand on small cases, and the whole way from a file to a report."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from models import checkpoint
from models.config import ClassifierConfig, CrtConfig
from models.heads import VideoClassifier
from models.small import SPEC, SmallBackbone
from pipelines import evaluate, report
from pipelines.datasets import BadDataset, LabelledVideo, Span
from pipelines.events import Event
from pipelines.homesim.make import write_video
from pipelines.label import Labelling
from pipelines.metrics import (
    calibration_error,
    delays,
    frame_map,
    match_events,
    mean_class_accuracy,
    top_k,
)
from pipelines.recognizer import Recognizer

ROOT = Path(__file__).parents[2]
LABELS = ["Background", "Drink.Fromcup", "Drink.Fromglass", "Walk"]


def untrimmed(spans, visible=()):
    return LabelledVideo(Path("x.mp4"), "untrimmed/x", "test", None, tuple(spans), tuple(visible))


def watched(video, scores_NC, seconds, *, segment=1, events=(), times=None) -> evaluate.Watched:
    """Scores of clips that follow each other, so many a segment."""
    count = len(scores_NC)
    starts = np.arange(count) * seconds
    lengths = np.array([min(segment, count - at) for at in range(0, count, segment)])
    ends = np.cumsum(lengths)
    scores_SC = np.stack([scores_NC[end - length : end].mean(0) for end, length in zip(ends, lengths, strict=True)])
    times = np.stack([starts, starts + seconds], 1) if times is None else times
    return evaluate.Watched(video, scores_SC, scores_NC, times, lengths, tuple(events))


def one_hot(*labels):
    return np.eye(len(LABELS))[[LABELS.index(label) for label in labels]]


# Each figure by hand


def test_every_moment_has_the_label_of_its_clip():
    """Half a clip wrong is half a clip's time wrong; what no span covers is background; what was not seen is not counted."""
    video = untrimmed([Span(0.0, 3.0, "Walk")])
    assert evaluate.frame_accuracy(watched(video, one_hot("Walk", "Walk", "Background"), 2.0), LABELS) == (125, 150)
    gap = np.array([[0.0, 2.0], [4.0, 6.0]])
    assert evaluate.frame_accuracy(watched(video, one_hot("Walk", "Walk"), 2.0, times=gap), LABELS) == (50, 100)


def test_a_clips_scores_are_the_mean_without_background():
    """Longer segments weigh more."""
    scores = np.array([[0.9, 0.05, 0.05, 0.0], [0.5, 0.0, 0.1, 0.4]])
    assert LABELS[evaluate.clip_scores(scores, LABELS).argmax()] == "Walk"
    assert LABELS[evaluate.clip_scores(scores, LABELS, [40, 1]).argmax()] == "Drink.Fromglass"


@pytest.mark.parametrize(("remembers", "label"), [(True, "Walk"), (False, "Drink.Fromcup")])
def test_of_a_trimmed_clip_the_last_segments_say_more_where_there_is_a_memory(remembers, label):
    """Of four, the first two name another label than the last two, a little more surely."""
    scores = np.array([[0.0, 0.6, 0.0, 0.4]] * 2 + [[0.0, 0.45, 0.0, 0.55]] * 2)
    one = watched(replace(untrimmed([]), label=label), scores, 2.0)
    measured = evaluate.Measured(tuple(LABELS), 2.0, [one], remembers=remembers)
    assert measured.clips()[:2] == ([label], [label])
    assert measured.figures()["trimmed_top_1"] == 1.0
    assert measured.figures()["trimmed_top_1_segments_alike"] == float(not remembers)


def test_mean_class_accuracy_counts_every_class_alike():
    """One of two classes right on its only clip, the other on none of three."""
    mean, shares = mean_class_accuracy(["Walk", "Fall", "Fall", "Fall"], ["Walk", "Walk", "Walk", "Enter"])
    assert mean == 0.5
    assert shares == {"Walk": 1.0, "Fall": 0.0}


def test_the_true_class_is_among_the_best():
    scores = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.4, 0.2]])
    true = np.array([1, 2, 1])
    assert [top_k(scores, true, k) for k in (1, 2, 3)] == [pytest.approx(1 / 3), 1.0, 1.0]


def test_frame_map_is_the_mean_of_average_precisions():
    """Ranks of the true moments 1 and 3 give (1 + 2/3) / 2; a class that never occurs counts for nothing."""
    scores = np.array([[0.9, 0.5, 0.1], [0.8, 0.6, 0.1], [0.7, 0.7, 0.1], [0.1, 0.8, 0.1]])
    truth = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]], bool)
    mean, by_class = frame_map(scores, truth)
    assert by_class == {0: pytest.approx((1 + 2 / 3) / 2), 1: pytest.approx(1 / 2)}
    assert mean == pytest.approx((5 / 6 + 1 / 2) / 2)


def brute(events, spans, overlap) -> int:
    """The most hits that any assignment has."""

    def share(event, span):
        common = max(0.0, min(event.end, span.end) - max(event.start, span.start))
        return common / (max(event.end, span.end) - min(event.start, span.start))

    best = 0
    padded = [*spans, *[None] * len(events)]
    for order in permutations(range(len(padded)), len(events)):
        taken = [padded[n] for n in order]
        hits = sum(
            span is not None and span.label == event.label and share(event, span) >= overlap
            for event, span in zip(events, taken, strict=True)
        )
        best = max(best, hits)
    return best


def test_events_are_matched_once_and_never_better_than_the_best_assignment():
    """By hand, and at half and more in common, where no event can fit two, as many as any assignment could."""
    spans = [Span(0, 4, "Walk"), Span(4, 8, "Sit"), Span(10, 14, "Walk")]
    events = [Event("Walk", 0, 1, 1), Event("Walk", 1, 4, 1), Event("Sit", 5, 8, 1), Event("Fall", 10, 14, 1)]
    assert [match_events(events, spans, o).f1 for o in (0.1, 0.5)] == [pytest.approx(4 / 7), pytest.approx(4 / 7)]
    found = match_events(events, spans, 0.5)
    assert (found.hits, found.false, found.missed) == (1 + 1, 2, 1)
    rng = np.random.default_rng(0)
    for _ in range(60):
        cuts = np.sort(rng.uniform(0, 10, 6))
        true = [Span(a, b, "AB"[int(rng.integers(2))]) for a, b in zip(cuts[::2], cuts[1::2], strict=True)]
        said = np.sort(rng.uniform(0, 10, 6))
        told = [Event("AB"[int(rng.integers(2))], a, b, 1.0) for a, b in zip(said[::2], said[1::2], strict=True)]
        assert match_events(told, true, 0.51).hits == brute(told, true, 0.51)
        assert match_events(told, true, 0.1).hits <= brute(told, true, 0.1)


def test_a_label_is_late_by_the_time_until_it_was_told():
    """At the end of its segment, not when the clip was; an event that is never named has none."""
    times = np.array([[n, n + 1.0] for n in range(6)])
    known = np.array([2.0, 2, 4, 4, 6, 6])
    said = [{"Background"}, {"Background"}, {"Walk", "Sit"}, {"Walk"}, {"Background"}, {"Background"}]
    spans = [Span(1.5, 4.0, "Walk"), Span(4.5, 6.0, "Sit")]
    assert delays(spans, said, times, known) == [2.5, None]


def test_calibration_compares_confidence_with_how_often_it_is_right():
    assert calibration_error(np.array([0.9] * 10), np.array([1] * 9 + [0], bool)) == pytest.approx(0)
    assert calibration_error(np.array([1.0, 1.0, 0.2, 0.2]), np.array([1, 0, 0, 0], bool)) == pytest.approx(0.35)


def test_drinks_are_sorted_by_the_time_since_the_container_was_seen():
    """The nearest fetching before the drink counts; only the container is judged."""
    video = untrimmed(
        [Span(20.0, 24.0, "Drink.Fromcup"), Span(40.0, 44.0, "Drink.Fromglass")],
        [Span(2.0, 6.0, "Take.Cup"), Span(30.0, 32.0, "Take.Glass")],
    )
    one = watched(video, np.tile([0.7, 0.2, 0.1, 0.0], (25, 1)), 2.0)
    points = {p.low: (p.drinks, p.right) for p in evaluate.drinks_by_gap([one], LABELS, 2.0)}
    assert points[10] == (1, 1)
    assert points[5] == (1, 0)
    assert sum(p[0] for p in points.values()) == 2


def test_the_figures_of_untrimmed_video():
    """All right but for one clip of eight: by hand."""
    video = untrimmed([Span(0, 4, "Walk"), Span(8, 16, "Drink.Fromcup")])
    said = one_hot(*["Walk"] * 2, *["Background"] * 2, *["Drink.Fromcup"] * 3, "Walk") * 0.8 + 0.05
    events = [Event("Walk", 0, 4, 0.8), Event("Drink.Fromcup", 8, 14, 0.8)]
    one = watched(video, said, 2.0, segment=2, events=events)
    figures = evaluate.Measured(tuple(LABELS), 4.0, [one]).figures()
    assert figures["untrimmed_frame_accuracy"] == pytest.approx(7 / 8, abs=1e-4)
    assert figures["untrimmed_event_f1"] == {"0.1": 1.0, "0.25": 1.0, "0.5": 1.0}
    assert (figures["untrimmed_events"], figures["untrimmed_events_noticed"]) == (2, 2)
    assert figures["untrimmed_delay_median"] == 4.0
    assert "drinks_by_gap" not in figures


def test_where_several_are_true_any_of_them_is_right():
    """Talking while walking: the one named is not wrong because the other began later; all that are sure have been noticed."""
    video = untrimmed([Span(0, 8, "Walk"), Span(4, 8, "Drink.Fromcup")])
    said = np.array([[0.0, 0.1, 0, 0.9], [0.0, 0.1, 0, 0.9], [0.0, 0.6, 0, 0.9], [0.0, 0.3, 0, 0.9]])
    one = watched(video, said, 2.0)
    figures = {
        several: evaluate.Measured(tuple(LABELS), 2.0, [one], several=several).figures() for several in (False, True)
    }
    assert figures[False]["untrimmed_frame_accuracy"] == figures[True]["untrimmed_frame_accuracy"] == 1.0
    assert [figures[several]["untrimmed_events_noticed"] for several in (False, True)] == [1, 2]
    true, predicted = evaluate.Measured(tuple(LABELS), 2.0, [one]).moments()
    assert set(zip(true, predicted, strict=True)) == {("Walk", "Walk")}


def test_overlapping_spans_lie_side_by_side_in_a_timeline():
    runs = [(0.0, 4.0, "Walk"), (2.0, 6.0, "Drink.Fromcup"), (4.0, 8.0, "Walk"), (5.0, 7.0, "Sit")]
    assert report.side_by_side(runs) == [[runs[0], runs[2]], [runs[1]], [runs[3]]]
    one = watched(untrimmed([Span(start, end, label) for start, end, label in runs]), one_hot(*["Walk"] * 4), 2.0)
    assert report.true(one, 7.5) == [*runs[:2], (4.0, 7.5, "Walk"), runs[3]]


def test_the_confusion_of_moments_counts_what_was_said_when():
    """Two seconds of Walk taken for a drink and two seconds of nothing taken for Walk, in the picture as in the lists."""
    video = untrimmed([Span(0, 4, "Walk")])
    one = watched(video, one_hot("Walk", "Drink.Fromcup", "Walk"), 2.0)
    true, predicted = evaluate.Measured(tuple(LABELS), 2.0, [one]).moments()
    pairs = Counter(zip(true, predicted, strict=True))
    assert pairs == {("Walk", "Walk"): 50, ("Walk", "Drink.Fromcup"): 50, ("Background", "Walk"): 50}
    axes = report.confusion(true, predicted).axes[0]
    rows, columns = (
        [label.get_text() for label in ticks] for ticks in (axes.get_yticklabels(), axes.get_xticklabels())
    )
    assert rows == ["Background (50)", "Drink.Fromcup (0)", "Walk (100)"]
    assert columns == ["Background", "Drink.Fromcup", "Walk"]
    assert {(round(t.get_position()[1]), round(t.get_position()[0]), t.get_text()) for t in axes.texts} == {
        (2, 2, "50"), (2, 1, "50"), (0, 2, "50"),
    }  # fmt: skip


# The whole way


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    torch.manual_seed(3)
    crt = CrtConfig(width=16, memory=24, layers=1, heads=2, hidden=32)
    classifier = VideoClassifier(ClassifierConfig(feature_width=SPEC.feature_width, classes=3, crt=crt))
    torch.nn.init.normal_(classifier.classify.weight, std=2.0)
    folder = tmp_path_factory.mktemp("model")
    checkpoint.save(
        folder, SmallBackbone(), classifier, name="m", labels=["Background", "sit", "walk"], background="Background"
    )
    return folder


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """A square that moves, for 6 s, in two classes."""
    folder = tmp_path_factory.mktemp("films")
    for number in range(4):
        label = ("walk", "sit")[number % 2]
        (folder / label).mkdir(exist_ok=True)

        def frames(speed=1 + number):
            for n in range(150):
                picture = np.full((96, 128, 3), 40, np.uint8)
                picture[30:60, (speed * n) % 90 : (speed * n) % 90 + 30] = 200
                yield picture

        write_video(folder / label / f"v{number}.mp4", frames(), 25)
    return folder


def test_a_video_is_watched_as_the_service_labels_it(model, films):
    """The same segments, scores and events as a POST of the file has; and a part of it is what a film of that part would be."""
    recognizer = Recognizer(checkpoint.read(model), threads=1)
    path = films / "walk" / "v0.mp4"
    with Labelling(path, recognizer) as labelling:
        segments = list(labelling)
    one = evaluate.watch(recognizer, LabelledVideo(path, "v0", "test", "walk", (), ()))
    np.testing.assert_array_equal(one.scores_SC, np.stack([segment.scores_C for segment in segments]))
    assert one.lengths_S.tolist() == [segment.clips for segment in segments]
    assert one.events == labelling.result.events
    part = evaluate.watch(recognizer, LabelledVideo(path, "v0", "test", "walk", (), (), start=2.0, end=5.0))
    assert one.times_N2.shape == (12, 2)
    np.testing.assert_allclose(part.times_N2, [[0.5 * n, 0.5 * n + 0.5] for n in range(6)])


def test_a_video_that_cannot_be_watched_is_named_and_counts_in_no_figure(model, films, tmp_path):
    """The others are measured as without it; where nothing can be watched, that is told."""
    recognizer = Recognizer(checkpoint.load(model), threads=1)
    good = LabelledVideo(next(films.rglob("*.mp4")), "good", "test", "a", (Span(0.0, 99.0, "a"),), ())
    (tmp_path / "bad.mp4").write_text("no video")
    bad = LabelledVideo(tmp_path / "bad.mp4", "bad", "test", "a", (Span(0.0, 99.0, "a"),), ())
    alone, both = evaluate.measure(recognizer, [good]), evaluate.measure(recognizer, [bad, good])
    assert [(one.code, one.what) for one in both.problems] == [("unreadable", "bad")]
    assert both.figures() == alone.figures() | {"left_out": 1}
    with pytest.raises(BadDataset, match=r"none of 1 videos can be watched \(unreadable: bad: "):
        evaluate.measure(recognizer, [bad])


def test_the_reports_table_has_f1_at_each_overlap():
    """One row a number; tables of tables are left to the list of all figures."""
    rows = report.single(
        {"untrimmed_event_f1": {"0.1": 0.5, "0.5": 0.25}, "calibration_error": 0.1, "drinks_by_gap": []}
    )
    assert rows == {
        "untrimmed event F1 at IoU 0.1": 0.5,
        "untrimmed event F1 at IoU 0.5": 0.25,
        "calibration error": 0.1,
    }


def test_the_command_measures_and_reports(model, films, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.evaluate", str(model), "folders", str(films), "--folds", "2", "--report", str(tmp_path / "r.html")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    figures = json.loads(done.stdout)
    assert figures["trimmed_clips"] == 2
    assert figures["trimmed_top_5"] == 1.0
    page = (tmp_path / "r.html").read_text()
    assert page.count("<img") >= 3
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    missing = subprocess.run(
        [sys.executable, "-m", "pipelines.evaluate", str(model), "folders", str(films), "--folds", "2", "--validation", "0", "--split", "validation"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (missing.returncode, missing.stderr.split(":")[0]) == (1, "dataset_bad")
