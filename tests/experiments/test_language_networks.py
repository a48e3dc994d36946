"""Transformer-XL, and what networks cost in operations."""

import numpy as np
import pytest
import torch

from experiments.language.flops import by_counter, by_hand
from experiments.language.networks import lanes, make_network, perplexity
from experiments.language.options import Options
from experiments.language.xl import RelativeAttention, TransformerXL, encode_distances
from models.vocabulary import IGNORE

WORDS = 50


def xl(cache: int) -> TransformerXL:
    torch.manual_seed(0)
    made = TransformerXL(WORDS, width=16, layers=3, heads=2, hidden=32, cache=cache, dropout=0.0).eval()
    for block in made.blocks:  # zero to begin with, and then nothing would tell them apart
        torch.nn.init.normal_(block.relative.content_bias_NE)
        torch.nn.init.normal_(block.relative.distance_bias_NE)
    return made


@torch.no_grad()
def read(network: TransformerXL, words: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    state, outputs = network.initial_state(len(words)), []
    for part in words.split(lengths, dim=1):
        found, state = network(part, state)
        outputs.append(found)
    return torch.cat(outputs, 1)


@pytest.mark.parametrize("lengths", [[4, 4, 4], [1] * 12, [5, 6, 1], [2, 10]], ids=str)
def test_a_cache_that_holds_all_equals_the_whole_text_at_once(lengths: list[int]):
    """However it is cut."""
    words = torch.randint(WORDS, (2, 12))
    network = xl(cache=12)
    whole = read(network, words, [12])
    assert torch.allclose(read(network, words, lengths), whole, atol=1e-5)
    assert not torch.allclose(read(xl(cache=1), words, lengths), whole, atol=1e-2)


def test_a_word_changes_nothing_before_it():
    """And what comes after it, in its own segment and from the cache."""
    words = torch.randint(WORDS, (1, 12))
    other = words.clone()
    other[0, 3] = (other[0, 3] + 1) % WORDS
    network = xl(cache=6)
    differs = ((read(network, words, [6, 6]) - read(network, other, [6, 6])).abs() > 1e-6).any(-1)[0]
    assert differs.tolist() == [False] * 3 + [True] * 9


def test_scores_are_the_papers_four_terms():
    """Each pair of words by itself, against the shifted product of matrices."""
    torch.manual_seed(0)
    D, S, L = 8, 3, 4
    attention = RelativeAttention(D, 2, 0.0).eval()
    torch.nn.init.normal_(attention.content_bias_NE)
    torch.nn.init.normal_(attention.distance_bias_NE)
    all_KD = torch.randn(S + L, D)
    encoded_KD = encode_distances(S + L, D)
    found_LD = attention(all_KD[None, S:], all_KD[None], encoded_KD)[0]
    query_LD = attention.query(all_KD[S:])
    key_KD, value_KD = attention.key_value(all_KD).chunk(2, -1)
    distance_KD = attention.distance(encoded_KD)
    for i in range(L):
        heads = []
        for n in range(2):
            part, scores = slice(4 * n, 4 * n + 4), []
            for j in range(S + i + 1):
                far = distance_KD[S + L - 1 - (S + i - j), part]
                content = (query_LD[i, part] + attention.content_bias_NE[n]) @ key_KD[j, part]
                scores.append((content + (query_LD[i, part] + attention.distance_bias_NE[n]) @ far) / 2)
            heads.append(torch.stack(scores).softmax(0) @ value_KD[: S + i + 1, part])
        assert torch.allclose(found_LD[i], attention.out(torch.cat(heads)), atol=1e-5)


KINDS = [
    {"variant": "transformer"},
    {"variant": "transformer", "segment": 70, "cutoffs": (200, 1000)},
    {"variant": "xl"},
    {"variant": "xl", "cache": 40, "layers": 3},
    {"variant": "crt", "read": "prepend"},
    {"variant": "crt", "read": "prepend", "segment": 4},
    {"variant": "crt", "read": "add", "write": "ncgru", "segment": 4},
    {"variant": "crt", "read": "cross_attention", "memory": 512, "layers": 3},
    {"variant": "crt", "layers": 16, "d_model": 380, "heads": 10, "inner": 900},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_operations_counted_by_hand_and_by_torch_agree(kind: dict[str, object]):
    """To the last one."""
    o = Options.model_validate(kind)
    assert by_hand(o, 5000).total == pytest.approx(by_counter(o, 5000), rel=1e-9)


@pytest.mark.parametrize("variant", ["transformer", "xl", "crt"])
def test_perplexity_is_of_every_word_after_the_first(variant: str):
    """Also of a text's last segment, which is shorter; of a text that is cut into streams, of what fills them, and only what is scored.

    The network knows how frequent each word is, and nothing else.
    """
    o = Options.model_validate({"variant": variant, "segment": 7, "d_model": 16, "inner": 16, "memory": 8})
    network = make_network(o, WORDS)
    bias_V = torch.linspace(-3, 3, WORDS)
    network.vocabulary.load_state_dict({"weight_VD": torch.zeros(WORDS, 16), "bias_V": bias_V})
    text = np.random.default_rng(0).integers(WORDS, size=104).astype(np.int32)
    surprise_N = -bias_V.log_softmax(0).numpy()[text]
    assert perplexity(network, text, o) == pytest.approx(np.exp(surprise_N[1:].mean()), rel=1e-5)
    some = np.isin(text[1:103], [3, 4, 40])  # three streams of 34
    found = perplexity(network, text, o, frozenset({3, 4, 40}), streams=3)
    assert found == pytest.approx(np.exp(surprise_N[1:103][some].mean()), rel=1e-5)
    assert network.training


def test_targets_are_the_next_words_and_only_those_that_are_scored():
    """In streams of equal length."""
    inputs, targets = lanes(np.arange(11, dtype=np.int32), 2, None)
    assert inputs.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert targets.tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    _, some = lanes(np.arange(11, dtype=np.int32), 2, frozenset({3, 6}))
    assert some.tolist() == [[IGNORE, IGNORE, 3, IGNORE, IGNORE], [6, *[IGNORE] * 4]]
