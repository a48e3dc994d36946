"""What ONNX Runtime makes of the small backbone: torch's own features, whoever shares the batch."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from models import checkpoint, small
from models.small import SPEC
from pipelines import runtime
from pipelines.features import clips_of
from pipelines.label import BUNDLED
from pipelines.recognizer import Recognizer
from pipelines.runtime import OnnxSmall

EXAMPLE = Path(__file__).parents[2] / "examples" / "kitchen.mp4"


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
    return backbone, OnnxSmall(backbone, threads=1)


@torch.inference_mode()
def test_features_are_torchs(clips, bundled):
    backbone, fast = bundled
    wanted = backbone(torch.from_numpy(clips)).numpy()
    assert np.abs(wanted).max() > 1
    np.testing.assert_allclose(fast(clips), wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_clips_feature_is_the_same_to_the_bit_whatever_else_is_asked_for(clips, bundled):
    backbone, alone = bundled
    shared = OnnxSmall(backbone, threads=3)
    together = shared(clips)
    assert np.array_equal(together, alone(clips))
    for n in (0, 7, len(clips) - 1):
        assert np.array_equal(shared(clips[n : n + 1])[0], together[n])
    assert shared(clips[:0]).shape == (0, SPEC.feature_width)


def test_halves_are_the_same_to_the_bit(clips):
    for wanted, got in zip(small.halves(pictures(clips)), runtime.halves(clips), strict=True):
        assert got.dtype == np.uint8
        assert torch.equal(wanted, pictures(got))


@pytest.mark.parametrize("side", [0.15, 0.2, 64 / 240, 0.4, 128 / 240, 0.8, 1.07, 1.4])
def test_a_closer_look_is_the_same_wherever_it_goes(side, clips):
    """In the middle, across each edge and in each corner, from the smallest square to the largest."""
    at = [(x, y) for x in (0.0, 0.03, 0.5, 0.617, 1.0) for y in (0.0, 0.41, 1.0)]
    squares = torch.tensor([(x, y, math.log(side)) for x, y in at])
    some = clips[np.arange(len(at)) + len(clips) - len(at)]
    wanted = small.look(small.halves(pictures(some)), squares)
    got = torch.from_numpy(runtime.look(runtime.halves(some), squares.numpy()))
    assert wanted.std() > 0.3
    # A pixel may fall on either side of the picture's very edge.
    off = (got - wanted).abs() > 1e-3
    assert off.float().mean() < 1e-3
    assert not off[7].any()  # that in the middle


def test_clips_of_another_shape_are_named(bundled):
    _, fast = bundled
    with pytest.raises(ValueError, match=r"uint8\[N, 4, 240, 320, 3\], got uint8\[1, 4, 120, 160, 3\]"):
        fast(np.zeros((1, 4, 120, 160, 3), np.uint8))
    with pytest.raises(ValueError, match="got float32"):
        fast(np.zeros((1, 4, 240, 320, 3), np.float32))


def test_a_recognizer_serves_with_it(clips, bundled):
    _, fast = bundled
    recognizer = Recognizer(checkpoint.load(BUNDLED), threads=1)
    np.testing.assert_allclose(recognizer.features(clips[:2]), fast(clips[:2]), atol=1e-4)
