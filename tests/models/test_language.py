"""The CRT as a language model: its softmax, plain and adaptive, and what a word can be told from."""

import pytest
import torch
import torch.nn.functional as F

from models.config import CrtConfig
from models.language import LanguageModel
from models.vocabulary import IGNORE, ROWS, AdaptiveVocabulary, PlainVocabulary, Vocabulary

WORDS, WIDTH = 300, 16


def crt(**settings: object) -> CrtConfig:
    small = {"width": WIDTH, "memory": 24, "layers": 2, "heads": 2, "hidden": 32, "segment": 6, "dropout": 0.0}
    return CrtConfig.model_validate({**small, **settings})


def some_outputs(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    targets_N = torch.randint(WORDS, (tokens,))
    targets_N[::5] = IGNORE
    return torch.randn(tokens, WIDTH, requires_grad=True), targets_N


def test_the_fused_loss_and_its_gradients_are_those_of_float32():
    """Over more rows than are in work at a time, targets that are not scored among them; bfloat16 keeps 8 bits."""
    torch.manual_seed(0)
    vocabulary = PlainVocabulary(WORDS, WIDTH)
    torch.nn.init.normal_(vocabulary.weight_VD, std=0.5)
    torch.nn.init.normal_(vocabulary.bias_V)
    outputs_ND, targets_N = some_outputs(2 * ROWS + 7)
    wanted_of = [outputs_ND, *vocabulary.parameters()]
    exact = vocabulary.loss(outputs_ND, targets_N)
    wanted = torch.autograd.grad(2 * exact, wanted_of)
    with torch.autocast("cpu", torch.bfloat16):
        fused = vocabulary.loss(outputs_ND, targets_N)
    found = torch.autograd.grad(2 * fused, wanted_of)
    assert fused.dtype == torch.float32
    assert fused.item() == pytest.approx(exact.item(), rel=2e-3)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.01 * other.norm()


@pytest.mark.parametrize("vocabulary", [PlainVocabulary(WORDS, WIDTH), AdaptiveVocabulary(WORDS, WIDTH, (20, 100))])
def test_losses_are_those_of_the_probabilities_and_these_sum_to_one(vocabulary: Vocabulary):
    """Targets of every class, and some that are not scored."""
    outputs_ND, targets_N = some_outputs(100)
    log_NV = vocabulary.log_probabilities(outputs_ND)
    assert torch.allclose(log_NV.exp().sum(-1), torch.ones(100), atol=1e-5)
    wanted = F.nll_loss(log_NV, targets_N, ignore_index=IGNORE, reduction="sum")
    assert vocabulary.loss(outputs_ND, targets_N).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_the_adaptive_softmax_embeds_by_its_own_weights():
    """Frequent words by a row of the head, rare ones by a row of their class, projected."""
    vocabulary = AdaptiveVocabulary(WORDS, WIDTH, (20, 100))
    found_BLD = vocabulary.embed(torch.tensor([[3, 20, 99], [100, 299, 19]]))
    head, tail = vocabulary.softmax.head.weight, vocabulary.softmax.tail
    assert torch.equal(found_BLD[0, 0], head[3])
    assert torch.equal(found_BLD[1, 2], head[19])
    assert torch.allclose(found_BLD[0, 2], tail[0][1].weight[79] @ tail[0][0].weight)
    assert torch.allclose(found_BLD[1, 1], tail[1][1].weight[199] @ tail[1][0].weight)
    assert tail[1][1].weight.shape == (200, 1)
    found_BLD.sum().backward()
    assert tail[1][1].weight.grad.count_nonzero() == 2


@pytest.mark.parametrize("reader", ["prepend", "cross_attention", "add"])
def test_a_word_is_told_from_those_before_it_and_from_earlier_segments(reader: str):
    """A change of one word changes nothing before it, and what comes in the next segment."""
    torch.manual_seed(0)
    model = LanguageModel(WORDS, crt(reader=reader)).eval()
    words = torch.randint(WORDS, (1, 12))
    other = words.clone()
    other[0, 4] = (other[0, 4] + 1) % WORDS

    def read(words_BL: torch.Tensor) -> torch.Tensor:
        first, memory = model(words_BL[:, :6], model.initial_state(1))
        second, _ = model(words_BL[:, 6:], memory)
        return torch.cat([first, second], 1)

    differs = (read(words) != read(other)).any(-1)[0]
    assert differs.tolist() == [False] * 4 + [True] * 8


def test_without_a_writer_it_is_told_from_its_own_segment_only():
    """The plain Transformer."""
    model = LanguageModel(WORDS, crt(writer="none", memory=1)).eval()
    words = torch.randint(WORDS, (2, 6))
    outputs, memory = model(words, model.initial_state(2))
    again, _ = model(words, memory)
    assert torch.equal(outputs, again)
    assert not any(name.startswith("crt.reader") for name, _ in model.named_parameters())


def test_a_core_that_sees_what_comes_is_refused():
    """It would see the words that it is to foretell."""
    with pytest.raises(ValueError, match="causal"):
        LanguageModel(WORDS, crt(causal=False))


def test_the_memory_stays_in_float32_under_autocast():
    """Every product within is in bfloat16, but what is carried on is not rounded to its 8 bits."""
    torch.manual_seed(0)
    model = LanguageModel(WORDS, crt(memory=256)).eval()
    words = torch.randint(WORDS, (2, 6))
    with torch.autocast("cpu", torch.bfloat16):
        _, memory = model(words, model.initial_state(2))
    assert memory.dtype == torch.float32
    assert (memory != memory.bfloat16().float()).float().mean() > 0.9
