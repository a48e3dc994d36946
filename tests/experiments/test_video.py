"""The networks that the CRT is compared with: what they may see, and that a stream cut into segments is seen as the whole is.

Truth: numbers drawn at random; the networks are fresh.
"""

import numpy as np
import pytest
import torch

from experiments.video import data, show, trials
from experiments.video.pasts import Attending, Network, Tokens
from experiments.video.train import loss_of, whole_videos
from pipelines.train_crt import IGNORE, Chunk, Example, Unrolled, class_weights, totals

S, B, L, F, C = 6, 3, 4, 10, 5
SHAPE = {"width": 16, "layers": 2, "heads": 2, "hidden": 24, "dropout": 0.0}


def network(past: str) -> Network:
    torch.manual_seed(0)
    if past == "tokens":
        return Tokens(F, C, segment=L, tokens=2, **SHAPE).eval()
    return Attending(F, C, window=8 if past == "cache" else None, longest=S * L, **SHAPE).eval()


def chunk(first: int = 0, last: int = S, *, fresh: tuple[tuple[int, int], ...] = ()) -> Chunk:
    """Segments first..last-1; of lane 1 the last segment has a single clip. `fresh`: (segment, lane) where another video begins."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(S, B, L, F, generator=generator)
    mask, begins = torch.ones(S, B, L, dtype=torch.bool), torch.zeros(S, B, dtype=torch.bool)
    mask[-1, 1, 1:] = False
    for segment, lane in ((0, 0), (0, 1), (0, 2), *fresh):
        begins[segment, lane] = True
    targets = torch.randint(C, (S, B, L), generator=generator).masked_fill(~mask, IGNORE)
    parts = (features, mask, targets, begins, targets, torch.ones(S, B))
    return Chunk(*(part[first:last] for part in parts))


@pytest.mark.parametrize("past", ["whole", "cache", "tokens"])
@torch.inference_mode()
def test_a_stream_in_pieces_is_seen_as_the_whole(past: str) -> None:
    """Segment by segment with the state carried, and in pieces of two, with another video on one lane."""
    net = network(past)
    whole = net.unroll(chunk(fresh=((3, 2),)), net.initial_state(B)).logits_SBLC
    for step in (1, 2):
        state, parts = net.initial_state(B), []
        for at in range(0, S, step):
            out = net.unroll(chunk(at, at + step, fresh=((3, 2),)), state)
            state = out.state
            parts.append(out.logits_SBLC)
        there = chunk().mask_SBL
        torch.testing.assert_close(torch.cat(parts)[there], whole[there], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("past", "reaches"), [("whole", True), ("cache", False), ("tokens", True)])
@torch.inference_mode()
def test_what_came_before_is_known_as_far_as_it_may_be(past: str, reaches: bool) -> None:
    """The first segment changes the last one's answer, but not beyond a window of 8 clips in each of two layers; no later
    segment changes an earlier one, and no other video anything."""
    net = network(past)
    before = net.unroll(chunk(), net.initial_state(B)).logits_SBC
    changed = chunk()
    changed.features_SBLF[0] *= -1
    after = net.unroll(changed, net.initial_state(B)).logits_SBC
    assert (not torch.equal(before[-1, 0], after[-1, 0])) == reaches
    assert not torch.allclose(before[2], after[2])
    changed = chunk()
    changed.features_SBLF[-1] *= -1
    later = net.unroll(changed, net.initial_state(B)).logits_SBC
    torch.testing.assert_close(later[:-1], before[:-1])
    other = chunk(fresh=((3, 0),))
    cut = net.unroll(other, net.initial_state(B)).logits_SBC
    other.features_SBLF[:3, 0] *= -1
    torch.testing.assert_close(net.unroll(other, net.initial_state(B)).logits_SBC[3:], cut[3:])


@pytest.mark.parametrize("task", list(trials.SIZES))
def test_peers_have_as_many_parameters_as_the_crt(task: str) -> None:
    """Within one in a hundred."""
    sizes = {v.name: trials.count(trials.build(task, v, 256, 18)) for v in trials.VARIANTS}
    for past in ("whole", "cache", "tokens"):
        assert sizes[past] == pytest.approx(sizes["gru"], rel=0.01)


def test_the_loss_is_that_of_the_training_command() -> None:
    """The CRT's, on the same chunk."""
    variant = trials.DEFAULT
    net = trials.build("kard", variant, F, C).eval()
    weights = torch.rand(C) + 0.5
    one = chunk()
    out = net.unroll(one, net.initial_state(B))
    ours = loss_of(out.logits_SBC, out.logits_SBLC, one, weights, 0.05)
    theirs, _ = Unrolled(net.classifier, weights, 0.05)(one, net.initial_state(B), totals(one, weights))
    torch.testing.assert_close(ours, theirs)


def test_videos_are_measured_whole() -> None:
    """Each clip once, from the first on."""
    videos = [
        Example(str(n), torch.full((n, F), float(n)).numpy(), torch.zeros(n, dtype=torch.long).numpy(), True)
        for n in (3, 9, 5)
    ]
    for some, one in whole_videos(videos, L):
        assert [len(video.targets) for video in some] == [3, 5, 9]
        assert one.mask_SBL.sum((0, 2)).tolist() == [3, 5, 9]
        assert one.features_SBLF.sum((0, 2))[:, 0].tolist() == [9, 25, 81]
    assert class_weights(videos, 1, 1.0).tolist() == [1.0]


def test_the_table_names_every_network_once_a_question(tmp_path) -> None:
    """The default is one of each question's, and a value comes with its spread and number of seeds."""
    lines = [
        {"task": "kard", "variant": v.name, "sequences": 0.5 + 0.1 * seed, "seed": seed}
        for v in trials.VARIANTS
        for seed in (0, 1)
    ]
    page = show.table(show.by_variant(lines), [])
    assert page.count("55.0 ± 7.1 (2)") == len(trials.VARIANTS) + len(show.QUESTIONS) - 1
    names = [line.split("|")[1].strip() for line in page.splitlines()]
    assert [n for n in names if n.isdigit()] == ["32", "64", "128", "256", "512", "1024", "1", "2", "4", "8", "16"]


def test_where_somebody_stands_and_which_way_they_face_does_not_matter() -> None:
    """Joints turned about the vertical, moved and measured in millimetres are the same clips."""
    rng = np.random.default_rng(0)
    joints = rng.normal(size=(13, 17, 3))
    given = {"hips": (12, 16), "sides": ((8, 4), (12, 16))}
    plain = data.facing(joints, **given)
    moved = data.facing(1000 * data.turned(joints, 1.1) + np.array([3000.0, 20.0, -500.0]), **given)
    np.testing.assert_allclose(moved, plain, atol=1e-9)
    across = np.mean([plain[:5].mean(0)[left] - plain[:5].mean(0)[right] for right, left in given["sides"]], axis=0)
    assert across[0] > 0
    assert across[2] == pytest.approx(0, abs=1e-9)


def test_a_clip_of_joints_is_some_frames_and_the_last_is_filled_up() -> None:
    """Thirteen frames in fours: four clips, each with joints about the hips, where the hips are, and how all moved."""
    joints = np.arange(13.0)[:, None, None] * np.array([1.0, 0.0, 0.0]) + np.random.default_rng(0).normal(size=(17, 3))
    clips = data.clips_of(joints, (12, 16), 4)
    assert clips.shape == (4, 4 * (17 * 3 + 3 + 17 * 3))
    frames = clips.reshape(16, -1)
    np.testing.assert_allclose(np.diff(frames[:13, 51]), 1.0, atol=1e-5)  # the hips walk along x
    np.testing.assert_allclose(frames[1:13, 54::3], 10.0, atol=1e-4)
    assert (frames[13:, 54:] == 0).all()
    np.testing.assert_allclose(frames[:, :51], np.tile(frames[0, :51], (16, 1)), atol=1e-5)


@pytest.mark.skipif(not data.SKELETONS.is_dir(), reason="the skeletons are not at ../shared/skeletons")
@pytest.mark.parametrize(("task", "classes", "train", "test"), [("kard", 18, 324, 216), ("nw_ucla", 10, 1020, 464)])
def test_skeletons_are_split_by_subject_and_by_view(task: str, classes: int, train: int, test: int) -> None:
    """By name, nobody and no view is on both sides; only training sequences are seen further times."""
    made = data.TASKS[task]()
    assert (len(made.labels), len(made.train), len(made.test)) == (classes, train, test)
    stored = np.load(data.SKELETONS / f"{task}.npz")
    key = "subject" if task == "kard" else "view"
    of = dict(zip(map(str, stored["name"]), stored[key], strict=True))
    assert {of[one.name] for one in made.train}.isdisjoint({of[one.name] for one in made.test})
    assert {len(one.looks) for one in made.train} == {data.LOOKS}
    assert {len(one.looks) for one in made.test} == {0}
