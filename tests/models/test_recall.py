"""The task that a memory is for: a symbol is shown in the first segment and asked for 20 segments later."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import ClassifierConfig, CrtConfig
from models.heads import VideoClassifier

SYMBOLS, CLIPS, GAP = 4, 2, 20


def stories(count: int, gap: int) -> tuple[Tensor, Tensor]:
    """Segments float[1 + gap, B, L, F] of noise, with a marked symbol in the first clip and a question in the last."""
    symbol = torch.randint(SYMBOLS, (count,))
    segments = torch.randn(1 + gap, count, CLIPS, SYMBOLS + 2) * 0.3
    segments[0, :, 0, :SYMBOLS] += 3 * F.one_hot(symbol, SYMBOLS)
    segments[0, :, 0, SYMBOLS] += 3
    segments[-1, :, -1, SYMBOLS + 1] += 3
    return segments, symbol


def answer(model: VideoClassifier, segments: Tensor) -> Tensor:
    """The scores at the last clip of the last segment, float[B, C]."""
    memory = model.initial_memory(segments.shape[1])
    for segment in segments:
        output = model(segment, memory)
        memory = output.memory_BM
    return output.position_logits_BLC[:, -1]


@torch.no_grad()
def accuracy(model: VideoClassifier, count: int) -> float:
    segments, symbol = stories(count, GAP)
    right = answer(model.eval(), segments).argmax(dim=-1) == symbol
    model.train()
    return right.float().mean().item()


def learn(writer: str, reader: str, steps: int) -> VideoClassifier:
    """Trained through all segments on gaps of 1 to 20; stops when it can do it."""
    crt = CrtConfig(
        width=16, memory=32, layers=1, heads=2, hidden=32, segment=CLIPS, dropout=0, reader=reader, writer=writer
    )
    model = VideoClassifier(ClassifierConfig(feature_width=SYMBOLS + 2, classes=SYMBOLS, crt=crt, dropout=0))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(1, steps + 1):
        segments, symbol = stories(64, int(torch.randint(1, GAP + 1, ())))
        optimizer.zero_grad()
        F.cross_entropy(answer(model, segments), symbol).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 25 == 0 and accuracy(model, 500) == 1.0:
            break
    return model


@pytest.mark.parametrize("writer", ["gru", "ncgru"])
@pytest.mark.parametrize("reader", ["prepend", "cross_attention", "add"])
def test_with_a_memory_it_is_recalled(reader: str, writer: str) -> None:
    """Above 99 % on 2,000 fresh stories, by every way of reading. Most learn it in 200 steps, some in 800: another processor, another way there."""
    assert accuracy(learn(writer, reader, steps=2000), 2000) > 0.99


def test_without_one_it_cannot_be() -> None:
    """The plain Transformer stays at the 25 % of chance: within four standard errors on 4,000 stories."""
    assert accuracy(learn("none", "prepend", steps=200), 4000) == pytest.approx(1 / SYMBOLS, abs=0.028)
