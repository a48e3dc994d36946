"""The Compact Recurrent Transformer (CRT, arXiv 2505.00929): a shallow Transformer within each segment, and one vector
that carries what matters from each segment to the next.

Per stream nothing is kept but that vector, so time and state per segment are the same in the first minute and in the
thousandth hour.
"""

from typing import cast

import torch
from torch import Tensor, nn

from models.config import CrtConfig
from models.layers import Block, allowed_keys
from models.reading import Reader, make_reader
from models.writing import GruWriter, KeepMemory, NcgruWriter, Writer

# Shapes: B streams, L clips in a segment, D width, M memory width.


class CompactRecurrentTransformer(nn.Module):
    """A pure function of a segment and a memory: it keeps nothing between calls."""

    def __init__(self, config: CrtConfig) -> None:
        super().__init__()
        self.config = config
        c = config
        self.position_LD = nn.Parameter(torch.randn(c.segment, c.width) * 0.02)
        self.first_memory_M = nn.Parameter(torch.empty(c.memory).uniform_(-0.1, 0.1))
        self.blocks = nn.ModuleList(Block(c.width, c.heads, c.hidden, c.dropout) for _ in range(c.layers))
        self.out_norm = nn.LayerNorm(c.width)
        # A memory that is never written says nothing: the plain Transformer does not read one either.
        self.reader = (
            Reader()
            if c.writer == "none"
            else make_reader(
                c.reader, width=c.width, memory=c.memory, layers=c.layers, heads=c.heads, dropout=c.dropout
            )
        )
        self.writer = make_writer(c)
        self.dropout = nn.Dropout(c.dropout)
        if c.writer == "none":
            self.first_memory_M.requires_grad_(False)

    def initial_memory(self, batch: int) -> Tensor:
        """The learned memory with which each of `batch` streams begins, float[B, M]."""
        return self.first_memory_M.expand(batch, -1).contiguous()

    def forward(self, segment_BLD: Tensor, memory_BM: Tensor, mask_BL: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Reads one segment in the light of the memory and writes the next.

        mask_BL is True where a clip is present (None: everywhere). An absent clip is neither seen nor written whatever
        its numbers are, not-a-number included; its output is finite and means nothing. A row without clips hands its
        memory on unchanged. A segment may be shorter than config.segment: with a causal CRT the outputs of the first
        clips are those that the full segment gives.

        Returns outputs_BLD and the next segment's memory_BM. Raises ValueError for shapes that do not fit.
        """
        self._check(segment_BLD, memory_BM, mask_BL)
        B, L, _ = segment_BLD.shape
        present_BL = torch.ones(B, L, dtype=torch.bool, device=segment_BLD.device) if mask_BL is None else mask_BL
        if mask_BL is not None:
            segment_BLD = segment_BLD.masked_fill(~mask_BL[..., None], 0)  # 0 * nan would be nan in the attention
        tokens_BLD = self.dropout(self.reader.enter(segment_BLD + self.position_LD[:L], memory_BM))
        allowed_B1LS = allowed_keys(present_BL, causal=self.config.causal, extra=self.reader.extra_keys)
        keys_BXD = self.reader.keys(memory_BM)
        for layer, block in enumerate(cast(list[Block], self.blocks)):
            tokens_BLD = block.attend(tokens_BLD, allowed_B1LS, keys_BXD)
            tokens_BLD = self.reader.between(layer, tokens_BLD, memory_BM)
            tokens_BLD = block.think(tokens_BLD)
        outputs_BLD = self.out_norm(tokens_BLD)
        return outputs_BLD, self.writer(outputs_BLD, memory_BM, mask_BL)

    def _check(self, segment_BLD: Tensor, memory_BM: Tensor, mask_BL: Tensor | None) -> None:
        c = self.config
        if segment_BLD.ndim != 3 or segment_BLD.shape[2] != c.width or not 1 <= segment_BLD.shape[1] <= c.segment:
            raise ValueError(f"a segment is float[B, 1 to {c.segment}, {c.width}], got {list(segment_BLD.shape)}")
        B, L, _ = segment_BLD.shape
        if memory_BM.shape != (B, c.memory):
            raise ValueError(f"the memory of {B} streams is float[{B}, {c.memory}], got {list(memory_BM.shape)}")
        if mask_BL is not None and (mask_BL.shape != (B, L) or mask_BL.dtype != torch.bool):
            raise ValueError(f"the mask is bool[{B}, {L}], got {mask_BL.dtype}{list(mask_BL.shape)}")


def make_writer(c: CrtConfig) -> KeepMemory | Writer:
    """The writer that the config names."""
    match c.writer:
        case "gru":
            return GruWriter(c.width, c.memory, c.horizon)
        case "ncgru":
            return NcgruWriter(
                c.width, c.memory, c.horizon, c.orthogonal, c.negatives, c.neumann_terms, c.refresh_every
            )
        case "none":
            return KeepMemory()
