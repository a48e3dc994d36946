"""Floating-point operations of a token, counted twice: by formula, and by torch as it runs. A multiplication and an addition are two.

Both count matrix products only, of one stream in evaluation, at a full segment (and a full cache), the softmax over all words included;
attention counts as the full square of a segment, though half of it is masked.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from experiments.language.networks import full_state, make_network
from experiments.language.options import Options


class Cost(NamedTuple):
    """Of a token."""

    layers: float
    """Attention and feed-forward networks."""
    memory: float
    """Reading and writing it."""
    softmax: float
    """Over all words."""

    @property
    def total(self) -> float:
        """Of them all."""
        return sum(self)


def by_hand(o: Options, words: int) -> Cost:
    """2 m n k for a product of m x k and k x n."""
    D, L, M = o.d_model, o.segment, o.memory
    forward = 4 * D * o.inner
    softmax = softmax_by_hand(o, words)
    if o.variant == "xl":
        K = L + o.remembered
        project = 2 * (2 * D * D) + (K / L) * (2 * D * 2 * D + 2 * D * D)  # queries, output; keys, values, distances
        return Cost(o.layers * (project + 3 * 2 * K * D + forward), 0.0, softmax)
    keys = L + (o.variant == "crt" and o.read == "prepend")
    layers = o.layers * (2 * D * 4 * D + 2 * 2 * keys * D + forward)
    if o.variant == "transformer":
        return Cost(layers, 0.0, softmax)
    write = 2 * 3 * M * (D + M)
    match o.read:
        case "prepend":
            read = (2 * M * D + o.layers * 2 * D * 3 * D) / L  # projected as a token is, query and all
        case "add":
            read = 2 * M * D / L
        case "cross_attention":
            read = o.layers * (2 * 2 * D * D + 2 * 2 * 2 * D + 2 * M * 2 * D / L)
    return Cost(layers, write + read, softmax)


def softmax_by_hand(o: Options, words: int) -> float:
    """Of the adaptive one all classes, as for the probabilities of all words; a loss visits the rare ones rarely."""
    if not o.cutoffs:
        return 2 * o.d_model * words
    edges = [*o.cutoffs, words]
    total = 2 * o.d_model * (edges[0] + len(o.cutoffs))
    for kind, (first, end) in enumerate(pairwise(edges), 1):
        inner = int(o.d_model // 4.0**kind)
        total += 2 * inner * (o.d_model + end - first)
    return total


def by_counter(o: Options, words: int) -> float:
    """What torch.utils.flop_counter sees when a segment is read."""
    network = make_network(o, words).eval().requires_grad_(False)
    segment = torch.zeros(1, o.segment, dtype=torch.int64)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the fused attention of a CPU is not in the counter's table
        state = full_state(o, network, 1)
        network(segment, state)  # folds what evaluation folds once
        with FlopCounterMode(display=False) as counter:
            outputs_BLD, _ = network(segment, state)
            network.vocabulary.log_probabilities(outputs_BLD[0])
    return counter.get_total_flops() / o.segment
