"""Words in, words out: an embedding and the softmax that shares its weights, plain or adaptive.

Over 10,000 words the softmax costs more than a small Transformer. Under bfloat16 autocast the plain one therefore makes its
gradient in the forward pass, a few rows of scores at a time, so that the scores of a whole batch never exist in float32.
"""

from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Shapes: N tokens, B streams, L tokens in a segment, V words, D width.

IGNORE = -100
"""A target that is not scored."""
ROWS = 128
"""Tokens whose scores are in work at a time: 2.5 MB of 10,000 words."""
SCALE = 0.1
"""Of fresh embeddings: large enough that rare words, which the softmax pushes all the same way, stay apart; scores begin near 1."""


class Vocabulary(nn.Module):
    """What both kinds do. Words are numbered from 0, for the adaptive kind the most frequent first."""

    def embed(self, words_BL: Tensor) -> Tensor:
        """int64[B, L] -> float[B, L, D]."""
        raise NotImplementedError

    def loss(self, outputs_ND: Tensor, targets_N: Tensor) -> Tensor:
        """The sum of -ln p(target) over all targets but IGNORE, a float32 scalar."""
        raise NotImplementedError

    def log_probabilities(self, outputs_ND: Tensor) -> Tensor:
        """float32[N, V]."""
        raise NotImplementedError


class PlainVocabulary(Vocabulary):
    """One matrix for both ways (Press and Wolf, arXiv 1608.05859), and a bias a word.

    tied: False for an embedding of its own, where some words are read but never foretold. Their rows in a tied matrix would all be
    pushed the same way, by the softmax that has to make them unlikely, until one cannot be told from another.
    """

    def __init__(self, words: int, width: int, *, tied: bool = True) -> None:
        super().__init__()
        self.weight_VD = nn.Parameter(torch.randn(words, width) * SCALE)
        self.bias_V = nn.Parameter(torch.zeros(words))
        self.embedding_VD = None if tied else nn.Parameter(torch.randn(words, width) * SCALE)

    def embed(self, words_BL: Tensor) -> Tensor:
        return F.embedding(words_BL, self.weight_VD if self.embedding_VD is None else self.embedding_VD)

    def loss(self, outputs_ND: Tensor, targets_N: Tensor) -> Tensor:
        if torch.is_autocast_enabled(outputs_ND.device.type):
            return cast(Tensor, FusedLoss.apply(outputs_ND, self.weight_VD, self.bias_V, targets_N))
        scores_NV = F.linear(outputs_ND, self.weight_VD, self.bias_V)
        return F.cross_entropy(scores_NV, targets_N, ignore_index=IGNORE, reduction="sum")

    def log_probabilities(self, outputs_ND: Tensor) -> Tensor:
        return F.linear(outputs_ND, self.weight_VD, self.bias_V).float().log_softmax(-1)


class FusedLoss(torch.autograd.Function):
    """Cross-entropy of a linear layer: products in bfloat16, probabilities and loss in float32."""

    @staticmethod
    def forward(ctx: Any, outputs_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, targets_N: Tensor) -> Tensor:
        with torch.autocast(outputs_ND.device.type, enabled=False):
            low_ND, low_VD, low_V = outputs_ND.bfloat16(), weight_VD.bfloat16(), bias_V.bfloat16()
            counts_N, index_N1 = targets_N != IGNORE, targets_N.clamp(min=0)[:, None]
            slope_NV = torch.empty(len(low_ND), len(low_VD), dtype=torch.bfloat16, device=low_ND.device)
            likely_N1 = torch.empty(len(low_ND), 1, device=low_ND.device)
            for at in range(0, len(low_ND), ROWS):
                rows = slice(at, at + ROWS)
                scores_RV = torch.addmm(low_V, low_ND[rows], low_VD.T)
                found_RV = torch.softmax(scores_RV, -1, dtype=torch.float32)
                likely_N1[rows] = found_RV.gather(1, index_N1[rows])
                slope_NV[rows] = found_RV
            slope_NV[torch.arange(len(low_ND), device=low_ND.device), index_N1[:, 0]] = (likely_N1[:, 0] - 1).bfloat16()
            if not counts_N.all():
                slope_NV.masked_fill_(~counts_N[:, None], 0)
            ctx.save_for_backward(slope_NV, low_ND, low_VD)
            ctx.types = outputs_ND.dtype, weight_VD.dtype, bias_V.dtype
            tiny = torch.finfo(torch.float32).tiny
            return -(likely_N1[:, 0].clamp(min=tiny).log() * counts_N).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        slope_NV, low_ND, low_VD = ctx.saved_tensors
        of_outputs, of_weight, of_bias = ctx.types
        with torch.autocast(slope_NV.device.type, enabled=False):
            ones_1N = torch.ones(1, len(low_ND), dtype=torch.bfloat16, device=low_ND.device)
            return (
                (slope_NV @ low_VD).to(of_outputs) * grads[0],
                (slope_NV.T @ low_ND).to(of_weight) * grads[0],
                (ones_1N @ slope_NV)[0].to(of_bias) * grads[0],
                None,
            )


class AdaptiveVocabulary(Vocabulary):
    """For hundreds of thousands of words: torch's adaptive softmax (arXiv 1609.04309), whose weights embed, too.

    cutoffs: where the classes of ever rarer words begin, as in [20000, 60000] for the words 0 to 19,999, to 59,999, and the
    rest. The class k has vectors of D / 4^k numbers and a projection between them and D (adaptive inputs, arXiv
    1809.10853). Raises ValueError for cutoffs that do not rise between 1 and words - 1.
    """

    def __init__(self, words: int, width: int, cutoffs: tuple[int, ...]) -> None:
        super().__init__()
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(width, words, list(cutoffs), div_value=4.0, head_bias=True)
        for parameter in self.softmax.parameters():
            if parameter.ndim == 2 and parameter.shape[0] > parameter.shape[1]:  # not the projections
                nn.init.normal_(parameter, std=SCALE)
        self.edges = [0, *cutoffs, words]

    def embed(self, words_BL: Tensor) -> Tensor:
        words_N = words_BL.flatten()
        head_CD = self.softmax.head.weight
        embedded_ND = torch.zeros(len(words_N), head_CD.shape[1], dtype=head_CD.dtype, device=head_CD.device)
        for kind, (first, end) in enumerate(pairwise(self.edges)):
            (here_K,) = ((words_N >= first) & (words_N < end)).nonzero(as_tuple=True)
            own_K = words_N[here_K] - first
            if kind == 0:
                found_KD = F.embedding(own_K, head_CD)
            else:
                down, out = cast(list[nn.Linear], self.softmax.tail[kind - 1])
                found_KD = F.embedding(own_K, out.weight) @ down.weight
            embedded_ND = embedded_ND.index_put((here_K,), found_KD.to(embedded_ND.dtype))
        return embedded_ND.view(*words_BL.shape, -1)

    def loss(self, outputs_ND: Tensor, targets_N: Tensor) -> Tensor:
        scored_N = targets_N != IGNORE
        # Float32 throughout: the softmax within is torch's and does not look after itself under autocast.
        with torch.autocast(outputs_ND.device.type, enabled=False):
            return -self.softmax(outputs_ND[scored_N].float(), targets_N[scored_N]).output.sum()

    def log_probabilities(self, outputs_ND: Tensor) -> Tensor:
        return self.softmax.log_prob(outputs_ND.float())


def make_vocabulary(words: int, width: int, cutoffs: tuple[int, ...] = (), *, tied: bool = True) -> Vocabulary:
    """The adaptive kind, always tied, where there are cutoffs."""
    return AdaptiveVocabulary(words, width, cutoffs) if cutoffs else PlainVocabulary(words, width, tied=tied)
