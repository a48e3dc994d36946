"""A run's network and text, and its perplexity. All networks are called the same way: words and state in, outputs and state out."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.language import tasks
from experiments.language.options import Options
from experiments.language.text import Corpus, read_corpus
from experiments.language.xl import TransformerXL
from models.config import CrtConfig
from models.language import LanguageModel
from models.vocabulary import IGNORE

# Shapes: B streams, L words in a segment, N words of a text.

Network = LanguageModel | TransformerXL


def make_network(o: Options, words: int) -> Network:
    """Fresh, from torch's random state. Raises ValueError for cutoffs beyond the vocabulary."""
    tied = o.task != "sums"  # the digits given there are never foretold
    if o.variant == "xl":
        return TransformerXL(
            words, width=o.d_model, layers=o.layers, heads=o.heads, hidden=o.inner, cache=o.remembered, dropout=o.dropout,
            cutoffs=o.cutoffs, tied=tied,
        )  # fmt: skip
    crt = CrtConfig(
        width=o.d_model, memory=o.memory if o.variant == "crt" else 1, layers=o.layers, heads=o.heads, hidden=o.inner,
        segment=o.segment, causal=True, reader=o.read, writer=o.write if o.variant == "crt" else "none", dropout=o.dropout,
    )  # fmt: skip
    return LanguageModel(words, crt, o.cutoffs, tied=tied)


def full_state(o: Options, network: Network, streams: int) -> Tensor:
    """What is handed on in the midst of a text: of Transformer-XL a cache that has filled up, all zero."""
    state = network.initial_state(streams)
    return state.new_zeros(o.layers, streams, o.remembered, o.d_model) if o.variant == "xl" else state


def make_corpus(o: Options, cache: Path | None = None) -> Corpus:
    """The task's texts. Raises BadText."""
    match o.task:
        case "words":
            return read_corpus(o.data, cache)
        case "bytes":
            return tasks.python_sources()
        case "sums":
            return tasks.sums()


def lanes(text: np.ndarray, streams: int, scored: frozenset[int] | None) -> tuple[Tensor, Tensor]:
    """A text cut into streams, inputs and targets int64[B, N]: each target is the word after its input.

    What does not fill the last stream is not counted. Targets that are not scored are IGNORE.
    """
    length = (len(text) - 1) // streams
    inputs = torch.from_numpy(text[: streams * length].astype(np.int64)).view(streams, length)
    following = text[1 : streams * length + 1].astype(np.int64)
    if scored is not None:
        following[~np.isin(following, list(scored))] = IGNORE
    return inputs, torch.from_numpy(following).view(streams, length)


def segments(inputs_BN: Tensor, targets_BN: Tensor, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One after the other; the last may be shorter."""
    for at in range(0, inputs_BN.shape[1], length):
        yield inputs_BN[:, at : at + length], targets_BN[:, at : at + length]


@torch.inference_mode()
def perplexity(
    network: Network, text: np.ndarray, o: Options, scored: frozenset[int] | None = None, streams: int = 1
) -> float:
    """exp of the mean -ln p of the words after the first, in float32, segment by segment, the state carried along."""
    training = network.training
    network.eval()
    device = next(network.parameters()).device
    inputs_BN, targets_BN = lanes(text, streams, scored)
    state = network.initial_state(streams)
    total, count = 0.0, 0
    for words_BL, targets_BL in segments(inputs_BN, targets_BN, o.segment):
        outputs_BLD, state = network(words_BL.to(device), state)
        count += int((targets_BL != IGNORE).sum())
        total += network.vocabulary.loss(outputs_BLD.flatten(0, 1), targets_BL.flatten().to(device)).item()
    network.train(training)
    return math.exp(total / max(count, 1))
