"""A GRU with orthogonal recurrent matrices, by the Neumann-Cayley transform (NC-GRU, arXiv 2208.06496).

    W = (I + A)^-1 (I - A) D = (2 (I + A)^-1 - I) D

A is skew-symmetric and trained, D a fixed diagonal of +-1: so W is orthogonal whatever A is, and gradients through it
neither grow nor fade. Solving for the inverse X after each optimizer step would cost the most, so X is carried over by
a Neumann series: E = I - (I + A) X is small when A has moved a little, and (I + A)^-1 = X (I + E + E^2 + ...). E is
taken against the new A as it is, not against the step, so truncation errors do not add up from step to step.

Nobody has to call anything: a forward pass in training compares A with the A that X was made for.
"""

from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from models.config import GATES, Gate

# Shapes: B streams, L clips in a segment, D input width, M memory width; A, X, W and D of the formula are M x M.


class CayleyMap(torch.autograd.Function):
    """A and the X = (I + A)^-1 that belongs to it -> W, with the gradient in closed form.

    dW = -X dA (W + D), hence dL/dA = V^T - V with V = X^T (dL/dW) (W^T + D), as in the paper; and W + D = 2 X D.
    """

    @staticmethod
    def forward(ctx: Any, skew_MM: Tensor, inverse_MM: Tensor, signs_M: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_MM, signs_M)
        return cayley(inverse_MM, signs_M)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        inverse_MM, signs_M = ctx.saved_tensors  # type: ignore[attr-defined]
        V_MM = 2 * inverse_MM.T @ (grads[0] * signs_M) @ inverse_MM.T
        return (V_MM.T - V_MM).triu(1), None, None


class OrthogonalMatrix(nn.Module):
    """An M x M matrix that is orthogonal before, during and after training.

    size: M. negatives: how many of D's entries are -1; eigenvalues near -1, which the Cayley map alone cannot reach,
    come from these. terms: powers of E in the truncated series. refresh_every: after so many changes of A, the inverse
    is solved for exactly; and so it is when A has moved too far for the series, and once for evaluation.
    """

    def __init__(self, size: int, *, negatives: int, terms: int = 2, refresh_every: int = 100) -> None:
        super().__init__()
        self.signs_M: Tensor
        self._inverse_MM: Tensor | None = None
        self._seen_MM: Tensor | None = None
        self._changes = 0
        """Changes of A since the inverse was last solved for exactly."""
        if not 0 <= negatives <= size:
            raise ValueError(f"negatives must be 0 to {size}, got {negatives}")
        if terms < 1 or refresh_every < 1:
            raise ValueError(f"terms and refresh_every must be at least 1, got {terms} and {refresh_every}")
        self.terms = terms
        self.refresh_every = refresh_every
        # Only what is above the diagonal counts: A = triu(skew) - triu(skew)^T.
        self.skew_MM = nn.Parameter(initial_skew(size))
        signs = torch.ones(size)
        signs[:negatives] = -1
        self.register_buffer("signs_M", signs)

    def forward(self) -> Tensor:
        """W, float[M, M]: by the carried inverse in training, by an exact one in evaluation."""
        self.update()
        assert self._inverse_MM is not None
        return CayleyMap.apply(self.skew_MM, self._inverse_MM, self.signs_M)

    # What is made in inference mode could not be used in training after it.
    @torch.inference_mode(False)
    @torch.no_grad()
    def update(self) -> None:
        """Brings the inverse up to A, if A has changed since; forward does it by itself."""
        changed = self._seen_MM is None or not torch.equal(self.skew_MM, self._seen_MM)
        if not changed and (self.training or self._changes == 0):
            return
        self._changes += changed
        if not self.training or self._changes >= self.refresh_every or not self._carry():
            self.solve()
        self._seen_MM = self.skew_MM.detach().clone()

    @torch.no_grad()
    def solve(self) -> None:
        """Makes the inverse anew and exactly: in float64, whatever the parameter's type."""
        plus_MM = identity_plus(self.skew_MM.double())
        self._inverse_MM = torch.linalg.inv(plus_MM).to(self.skew_MM.dtype)
        self._changes = 0

    def _carry(self) -> bool:
        """Carries the inverse over by the truncated series. False, and nothing done, where that would be inexact."""
        if self._inverse_MM is None:
            return False
        plus_MM, inverse_MM = identity_plus(self.skew_MM), self._inverse_MM
        rounding = 8 * torch.finfo(plus_MM.dtype).eps * len(plus_MM) ** 0.5
        for _ in range(2):  # a long step may need the series twice; beyond that, solving is cheaper
            error_MM = -(plus_MM @ inverse_MM)
            error_MM.diagonal().add_(1)
            term_MM, size = inverse_MM, inverse_MM.norm().item()
            for _ in range(self.terms):
                term_MM = term_MM @ error_MM
                inverse_MM = inverse_MM + term_MM
                size_before, size = size, term_MM.norm().item()
            # The terms left out go on shrinking at the rate of the last two.
            rate = size / size_before if size_before else 0.0
            if rate < 0.5 and size * rate / (1 - rate) < rounding:
                self._inverse_MM = inverse_MM
                return True
        return False

    def _forget(self) -> None:
        """The next forward solves anew."""
        self._inverse_MM = None
        self._seen_MM = None
        self._changes = 0

    def train(self, mode: bool = True) -> Self:
        """Training begins with an exact inverse: a carried one is no part of the state that is stored, and so a training that was
        stopped at an epoch's end goes on with the very same numbers. Costs a solve a call: to be called once an epoch, not once a step.
        """
        if mode and self._changes:
            self._forget()
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._forget()  # another device or type; and an inverse of lower precision must not survive .double()
        return super()._apply(fn, recurse)


class DenseMatrix(nn.Module):
    """A plain M x M matrix, for the gates that are not orthogonal."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight_MM = nn.Parameter(torch.empty(size, size).uniform_(-(size**-0.5), size**-0.5))

    def forward(self) -> Tensor:
        """float[M, M]."""
        return self.weight_MM


class NeumannCayleyGRU(nn.Module):
    """nn.GRU's equations and its fused kernel, with orthogonal recurrent matrices for the gates named.

    As in nn.GRU the reset gate acts after the candidate's matrix, which the paper's formula has before; only so one
    fused kernel serves both, and a folded NC-GRU costs what a GRU costs.
    """

    def __init__(
        self,
        input_width: int,
        memory: int,
        *,
        orthogonal: tuple[Gate, ...] = ("candidate",),
        negatives: int | None = None,
        terms: int = 2,
        refresh_every: int = 100,
    ) -> None:
        """negatives: None for half of M. Raises ValueError for a gate that is none of GATES."""
        super().__init__()
        if unknown := set(orthogonal) - set(GATES):
            raise ValueError(f"a GRU has the gates {', '.join(GATES)}; not {', '.join(sorted(unknown))}")
        negatives = memory // 2 if negatives is None else negatives
        bound = memory**-0.5
        matrices: list[nn.Module] = []
        for gate in GATES:
            if gate in orthogonal:
                matrices.append(OrthogonalMatrix(memory, negatives=negatives, terms=terms, refresh_every=refresh_every))
            else:
                matrices.append(DenseMatrix(memory))
        self.recurrent = nn.ModuleList(matrices)
        """In the order of GATES."""
        self.weight_ih = nn.Parameter(torch.empty(3 * memory, input_width).uniform_(-bound, bound))
        self.bias_ih = nn.Parameter(torch.empty(3 * memory).uniform_(-bound, bound))
        self.bias_hh = nn.Parameter(torch.empty(3 * memory).uniform_(-bound, bound))
        self._folded: tuple[tuple[tuple[int, int], ...], Tensor] | None = None

    def forward(self, inputs_BLD: Tensor, memory_BM: Tensor) -> Tensor:
        """States after each input, float[B, L, M], starting from the memory."""
        weights = [self.weight_ih, self.recurrent_weight(), self.bias_ih, self.bias_hh]
        if inputs_BLD.is_cuda:
            weights = in_one_piece(weights)
        start_1BM = memory_BM[None].contiguous()
        states_BLM, _ = torch.gru(inputs_BLD, start_1BM, weights, True, 1, 0.0, self.training, False, True)
        return states_BLM

    def recurrent_weight(self) -> Tensor:
        """nn.GRU's weight_hh, float[3 M, M].

        In evaluation without gradients it is folded once and kept. A change of the parameters is then noticed by
        their version counters; one made through `.data`, which has no counter, at the next train() or eval().
        """
        if self.training or torch.is_grad_enabled():
            return self._stacked()
        made_from = tuple((p.data_ptr(), p._version) for p in self.recurrent.parameters())
        if self._folded is None or self._folded[0] != made_from:
            self._folded = made_from, self._stacked()
        return self._folded[1]

    def _stacked(self) -> Tensor:
        return torch.cat([matrix() for matrix in cast(list[nn.Module], self.recurrent)])

    @torch.no_grad()
    def fold(self) -> nn.GRU:
        """An nn.GRU, batch first, that gives the same states: for export. Shares no weights with this module."""
        memory, width = self.bias_ih.shape[0] // 3, self.weight_ih.shape[1]
        gru = nn.GRU(width, memory, batch_first=True).to(self.weight_ih)
        gru.load_state_dict(
            {
                "weight_ih_l0": self.weight_ih,
                "weight_hh_l0": self.recurrent_weight(),
                "bias_ih_l0": self.bias_ih,
                "bias_hh_l0": self.bias_hh,
            }
        )
        return gru.train(self.training)

    def train(self, mode: bool = True) -> Self:
        self._folded = None
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._folded = None
        return super()._apply(fn, recurse)


def initial_skew(size: int) -> Tensor:
    """The upper half of a block-diagonal A: without D, W turns planes by random angles to 90 degrees (as in scoRNN)."""
    angle = torch.rand(size // 2) * (torch.pi / 2)
    skew = torch.zeros(size, size)
    first = torch.arange(0, size - 1, 2)
    skew[first, first + 1] = torch.sqrt((1 - angle.cos()) / (1 + angle.cos()))
    return skew


def identity_plus(skew_MM: Tensor) -> Tensor:
    """I + A, from the half that is trained."""
    upper_MM = skew_MM.triu(1)
    plus_MM = upper_MM - upper_MM.T
    plus_MM.diagonal().add_(1)
    return plus_MM


def cayley(inverse_MM: Tensor, signs_M: Tensor) -> Tensor:
    """W = (2 X - I) D, which is (I + A)^-1 (I - A) D without another product of matrices."""
    orthogonal_MM = 2 * inverse_MM
    orthogonal_MM.diagonal().sub_(1)
    return orthogonal_MM * signs_M


def in_one_piece(weights: list[Tensor]) -> list[Tensor]:
    """The same tensors as views of one buffer, as cuDNN wants a GRU's weights (else it copies, and warns)."""
    flat = torch.cat([weight.flatten() for weight in weights])
    pieces = flat.split([weight.numel() for weight in weights])
    return [piece.view_as(weight) for piece, weight in zip(pieces, weights, strict=True)]
