"""How the tokens of a segment see the memory.

A reader has three places to act, and each kind uses one of them:

    prepend           keys      the memory is one more key and value in every layer's attention (it asks nothing itself)
    cross_attention   between   after each self-attention, tokens attend to {the memory, a learned null key}
    add               enter     the memory, projected, is added to every token once

A softmax over the single key that the memory is would be constant, and cross-attention to it no more than `add`:
the null key, whose value is nothing, lets each token choose how much to read.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ReaderName
from models.layers import split_heads

# Shapes: B streams, L clips in a segment, D width, M memory width, N heads, E width of a head.


class Reader(nn.Module):
    """Reads nothing: for the plain Transformer, and the base of those that do."""

    extra_keys = 0
    """How many keys `keys` gives."""

    def enter(self, tokens_BLD: Tensor, memory_BM: Tensor) -> Tensor:
        """Acts before the first layer."""
        return tokens_BLD

    def keys(self, memory_BM: Tensor) -> Tensor | None:
        """Further keys float[B, extra_keys, D] for every layer's attention."""
        return None

    def between(self, layer: int, tokens_BLD: Tensor, memory_BM: Tensor) -> Tensor:
        """Acts in each layer, after attention and before the feed-forward network."""
        return tokens_BLD


class Prepend(Reader):
    """The memory as one more key and value in each layer."""

    extra_keys = 1

    def __init__(self, width: int, memory: int) -> None:
        super().__init__()
        self.project = nn.Linear(memory, width)

    def keys(self, memory_BM: Tensor) -> Tensor:
        return self.project(memory_BM)[:, None]


class Add(Reader):
    """The projected memory, brought to a size that is learned, is added to every token.

    Added as it comes, it can drown the tokens before it says anything, and a network over words then never learns:
    what is added begins at a tenth of a normalized token's size.
    """

    def __init__(self, width: int, memory: int) -> None:
        super().__init__()
        self.project = nn.Linear(memory, width)
        self.norm = nn.LayerNorm(width)
        nn.init.constant_(self.norm.weight, 0.1)

    def enter(self, tokens_BLD: Tensor, memory_BM: Tensor) -> Tensor:
        return tokens_BLD + self.norm(self.project(memory_BM))[:, None]


class CrossAttention(Reader):
    """One pre-norm cross-attention per layer, to the memory and the null key."""

    def __init__(self, width: int, memory: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.glances = nn.ModuleList(Glance(width, memory, heads, dropout) for _ in range(layers))

    def between(self, layer: int, tokens_BLD: Tensor, memory_BM: Tensor) -> Tensor:
        return tokens_BLD + self.glances[layer](tokens_BLD, memory_BM)


class Glance(nn.Module):
    """One layer's look at the memory: softmax over two keys, of which the null one's value is zero."""

    def __init__(self, width: int, memory: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(memory, 2 * width)
        self.null_key = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens_BLD: Tensor, memory_BM: Tensor) -> Tensor:
        B, L, D = tokens_BLD.shape
        key_BD, value_BD = self.key_value(memory_BM).chunk(2, dim=-1)
        key_B2D = torch.stack([key_BD, self.null_key.expand(B, D)], dim=1)
        value_B2D = torch.stack([value_BD, torch.zeros_like(value_BD)], dim=1)
        read_BNLE = F.scaled_dot_product_attention(
            split_heads(self.query(self.norm(tokens_BLD)), self.heads),
            split_heads(key_B2D, self.heads),
            split_heads(value_B2D, self.heads),
        )
        return self.dropout(self.out(read_BNLE.transpose(1, 2).reshape(B, L, D)))


def make_reader(name: ReaderName, *, width: int, memory: int, layers: int, heads: int, dropout: float) -> Reader:
    """The reader of this name."""
    match name:
        case "prepend":
            return Prepend(width, memory)
        case "cross_attention":
            return CrossAttention(width, memory, layers, heads, dropout)
        case "add":
            return Add(width, memory)
