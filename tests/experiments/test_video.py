"""The networks that the CRT is compared with: what they may see, and that a stream cut into segments is seen as the whole is.

Truth: numbers drawn at random; the networks are fresh.
"""

import pytest
import torch

from experiments.video import show, trials
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
    data = [
        Example(str(n), torch.full((n, F), float(n)).numpy(), torch.zeros(n, dtype=torch.long).numpy(), True)
        for n in (3, 9, 5)
    ]
    for some, one in whole_videos(data, L):
        assert [len(video.targets) for video in some] == [3, 5, 9]
        assert one.mask_SBL.sum((0, 2)).tolist() == [3, 5, 9]
        assert one.features_SBLF.sum((0, 2))[:, 0].tolist() == [9, 25, 81]
    assert class_weights(data, 1, 1.0).tolist() == [1.0]


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
