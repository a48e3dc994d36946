"""What ONNX Runtime makes of the networks: torch's own numbers, whoever shares the batch."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models import checkpoint, small
from models.config import ClassifierConfig, CrtConfig
from models.heads import VideoClassifier
from models.small import SPEC
from pipelines import graphs, runtime
from pipelines.clips import clips_of
from pipelines.label import BUNDLED
from pipelines.onnx_weights import fill
from pipelines.recognizer import Recognizer
from pipelines.runtime import OnnxSmall

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "kitchen.mp4"


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    """Those of the example, and noise, which no camera gives."""
    noise = np.random.default_rng(0).integers(0, 256, (4, SPEC.frames, SPEC.height, SPEC.width, 3), dtype=np.uint8)
    return np.concatenate([clips_of(EXAMPLE, SPEC)[:20], noise])


def pictures(clips: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(clips).permute(0, 1, 4, 2, 3).flatten(1, 2).float()


@pytest.fixture(scope="module")
def bundled() -> tuple[small.SmallBackbone, OnnxSmall]:
    backbone = checkpoint.load(BUNDLED).backbone
    assert isinstance(backbone, small.SmallBackbone)
    return backbone, OnnxSmall(graphs.of_backbone(backbone), threads=1)


@torch.inference_mode()
def test_features_are_torchs(clips, bundled):
    backbone, fast = bundled
    wanted = backbone(torch.from_numpy(clips)).numpy()
    assert np.abs(wanted).max() > 1
    np.testing.assert_allclose(fast(clips), wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_clips_feature_is_the_same_to_the_bit_whatever_else_is_asked_for(clips, bundled):
    backbone, alone = bundled
    shared = OnnxSmall(graphs.of_backbone(backbone), threads=3)
    together = shared(clips)
    assert np.array_equal(together, alone(clips))
    for n in (0, 7, len(clips) - 1):
        assert np.array_equal(shared(clips[n : n + 1])[0], together[n])
    assert shared(clips[:0]).shape == (0, SPEC.feature_width)


def test_halves_are_the_same_to_the_bit(clips):
    found = [np.stack(level) for level in zip(*map(runtime.halves, clips), strict=True)]
    for wanted, got in zip(small.halves(pictures(clips)), found, strict=True):
        assert got.dtype == np.uint8
        assert torch.equal(wanted, pictures(got))


@pytest.mark.parametrize("side", [0.15, 0.2, 64 / 240, 0.4, 128 / 240, 0.8, 1.07, 1.4])
def test_a_closer_look_is_the_same_wherever_it_goes(side, clips):
    """In the middle, across each edge and in each corner, from the smallest square to the largest."""
    at = [(x, y) for x in (0.0, 0.03, 0.5, 0.617, 1.0) for y in (0.0, 0.41, 1.0)]
    squares = torch.tensor([(x, y, math.log(side)) for x, y in at])
    some = clips[np.arange(len(at)) + len(clips) - len(at)]
    wanted = small.look(small.halves(pictures(some)), squares)
    each = zip(some, squares.numpy(), strict=True)
    got = torch.from_numpy(np.stack([runtime.look(runtime.halves(clip), square) for clip, square in each]))
    assert wanted.std() > 0.3
    # A pixel may fall on either side of the picture's very edge.
    off = (got - wanted).abs() > 1e-3
    assert off.float().mean() < 1e-3
    assert not off[7].any()  # that in the middle


def test_clips_of_another_shape_are_named():
    recognizer = Recognizer(checkpoint.load(BUNDLED), threads=1)
    with pytest.raises(ValueError, match=r"uint8\[4, 240, 320, 3\], or as many frames; got uint8\[4, 120, 160, 3\]"):
        recognizer.features(np.zeros((1, 4, 120, 160, 3), np.uint8))
    with pytest.raises(ValueError, match="got float32"):
        recognizer.features(np.zeros((1, 4, 240, 320, 3), np.float32))
    with pytest.raises(ValueError, match=r"got uint8\[3, 240, 320, 3\]"):
        recognizer.features([tuple(np.zeros((3, 240, 320, 3), np.uint8))])
    assert recognizer.features([]).shape == (0, SPEC.feature_width)


def test_a_recognizer_serves_with_the_models_graphs(clips):
    model = checkpoint.load(BUNDLED)
    assert set(model.graphs) == {"look_over", "look_closer", "classify"}
    fast = OnnxSmall({name: fill(graph, model.weights) for name, graph in model.graphs.items()}, threads=1)
    recognizer = Recognizer(checkpoint.read(BUNDLED), threads=1)
    assert np.array_equal(recognizer.features(clips[:2]), fast(clips[:2]))


KINDS = [
    *({"writer": "gru", "reader": reader} for reader in ("prepend", "cross_attention", "add")),
    {"writer": "gru", "causal": False},
    {"writer": "ncgru", "segment": 3},
    {"writer": "none"},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
@torch.no_grad()
def test_a_crt_step_is_torchs(kind):
    """Of any number of streams, with any clips absent, over several segments."""
    torch.manual_seed(0)
    crt = CrtConfig(width=48, memory=64, hidden=96, **kind)
    classifier = VideoClassifier(ClassifierConfig(feature_width=40, classes=7, crt=crt)).eval()
    fast = runtime.OnnxClassifier(graphs.classify(classifier))
    rng = np.random.default_rng(1)
    for B in (1, 2, 5):
        memory = wanted_memory = classifier.initial_memory(B).numpy()
        for turn in range(4):
            segment = rng.standard_normal((B, crt.segment, 40)).astype(np.float32)
            mask = rng.random((B, crt.segment)) < (0.6, 1.0)[turn % 2]
            segment[~mask] = np.nan
            wanted = classifier(*map(torch.from_numpy, (segment, wanted_memory, mask)))
            scores, clip_scores, memory = fast.advance(segment, memory, mask)
            wanted_memory = wanted.memory_BM.numpy()
            there = mask.any(1)
            np.testing.assert_allclose(scores[there], wanted.logits_BC.softmax(-1).numpy()[there], atol=1e-5)
            np.testing.assert_allclose(
                clip_scores[mask], wanted.position_logits_BLC.softmax(-1).numpy()[mask], atol=1e-5
            )
            np.testing.assert_allclose(memory, wanted_memory, atol=1e-5)
            np.testing.assert_allclose(
                fast.scores(segment, memory * 0, mask)[0], fast.advance(segment, memory * 0, mask)[0], atol=1e-6
            )


@pytest.mark.parametrize(
    "kind", [*KINDS, {"writer": "gru", "segment": 16}], ids=lambda kind: "-".join(map(str, kind.values()))
)
def test_a_stream_is_told_the_same_to_the_bit_whoever_is_in_its_batch(kind):
    """Alone, in the middle of many, and as the last one; with clips absent."""
    torch.manual_seed(0)
    crt = CrtConfig(width=48, memory=64, hidden=96, **kind)
    network = VideoClassifier(ClassifierConfig(feature_width=40, classes=31, crt=crt)).eval()
    fast, rng = runtime.OnnxClassifier(graphs.classify(network)), np.random.default_rng(1)
    segment = rng.standard_normal((33, crt.segment, 40)).astype(np.float32)
    memory = rng.uniform(-1, 1, (33, crt.memory)).astype(np.float32)
    mask = rng.random((33, crt.segment)) < 0.8
    mask[:, 0] = True
    for n in (0, 1, 15, 32):
        alone = [one[n : n + 1] for one in (segment, memory, mask)]
        for first in (0, n // 2, n):
            many = [one[first:] for one in (segment, memory, mask)]
            for all_, own in zip(fast.advance(*many), fast.advance(*alone), strict=True):
                np.testing.assert_array_equal(all_[n - first], own[0])
            np.testing.assert_array_equal(fast.scores(*many)[0][n - first], fast.scores(*alone)[0][0])


def test_a_segment_that_is_not_full_is_the_same_with_its_absent_clips():
    recognizer = Recognizer(checkpoint.load(BUNDLED), threads=1)
    segment = np.random.default_rng(2).standard_normal((1, recognizer.segment, SPEC.feature_width)).astype(np.float32)
    memory, mask = recognizer.initial_memory()[None], np.arange(recognizer.segment)[None] < 2
    whole, short = recognizer.advance(segment, memory, mask), recognizer.advance(segment[:, :2], memory, mask[:, :2])
    assert np.array_equal(whole.scores_BC, short.scores_BC)
    assert np.array_equal(whole.memory_BM, short.memory_BM)
    assert short.scores_BLC.shape[1] == 2
    np.testing.assert_allclose(recognizer.provisional(segment, memory, mask), whole.scores_BC, atol=1e-6)


@pytest.mark.parametrize("module", ["pipelines.recognizer", "pipelines.clip_worker", "pipelines.quantize"])
def test_onnx_runtime_keeps_no_record_of_its_use_and_sends_none(module, tmp_path):
    """It gives each user a number, beside a queue of what is to be sent to its maker; where it makes neither, it sends nothing."""
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment = kept | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", f"import {module}"], cwd=ROOT, env=environment, check=True)
    assert not list(tmp_path.rglob("*onnxruntime*"))
