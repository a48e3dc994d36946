"""How a segment's outputs become the next memory.

A writer runs over the outputs of the clips that are there, from the memory on: `gru` by the fused nn.GRU, `ncgru` by
one with orthogonal recurrent matrices, `none` not at all (the plain Transformer, for comparison).

Absent clips leave the memory unchanged wherever they stand in the segment: they are moved behind those present, and
the state after the last one present is the next memory.
"""

import math

import torch
from torch import Tensor, nn

from models.config import Gate
from models.ncgru import NeumannCayleyGRU

# Shapes: B streams, L clips in a segment, D width, M memory width.


class KeepMemory(nn.Module):
    """The writer `none`: hands the memory on as it is."""

    def forward(self, outputs_BLD: Tensor, memory_BM: Tensor, mask_BL: Tensor | None) -> Tensor:
        return memory_BM


class Writer(nn.Module):
    """A recurrent network over the outputs, one state a clip; a subclass says which."""

    def states(self, outputs_BLD: Tensor, memory_BM: Tensor) -> Tensor:
        """The memory after each output, float[B, L, M]."""
        raise NotImplementedError

    def forward(self, outputs_BLD: Tensor, memory_BM: Tensor, mask_BL: Tensor | None) -> Tensor:
        """The next memory, float[B, M]. mask_BL: True where a clip is present; None where all are."""
        if mask_BL is None:
            return self.states(outputs_BLD, memory_BM)[:, -1]
        # Row k of the matrix takes the clip that is the k-th present one; a product with 0 and 1 changes no bit of it.
        place_BL = mask_BL.to(torch.int64).cumsum(dim=1) - 1
        wanted_L = torch.arange(mask_BL.shape[1], device=mask_BL.device)
        takes_BLL = (place_BL[:, None, :] == wanted_L[:, None]) & mask_BL[:, None, :]
        present_BLD = takes_BLL.to(outputs_BLD.dtype) @ outputs_BLD
        states_BLM = self.states(present_BLD, memory_BM)
        count_B1 = mask_BL.sum(dim=1, keepdim=True)
        last_B1L = (wanted_L == count_B1 - 1)[:, None, :].to(states_BLM.dtype)
        return torch.where(count_B1 > 0, (last_B1L @ states_BLM)[:, 0], memory_BM)


class GruWriter(Writer):
    """The fused nn.GRU."""

    def __init__(self, width: int, memory: int, horizon: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(width, memory, batch_first=True)
        remember(self.rnn.get_parameter("bias_ih_l0"), self.rnn.get_parameter("bias_hh_l0"), horizon)

    def states(self, outputs_BLD: Tensor, memory_BM: Tensor) -> Tensor:
        states_BLM, _ = self.rnn(outputs_BLD, memory_BM[None].contiguous())  # cuDNN insists
        return states_BLM


class NcgruWriter(Writer):
    """The Neumann-Cayley GRU."""

    def __init__(
        self,
        width: int,
        memory: int,
        horizon: int,
        orthogonal: tuple[Gate, ...] = ("candidate",),
        negatives: int | None = None,
        terms: int = 2,
        refresh_every: int = 100,
    ) -> None:
        super().__init__()
        self.rnn = NeumannCayleyGRU(
            width, memory, orthogonal=orthogonal, negatives=negatives, terms=terms, refresh_every=refresh_every
        )
        remember(self.rnn.bias_ih, self.rnn.bias_hh, horizon)

    def states(self, outputs_BLD: Tensor, memory_BM: Tensor) -> Tensor:
        return self.rnn(outputs_BLD, memory_BM)


@torch.no_grad()
def remember(bias_ih: Tensor, bias_hh: Tensor, horizon: int) -> None:
    """Starts the update gates at time constants of 1 to `horizon` clips, evenly on a log scale.

    A gate of 1 - 1/t forgets over t steps; log(t - 1) is the bias that gives it. Without this a GRU starts with time
    constants near 2, and learns to recall over 20 segments in about twice as many steps (chrono initialisation,
    arXiv 1804.11188; there evenly spread, which leaves almost no unit for what was just seen).
    """
    memory = bias_ih.shape[0] // 3
    spans = torch.logspace(math.log10(2), math.log10(max(2, horizon)), memory)
    bias_ih[memory : 2 * memory] = torch.log(spans - 1)
    bias_hh[memory : 2 * memory] = 0
