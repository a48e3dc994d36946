"""The video classifier: shapes, pooling, and what its normalisation forgives."""

import pytest
import torch

from models.config import ClassifierConfig, CrtConfig
from models.heads import VideoClassifier

CRT = CrtConfig(width=16, memory=12, heads=2, hidden=24, segment=5, dropout=0.1)


@pytest.fixture
def classifier() -> VideoClassifier:
    return VideoClassifier(ClassifierConfig(feature_width=20, classes=3, crt=CRT)).eval()


@torch.no_grad()
def test_logits_are_the_mean_over_the_clips_present(classifier: VideoClassifier) -> None:
    """Of the position logits; those of absent clips, not-a-number included, take no part."""
    features = torch.randn(3, 5, 20)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 0, 0, 1]], dtype=torch.bool)
    features[1, 2:] = torch.nan
    out = classifier(features, classifier.initial_memory(3), mask)

    assert (out.logits_BC.shape, out.position_logits_BLC.shape, out.memory_BM.shape) == ((3, 3), (3, 5, 3), (3, 12))
    for row in range(3):
        mean = out.position_logits_BLC[row][mask[row]].mean(dim=0)
        torch.testing.assert_close(out.logits_BC[row], mean, atol=1e-6, rtol=0)


@torch.no_grad()
def test_no_mask_means_all_present(classifier: VideoClassifier) -> None:
    """And a row without any clip has finite logits."""
    features, memory = torch.randn(2, 5, 20), classifier.initial_memory(2)
    whole = classifier(features, memory, torch.ones(2, 5, dtype=torch.bool))
    torch.testing.assert_close(classifier(features, memory), whole, atol=1e-6, rtol=0)
    assert classifier(features, memory, torch.zeros(2, 5, dtype=torch.bool)).logits_BC.isfinite().all()


@torch.no_grad()
def test_a_features_scale_does_not_matter(classifier: VideoClassifier) -> None:
    """Backbones differ in scale by orders of magnitude; the LayerNorm takes it out."""
    features, memory = torch.randn(2, 5, 20), classifier.initial_memory(2)
    out, louder = classifier(features, memory), classifier(features * 50 + 7, memory)
    torch.testing.assert_close(louder.logits_BC, out.logits_BC, atol=1e-4, rtol=0)


@pytest.mark.parametrize("reader", ["prepend", "cross_attention", "add"])
@pytest.mark.parametrize("writer", ["gru", "ncgru", "none"])
def test_a_loss_reaches_every_parameter(reader: str, writer: str) -> None:
    """Over two segments; with the writer none all but the initial memory, which is then no parameter to train."""
    config = ClassifierConfig(
        feature_width=20, classes=3, crt=CRT.model_copy(update={"reader": reader, "writer": writer})
    )
    classifier = VideoClassifier(config)
    memory = classifier.initial_memory(2)
    for _ in range(2):
        out = classifier(torch.randn(2, 5, 20), memory)
        memory = out.memory_BM
    out.logits_BC.square().sum().backward()
    trained = {name for name, p in classifier.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in classifier.named_parameters() if p.grad is not None}
    assert ("crt.first_memory_M" in trained) == (writer != "none")


def test_a_wrong_feature_width_is_named(classifier: VideoClassifier) -> None:
    """What was wanted and what came."""
    with pytest.raises(ValueError, match=r"float\[B, L, 20\], got \[2, 5, 21\]"):
        classifier(torch.zeros(2, 5, 21), torch.zeros(2, 12))
