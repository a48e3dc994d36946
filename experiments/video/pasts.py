"""Other ways to know the past than one vector: for comparison with the CRT, behind the same front and head.

    whole    a Transformer whose clips see all clips of their own and of all earlier segments; what it keeps grows with the stream
    cache    the same, which sees only a window of earlier clips in each layer (Transformer-XL, arXiv 1901.02860); keeps their keys and values
    tokens   a Transformer within the segment with memory tokens, whose outputs are the next segment's (RMT, arXiv 2207.06881)

The first two know time by rotary embedding (arXiv 2104.09864), which tells how far apart two clips are.
Shapes: B streams, S segments, L clips in a segment, N = S * L, K earlier clips that are kept, D width, H heads, E width of a head.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.heads import VideoClassifier, VideoOutput, masked_mean
from models.layers import Block, split_heads
from pipelines.train_crt import Chunk


class Unrolled(NamedTuple):
    """A network's answers to a chunk, and what it keeps of the lanes."""

    logits_SBC: Tensor
    logits_SBLC: Tensor
    state: Tensor


class Front(nn.Module):
    """Normalises and projects features, as VideoClassifier does."""

    def __init__(self, feature_width: int, width: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(feature_width), nn.Dropout(dropout), nn.Linear(feature_width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        return cast(Tensor, self.project(features.masked_fill(~mask[..., None], 0)))


class Attending(nn.Module):
    """`whole` and `cache`. The state of a lane is a row of 2 * layers * K * D numbers, then K that are 1 where a clip is kept."""

    def __init__(
        self,
        feature_width: int,
        classes: int,
        *,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        dropout: float,
        window: int | None,
        longest: int,
    ) -> None:
        super().__init__()
        self.width, self.heads, self.window, self.longest = width, heads, window, longest
        self.front = Front(feature_width, width, dropout)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout) for _ in range(layers))
        self.out_norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, classes)
        half = width // heads // 2
        self.rates_E: Tensor
        self.register_buffer("rates_E", 1000.0 ** (-torch.arange(half) / half), persistent=False)

    @property
    def kept(self) -> int:
        """K in training."""
        return self.window or self.longest

    def initial_state(self, batch: int, kept: int | None = None) -> Tensor:
        K = self.kept if kept is None else kept
        return torch.zeros(batch, (2 * len(self.blocks) * self.width + 1) * K)

    def unroll(self, chunk: Chunk, state: Tensor, *, grow: bool = False) -> Unrolled:
        """All segments at once: who may see whom is a mask. With `grow`, nothing is dropped from the state."""
        S, B, L, _ = chunk.features_SBLF.shape
        N = S * L
        # By lane, in order of time.
        features_BNF = chunk.features_SBLF.transpose(0, 1).flatten(1, 2)
        present_BN = chunk.mask_SBL.transpose(0, 1).flatten(1)
        video_BS = chunk.fresh_SB.T.long().cumsum(1)
        layers, D = len(self.blocks), self.width
        K = state.shape[1] // (2 * layers * D + 1)
        kept_BK = state[:, state.shape[1] - K :] > 0
        past_B = state[:, : 2 * layers * K * D].view(B, layers, 2, K, D)
        visible_BNX = self._visible(video_BS.repeat_interleave(L, 1), present_BN, kept_BK, L)
        turn_XE = torch.arange(-K, N)[:, None] * self.rates_E
        tokens_BND = self.front.dropout(self.front(features_BNF, present_BN))
        seen = []
        for layer, block in enumerate(cast(list[Block], self.blocks)):
            attention = block.attention
            query_BND, key_BND, value_BND = attention.qkv(block.attention_norm(tokens_BND)).chunk(3, dim=-1)
            key_BXD = torch.cat([past_B[:, layer, 0], key_BND], 1)
            value_BXD = torch.cat([past_B[:, layer, 1], value_BND], 1)
            seen.append(torch.stack([key_BXD, value_BXD], 1))
            mixed_BHNE = F.scaled_dot_product_attention(
                rotated(split_heads(query_BND, self.heads), turn_XE[K:]),
                rotated(split_heads(key_BXD, self.heads), turn_XE),
                split_heads(value_BXD, self.heads),
                attn_mask=visible_BNX[:, None],
                dropout_p=attention.dropout if self.training else 0.0,
            )
            mixed_BND = attention.out(mixed_BHNE.transpose(1, 2).reshape(B, N, D))
            tokens_BND = block.think(tokens_BND + block.dropout(mixed_BND))
        logits_SBLC = self.classify(self.out_norm(tokens_BND)).view(B, S, L, -1).transpose(0, 1)
        mean_SBC = masked_mean(logits_SBLC.flatten(0, 1), chunk.mask_SBL.flatten(0, 1)).view(S, B, -1)
        # What the last video of each lane leaves behind, without gradients.
        last_BN = (video_BS[:, -1:] == video_BS).repeat_interleave(L, 1) & present_BN
        last_BX = torch.cat([kept_BK & (video_BS[:, -1:] == 0), last_BN], 1)
        keep = K + N if grow else K
        all_BLXD = torch.stack(seen, 1).detach()
        state = torch.cat([all_BLXD[..., -keep:, :].flatten(1), last_BX[:, -keep:].float()], 1)
        return Unrolled(mean_SBC, logits_SBLC, state)

    def _visible(self, video_BN: Tensor, present_BN: Tensor, kept_BK: Tensor, L: int) -> Tensor:
        """Which clips each one sees: those that are there, of its own video, of its own or an earlier segment, within the window."""
        N, K = video_BN.shape[1], kept_BK.shape[1]
        video_BX = torch.cat([torch.zeros_like(kept_BK, dtype=torch.long), video_BN], 1)
        there_BX = torch.cat([kept_BK, present_BN], 1)
        place_X, segment_N = torch.arange(-K, N), torch.arange(N) // L
        seen_NX = torch.div(place_X, L, rounding_mode="floor") <= segment_N[:, None]
        if self.window is not None:
            seen_NX &= place_X >= segment_N[:, None] * L - self.window
        itself_NX = place_X == torch.arange(N)[:, None]
        return (video_BN[:, :, None] == video_BX[:, None]) & there_BX[:, None] & seen_NX | itself_NX


def rotated(heads_BHXE: Tensor, turn_XE: Tensor) -> Tensor:
    """Rotary embedding: pairs of numbers turned by an angle that grows with the place."""
    first, second = heads_BHXE.chunk(2, dim=-1)
    cos, sin = turn_XE.cos(), turn_XE.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class Tokens(nn.Module):
    """`tokens`. The state of a lane is its memory tokens, a row of tokens * D numbers."""

    def __init__(
        self,
        feature_width: int,
        classes: int,
        *,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        dropout: float,
        segment: int,
        tokens: int,
    ) -> None:
        super().__init__()
        self.tokens, self.width = tokens, width
        self.front = Front(feature_width, width, dropout)
        self.position_LD = nn.Parameter(torch.randn(tokens + segment, width) * 0.02)
        self.first_state = nn.Parameter(torch.randn(tokens * width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout) for _ in range(layers))
        self.out_norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, classes)

    def initial_state(self, batch: int) -> Tensor:
        return self.first_state.expand(batch, -1)

    def unroll(self, chunk: Chunk, state: Tensor) -> Unrolled:
        """Segment by segment."""
        means, by_clip = [], []
        for features_BLF, mask_BL, fresh_B in zip(chunk.features_SBLF, chunk.mask_SBL, chunk.fresh_SB, strict=True):
            state = torch.where(fresh_B[:, None], self.initial_state(len(state)), state)
            B, T = len(state), self.tokens
            memory_BTD = state.view(B, T, self.width)
            x_BXD = torch.cat([memory_BTD, self.front(features_BLF, mask_BL)], 1) + self.position_LD
            x_BXD = self.front.dropout(x_BXD)
            there_BX = torch.cat([torch.ones(B, T, dtype=torch.bool), mask_BL], 1)
            allowed_B1XX = (there_BX[:, None] | torch.eye(there_BX.shape[1], dtype=torch.bool))[:, None]
            for block in cast(list[Block], self.blocks):
                x_BXD = block.think(block.attend(x_BXD, allowed_B1XX))
            x_BXD = self.out_norm(x_BXD)
            state = torch.where(mask_BL.any(1)[:, None], x_BXD[:, :T].flatten(1), state)
            by_clip.append(self.classify(x_BXD[:, T:]))
            means.append(masked_mean(by_clip[-1], mask_BL))
        return Unrolled(torch.stack(means), torch.stack(by_clip), state)


class Recurrent(nn.Module):
    """The CRT, by any writer and reader. The state of a lane is its memory."""

    def __init__(self, classifier: VideoClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def initial_state(self, batch: int) -> Tensor:
        return self.classifier.initial_memory(batch)

    def unroll(self, chunk: Chunk, state: Tensor) -> Unrolled:
        """Segment by segment."""
        means, by_clip = [], []
        for features_BLF, mask_BL, fresh_B in zip(chunk.features_SBLF, chunk.mask_SBL, chunk.fresh_SB, strict=True):
            state = torch.where(fresh_B[:, None], self.initial_state(len(state)), state)
            out: VideoOutput = self.classifier(features_BLF, state, mask_BL)
            state = out.memory_BM
            means.append(out.logits_BC)
            by_clip.append(out.position_logits_BLC)
        return Unrolled(torch.stack(means), torch.stack(by_clip), state)


Network = Attending | Tokens | Recurrent
