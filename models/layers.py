"""The pre-norm Transformer block that the CRT stacks: attention within one segment, then a feed-forward network."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Shapes: B streams, L clips in a segment, S keys, D width, N heads, E width of a head (N * E = D).


def allowed_keys(mask_BL: Tensor, *, causal: bool, extra: int = 0) -> Tensor:
    """Which keys each query may see: bool[B, 1, L, extra + L], True where allowed.

    The first `extra` keys are open to all. An absent clip is seen by none but itself: so a row without any clip
    still has a key, and its softmax stays finite.
    """
    B, L = mask_BL.shape
    place_L = torch.arange(L, device=mask_BL.device)
    allowed_BLL = mask_BL[:, None, :].expand(B, L, L)
    if causal:
        allowed_BLL = allowed_BLL & (place_L <= place_L[:, None])
    allowed_BLL = allowed_BLL | (place_L == place_L[:, None])
    open_BLX = torch.ones(B, L, extra, dtype=torch.bool, device=mask_BL.device)
    return torch.cat([open_BLX, allowed_BLL], dim=2)[:, None]


class SelfAttention(nn.Module):
    """Multi-head attention of tokens to each other and, if given, to further keys."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens_BLD: Tensor, allowed_B1LS: Tensor, extra_BXD: Tensor | None = None) -> Tensor:
        """Keys and values are extra_BXD's, then the tokens' own: S = X + L."""
        B, L, D = tokens_BLD.shape
        query_BLD, key_BSD, value_BSD = self.qkv(tokens_BLD).split(self.width, dim=-1)
        if extra_BXD is not None:
            # The whole projection, though nobody asks on behalf of the further keys: cutting weights out of it costs a graph more.
            _, extra_key_BXD, extra_value_BXD = self.qkv(extra_BXD).split(self.width, dim=-1)
            key_BSD = torch.cat([extra_key_BXD, key_BSD], dim=1)
            value_BSD = torch.cat([extra_value_BXD, value_BSD], dim=1)
        mixed_BNLE = F.scaled_dot_product_attention(
            split_heads(query_BLD, self.heads),
            split_heads(key_BSD, self.heads),
            split_heads(value_BSD, self.heads),
            attn_mask=allowed_B1LS,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(mixed_BNLE.transpose(1, 2).reshape(B, L, D))


class Block(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + feed_forward(norm(x)); the reader may act between the two."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, dropout)
        self.forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )
        self.dropout = nn.Dropout(dropout)

    def attend(self, tokens_BLD: Tensor, allowed_B1LS: Tensor, extra_BXD: Tensor | None = None) -> Tensor:
        """The first half."""
        extra_BXD = None if extra_BXD is None else self.attention_norm(extra_BXD)
        mixed_BLD = self.attention(self.attention_norm(tokens_BLD), allowed_B1LS, extra_BXD)
        return tokens_BLD + self.dropout(mixed_BLD)

    def think(self, tokens_BLD: Tensor) -> Tensor:
        """The second half."""
        return tokens_BLD + self.dropout(self.feed_forward(self.forward_norm(tokens_BLD)))


def split_heads(tokens_BSD: Tensor, heads: int) -> Tensor:
    """[B, S, D] -> [B, N, S, E]."""
    return tokens_BSD.unflatten(-1, (heads, -1)).transpose(1, 2)
