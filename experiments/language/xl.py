"""Transformer-XL (arXiv 1901.02860): attention by relative position over this segment and the cached states of those before.

Its blocks are the CRT's, pre-norm with the same feed-forward network, but for the attention: what differs from the CRT is cache against
memory, and relative against learned absolute positions. Where the CRT hands on M numbers, this hands on the last S tokens' states of every layer.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import Block, split_heads
from models.vocabulary import make_vocabulary

# Shapes: B streams, L words in a segment, S cached ones, K = S + L keys, D width, N heads, E width of a head.


class RelativeAttention(nn.Module):
    """Multi-head attention in which a score depends on content and distance (the paper's four terms)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.distance = nn.Linear(width, width, bias=False)
        self.content_bias_NE = nn.Parameter(torch.zeros(heads, width // heads))
        self.distance_bias_NE = nn.Parameter(torch.zeros(heads, width // heads))
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens_BLD: Tensor, all_BKD: Tensor, distances_KD: Tensor) -> Tensor:
        """all_BKD: the cached tokens, then these. distances_KD: encoding of the distances K - 1 to 0."""
        B, L, D = tokens_BLD.shape
        K = all_BKD.shape[1]
        query_BNLE = split_heads(self.query(tokens_BLD), self.heads)
        key_BKD, value_BKD = self.key_value(all_BKD).chunk(2, dim=-1)
        key_BNKE, value_BNKE = split_heads(key_BKD, self.heads), split_heads(value_BKD, self.heads)
        distance_1NKE = split_heads(self.distance(distances_KD)[None], self.heads)
        content_BNLK = (query_BNLE + self.content_bias_NE[:, None]) @ key_BNKE.transpose(-1, -2)
        by_distance_BNLK = (query_BNLE + self.distance_bias_NE[:, None]) @ distance_1NKE.transpose(-1, -2)
        scores_BNLK = (content_BNLK + shift(by_distance_BNLK)).float() / math.sqrt(D // self.heads)
        later_LK = torch.ones(L, K, dtype=torch.bool, device=scores_BNLK.device).triu(K - L + 1)
        shares_BNLK = self.dropout(scores_BNLK.masked_fill(later_LK, -torch.inf).softmax(-1))
        mixed_BNLE = shares_BNLK.to(value_BNKE.dtype) @ value_BNKE
        return self.out(mixed_BNLE.transpose(1, 2).reshape(B, L, D))


class RelativeBlock(Block):
    """The CRT's block with the other attention."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__(width, heads, hidden, dropout)
        del self.attention
        self.relative = RelativeAttention(width, heads, dropout)

    def look_back(self, tokens_BLD: Tensor, cached_BSD: Tensor, distances_KD: Tensor) -> Tensor:
        """Both halves."""
        all_BKD = self.attention_norm(torch.cat([cached_BSD, tokens_BLD], dim=1))
        mixed_BLD = self.relative(all_BKD[:, -tokens_BLD.shape[1] :], all_BKD, distances_KD)
        return self.think(tokens_BLD + self.dropout(mixed_BLD))


class TransformerXL(nn.Module):
    """The same interface as models.language.LanguageModel; its state is the cache, float[layers, B, S, D].

    cache: the most tokens kept, S. A stream begins with an empty cache; gradients do not run into it.
    """

    def __init__(
        self, words: int, *, width: int, layers: int, heads: int, hidden: int, cache: int, dropout: float,
        cutoffs: tuple[int, ...] = (), tied: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.vocabulary = make_vocabulary(words, width, cutoffs, tied=tied)
        self.cache = cache
        self.blocks = nn.ModuleList(RelativeBlock(width, heads, hidden, dropout) for _ in range(layers))
        self.out_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def initial_state(self, batch: int) -> Tensor:
        """An empty cache."""
        width = self.out_norm.weight.shape[0]
        return self.out_norm.weight.new_zeros(len(self.blocks), batch, 0, width)

    def forward(self, words_BL: Tensor, state_XBSD: Tensor) -> tuple[Tensor, Tensor]:
        """int64[B, L] -> outputs float[B, L, D], for vocabulary.loss, and the next segment's cache."""
        tokens_BLD = self.dropout(self.vocabulary.embed(words_BL))
        K = state_XBSD.shape[2] + words_BL.shape[1]
        distances_KD = self.dropout(encode_distances(K, tokens_BLD.shape[2]).to(tokens_BLD))
        seen = []
        for block, cached_BSD in zip(cast(list[RelativeBlock], self.blocks), state_XBSD, strict=True):
            kept_BSD = torch.cat([cached_BSD, tokens_BLD.detach()], dim=1)
            seen.append(kept_BSD[:, max(0, K - self.cache) :])
            tokens_BLD = block.look_back(tokens_BLD, cached_BSD, distances_KD)
        return self.dropout(self.out_norm(tokens_BLD)), torch.stack(seen)


def shift(scores_BNLK: Tensor) -> Tensor:
    """Row i, which asks from place S + i, has its scores for the distances K - 1 to 0 moved under the keys that lie so far back.

    What comes after a key that is not allowed anyway is of no meaning (appendix B of the paper).
    """
    B, N, L, K = scores_BNLK.shape
    return F.pad(scores_BNLK, (1, 0)).view(B, N, K + 1, L)[:, :, 1:].reshape(B, N, L, K)


def encode_distances(keys: int, width: int) -> Tensor:
    """Sines and cosines of the distances K - 1 to 0, float[K, D]."""
    rates = 10000 ** -(torch.arange(0, width, 2) / width)
    angles = torch.arange(keys - 1, -1, -1)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, :width]
