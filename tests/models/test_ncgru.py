"""The Neumann-Cayley GRU: orthogonal whatever training does, right in its gradients, a plain GRU in evaluation."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.config import GATES
from models.ncgru import NeumannCayleyGRU, OrthogonalMatrix

SIZE = 64


def exact(matrix: OrthogonalMatrix) -> Tensor:
    """(I + A)^-1 (I - A) D, solved in float64 and differentiable by autograd."""
    upper = matrix.skew_MM.double().triu(1)
    A, I = upper - upper.T, torch.eye(len(upper), dtype=torch.double)  # noqa: E741
    return torch.linalg.solve(I + A, I - A) * matrix.signs_M.double()


def distance(W: Tensor) -> float:
    """The largest entry of W^T W - I."""
    return (W.T @ W - torch.eye(len(W), dtype=W.dtype)).abs().max().item()


def train(matrix: OrthogonalMatrix, steps: int, optimizer: torch.optim.Optimizer) -> tuple[float, float]:
    """Drives W towards a random orthogonal matrix; returns the first and the last loss."""
    target = torch.linalg.qr(torch.randn(SIZE, SIZE)).Q
    losses = []
    for _ in range(steps):
        loss = (matrix() - target).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


def count_solves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one for each exact inversion from now on."""
    solves: list[int] = []
    invert = torch.linalg.inv
    monkeypatch.setattr(torch.linalg, "inv", lambda matrix: (solves.append(1), invert(matrix))[1])
    return solves


@pytest.mark.parametrize("lr", [1e-3, 1e-2])
def test_after_a_thousand_steps_it_is_orthogonal_and_the_exact_map(lr: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 with Adam: below 1e-5 in training and in evaluation; and it has learned, mostly by the series."""
    matrix = OrthogonalMatrix(SIZE, negatives=SIZE // 2)
    solves = count_solves(monkeypatch)
    first, last = train(matrix, 1000, torch.optim.Adam(matrix.parameters(), lr=lr))

    assert last < first / 4
    assert 10 <= len(solves) <= 30, "exact at intervals of 100 steps, and seldom between"
    for mode in (True, False):
        with torch.no_grad():
            W = matrix.train(mode)()
        assert distance(W) < 1e-5
        assert (W - exact(matrix)).abs().max() < 1e-5


def test_the_series_alone_does_not_drift() -> None:
    """A thousand steps without one refresh: the error is taken against A as it is, so it does not add up."""
    matrix = OrthogonalMatrix(SIZE, negatives=SIZE // 2, refresh_every=10**9)
    train(matrix, 1000, torch.optim.Adam(matrix.parameters(), lr=1e-3))
    with torch.no_grad():
        assert distance(matrix()) < 1e-5
        assert (matrix() - exact(matrix)).abs().max() < 1e-5


@pytest.mark.parametrize("every", [10, 50])
def test_the_inverse_is_refreshed_at_intervals(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly solved once per so many changes, and not otherwise while steps are small."""
    matrix = OrthogonalMatrix(SIZE, negatives=0, refresh_every=every)
    matrix()
    solves = count_solves(monkeypatch)
    train(matrix, 201, torch.optim.SGD(matrix.parameters(), lr=1e-4))
    assert len(solves) == 200 // every


def test_a_leap_is_solved_exactly() -> None:
    """Where A moves too far for the series, as by loading other weights, the map is exact at the next forward."""
    matrix, other = OrthogonalMatrix(SIZE, negatives=7), OrthogonalMatrix(SIZE, negatives=7)
    matrix()
    nn.init.normal_(other.skew_MM, std=3)
    matrix.load_state_dict(other.state_dict())
    with torch.no_grad():
        assert (matrix() - exact(other)).abs().max() < 1e-5


def test_a_change_through_data_is_noticed_in_training() -> None:
    """`.data` has no version counter; the comparison with the A last seen does not need one."""
    matrix = OrthogonalMatrix(SIZE, negatives=7)
    matrix()
    matrix.skew_MM.data.add_(torch.randn(SIZE, SIZE) * 0.01)
    with torch.no_grad():
        assert (matrix() - exact(matrix)).abs().max() < 1e-5


def test_the_closed_form_gradient_is_autograds() -> None:
    """Against autograd through the exact map, after the series has carried the inverse along."""
    matrix = OrthogonalMatrix(SIZE, negatives=SIZE // 2)
    train(matrix, 50, torch.optim.Adam(matrix.parameters(), lr=1e-3))
    weight = torch.randn(SIZE, SIZE)
    (closed,) = torch.autograd.grad((matrix() * weight).sum(), matrix.skew_MM)
    (auto,) = torch.autograd.grad((exact(matrix) * weight.double()).sum(), matrix.skew_MM)
    torch.testing.assert_close(closed, auto, atol=1e-4, rtol=1e-4)
    assert torch.equal(closed.tril(), torch.zeros(SIZE, SIZE)), "only what is above the diagonal is a parameter"


def test_the_gradient_is_right_in_float64() -> None:
    """Against finite differences, each of which moves A and so the carried inverse."""
    matrix = OrthogonalMatrix(6, negatives=2).double()
    assert torch.autograd.gradcheck(lambda _: matrix(), (matrix.skew_MM,), atol=1e-7)


def test_double_precision_is_not_poisoned_by_single() -> None:
    """An inverse made in float32 does not outlive .double()."""
    matrix = OrthogonalMatrix(SIZE, negatives=7)
    matrix()
    with torch.no_grad():
        assert distance(matrix.double()()) < 1e-13


@pytest.mark.parametrize(("negatives", "sign"), [(0, 1), (1, -1), (2, 1), (SIZE, 1)])
@torch.no_grad()
def test_negatives_choose_between_turning_and_mirroring(negatives: int, sign: int) -> None:
    """The Cayley map alone has determinant 1; D brings one factor of -1 each."""
    W = OrthogonalMatrix(SIZE, negatives=negatives)()
    assert torch.linalg.det(W.double()).item() == pytest.approx(sign, abs=1e-4)


@pytest.mark.parametrize("gates", [(), ("candidate",), ("reset", "update"), GATES], ids=str)
def test_the_gates_named_are_orthogonal_and_the_others_free(gates: tuple[Any, ...]) -> None:
    """After training, each M x M block of weight_hh is orthogonal if and only if its gate was named."""
    gru = NeumannCayleyGRU(5, 16, orthogonal=gates)
    optimizer = torch.optim.Adam(gru.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        gru(torch.randn(3, 4, 5), torch.rand(3, 16)).square().sum().backward()
        optimizer.step()
    for gate, block in zip(GATES, gru.eval().recurrent_weight().detach().split(16), strict=True):
        assert (distance(block) < 1e-5) == (gate in gates)


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
@torch.no_grad()
def test_it_computes_what_its_folded_gru_computes(mode: bool) -> None:
    """State by state, in either mode; and the folded one is a plain nn.GRU of its own."""
    gru = NeumannCayleyGRU(5, 16).train(mode)
    inputs, memory = torch.randn(3, 7, 5), torch.rand(3, 16)
    folded = gru.fold()
    before = gru(inputs, memory)

    assert type(folded) is nn.GRU
    torch.testing.assert_close(before, folded(inputs, memory[None])[0], atol=1e-6, rtol=0)
    folded.weight_hh_l0.zero_()
    torch.testing.assert_close(gru(inputs, memory), before, atol=0, rtol=0)


def test_evaluation_folds_once_and_again_after_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """One inversion for any number of calls; a step, a loaded state or another mode make it fold anew."""
    gru = NeumannCayleyGRU(5, 16).eval()
    inputs, memory = torch.randn(3, 7, 5), torch.rand(3, 16)
    optimizer = torch.optim.SGD(gru.parameters(), lr=0.1)
    solves = count_solves(monkeypatch)
    with torch.no_grad():
        first = [gru(inputs, memory) for _ in range(3)]
    assert len(solves) == 1
    assert torch.equal(first[0], first[2])

    gru(inputs, memory).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        stepped = gru(inputs, memory)
        torch.testing.assert_close(stepped, gru.fold()(inputs, memory[None])[0])
        assert not torch.equal(stepped, first[0])
        for parameter in gru.parameters():
            parameter.data.mul_(0.5)
        halved = gru.train().eval()(inputs, memory)
        torch.testing.assert_close(halved, gru.train()(inputs, memory), atol=1e-6, rtol=0)
        assert not torch.equal(halved, stepped)


def test_training_goes_on_after_evaluation_in_inference_mode() -> None:
    """What evaluation made and kept is no inference tensor, which autograd would refuse."""
    gru = NeumannCayleyGRU(5, 16)
    with torch.inference_mode():
        gru.eval()(torch.randn(3, 7, 5), torch.rand(3, 16))
    gru.train()(torch.randn(3, 7, 5), torch.rand(3, 16)).sum().backward()
    assert all(p.grad is not None for p in gru.parameters())


@torch.no_grad()
def test_saved_and_copied_it_is_the_same() -> None:
    """The state_dict alone carries it, the signs included; so does a deep copy."""
    gru, other = NeumannCayleyGRU(5, 16, negatives=3), NeumannCayleyGRU(5, 16, negatives=9)
    inputs, memory = torch.randn(3, 7, 5), torch.rand(3, 16)
    other.load_state_dict(gru.state_dict())
    for twin in (other, copy.deepcopy(gru)):
        torch.testing.assert_close(twin(inputs, memory), gru(inputs, memory), atol=1e-6, rtol=0)


def test_training_goes_on_from_stored_weights_with_the_very_same_matrix() -> None:
    """The carried inverse is not stored and is off by rounding: train(), which begins an epoch, makes it anew. Equal to the bit."""
    matrix = OrthogonalMatrix(SIZE, negatives=7)
    train(matrix, 20, torch.optim.Adam(matrix.parameters(), lr=1e-3))
    resumed = OrthogonalMatrix(SIZE, negatives=7)
    resumed.load_state_dict(matrix.state_dict())
    with torch.no_grad():
        assert torch.equal(matrix.train()(), resumed.train()())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (dict(orthogonal=("output",)), "reset, update, candidate"),
        (dict(negatives=17), "0 to 16"),
        (dict(terms=0), "at least 1"),
        (dict(refresh_every=0), "at least 1"),
    ],
)
def test_impossible_arguments_are_named(arguments: dict[str, Any], says: str) -> None:
    """A ValueError says what would be right."""
    with pytest.raises(ValueError, match=says):
        NeumannCayleyGRU(5, 16, **arguments)
