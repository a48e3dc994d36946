"""The CRT as a pure function: what sees what, what is remembered, and what never matters."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.config import CrtConfig
from models.crt import CompactRecurrentTransformer
from models.layers import Block, allowed_keys
from models.reading import make_reader

READERS = ("prepend", "cross_attention", "add")
WRITERS = ("gru", "ncgru", "none")
KINDS = list(itertools.product(READERS, WRITERS))
REMEMBERING = list(itertools.product(READERS, ("gru", "ncgru")))
L = 5

both_ways = pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])


def make(reader: str, writer: str, **changes: Any) -> CompactRecurrentTransformer:
    """A small CRT in evaluation mode whose every parameter is off its start, so that nothing holds only by it."""
    shape = dict(width=16, memory=12, layers=2, heads=2, hidden=24, segment=L, reader=reader, writer=writer)
    crt = CompactRecurrentTransformer(CrtConfig(**(shape | changes)))
    with torch.no_grad():
        for parameter in crt.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return crt.eval()


def prefixes(*lengths: int) -> Tensor:
    """Masks with so many clips present, bool[B, L]."""
    return torch.arange(L) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize(("reader", "writer"), KINDS)
@torch.no_grad()
def test_clip_by_clip_equals_all_at_once(reader: str, writer: str) -> None:
    """As a causal segment fills, each clip's output is final at once, and the memory after the last is the segment's."""
    crt = make(reader, writer)
    segment, memory = torch.randn(3, L, 16), torch.rand(3, 12)
    outputs, after = crt(segment, memory)

    for present in range(1, L + 1):
        shorter, memory_shorter = crt(segment[:, :present], memory)
        masked, memory_masked = crt(segment, memory, prefixes(*[present] * 3))

        torch.testing.assert_close(shorter, outputs[:, :present], atol=1e-5, rtol=0)
        torch.testing.assert_close(masked[:, :present], outputs[:, :present], atol=1e-5, rtol=0)
        torch.testing.assert_close(memory_masked, memory_shorter, atol=1e-5, rtol=0)
    torch.testing.assert_close(memory_shorter, after, atol=1e-5, rtol=0)


@pytest.mark.parametrize("holes", [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 1]], ids=str)
@torch.no_grad()
def test_the_gru_steps_over_the_clips_present_only(holes: list[int]) -> None:
    """The next memory is that of a GRU cell stepped through the outputs of the clips present, wherever they stand."""
    crt = make("prepend", "gru")
    mask = torch.tensor([holes], dtype=torch.bool)
    memory = torch.rand(1, 12)
    outputs, after = crt(torch.randn(1, L, 16), memory, mask)

    cell = nn.GRUCell(16, 12)
    cell.load_state_dict({key.removesuffix("_l0"): value for key, value in crt.writer.rnn.state_dict().items()})
    for output in outputs[0][mask[0]]:
        memory = cell(output[None], memory)
    torch.testing.assert_close(after, memory, atol=1e-6, rtol=0)


@both_ways
@pytest.mark.parametrize(("reader", "writer"), KINDS)
@torch.no_grad()
def test_a_batch_mix_changes_no_streams_result(reader: str, writer: str, causal: bool) -> None:
    """Each stream alone, unpadded, equals itself among streams of other lengths, in any order, within 1e-5."""
    crt = make(reader, writer, causal=causal)
    lengths = [5, 2, 0, 3, 1, 5, 4]
    segment, memory = torch.randn(7, L, 16), torch.rand(7, 12)
    for order in (list(range(7)), [6, 2, 0, 4, 1, 3, 5]):
        outputs, after = crt(segment[order], memory[order], prefixes(*lengths)[order])

        for row, stream in enumerate(order):
            if lengths[stream] == 0:
                continue
            alone, after_alone = crt(segment[[stream], : lengths[stream]], memory[[stream]])
            torch.testing.assert_close(outputs[[row], : lengths[stream]], alone, atol=1e-5, rtol=0)
            torch.testing.assert_close(after[[row]], after_alone, atol=1e-5, rtol=0)


@both_ways
@pytest.mark.parametrize(("reader", "writer"), KINDS)
def test_absent_clips_never_matter(reader: str, writer: str, causal: bool) -> None:
    """Not-a-number where no clip is changes no output, no memory and no gradient; a row without clips stays finite."""
    crt = make(reader, writer, causal=causal)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    segment = torch.randn(3, L, 16)
    poisoned = segment.masked_fill(~mask[..., None], torch.nan)
    memory = torch.rand(3, 12)

    results, gradients = [], []
    for version in (segment, poisoned):
        crt.zero_grad()
        outputs, after = crt(version, memory, mask)
        (outputs[mask].sum() + after.sum()).backward()
        results.append((outputs, after))
        gradients.append([p.grad.clone() for p in crt.parameters() if p.grad is not None])

    torch.testing.assert_close(results[0], results[1], atol=0, rtol=0)
    torch.testing.assert_close(gradients[0], gradients[1], atol=0, rtol=0)
    assert all(torch.isfinite(tensor).all() for tensor in (*results[1], *gradients[1]))


@pytest.mark.parametrize(("reader", "writer"), KINDS)
@torch.no_grad()
def test_a_row_without_clips_hands_its_memory_on(reader: str, writer: str) -> None:
    """Bit for bit, while its neighbour in the batch writes."""
    crt = make(reader, writer)
    memory = torch.rand(2, 12)
    _, after = crt(torch.randn(2, L, 16), memory, prefixes(0, 4))

    assert torch.equal(after[0], memory[0])
    assert torch.equal(after[1], memory[1]) == (writer == "none")


@pytest.mark.parametrize(("reader", "writer"), REMEMBERING)
def test_a_segments_border_is_crossed_through_the_memory_only(reader: str, writer: str) -> None:
    """The second segment's outputs depend on the first's clips; and not at all when the memory between is cut off."""
    crt = make(reader, writer)
    first, second = torch.randn(1, L, 16, requires_grad=True), torch.randn(1, L, 16)
    _, memory = crt(first, crt.initial_memory(1))

    through, _ = crt(second, memory)
    (gradient,) = torch.autograd.grad(through.square().sum(), first, retain_graph=True)
    cut, _ = crt(second, memory.detach())
    (nothing,) = torch.autograd.grad(cut.square().sum(), first, allow_unused=True, materialize_grads=True)

    assert (gradient.abs().amax(dim=-1) > 0).all(), "each clip of the first segment reaches the second"
    assert torch.equal(nothing, torch.zeros_like(nothing))
    torch.testing.assert_close(through, cut, atol=0, rtol=0)


@pytest.mark.parametrize(("reader", "writer"), KINDS)
@torch.no_grad()
def test_it_keeps_nothing_between_calls(reader: str, writer: str) -> None:
    """The same inputs give the same outputs whatever was computed in between."""
    crt = make(reader, writer)
    segment, memory = torch.randn(2, L, 16), torch.rand(2, 12)
    before = crt(segment, memory)
    crt(torch.randn(4, L, 16), torch.rand(4, 12), prefixes(1, 2, 3, 0))
    torch.testing.assert_close(crt(segment, memory), before, atol=0, rtol=0)


@both_ways
@pytest.mark.parametrize("reader", READERS)
@torch.no_grad()
def test_causal_means_that_later_clips_change_nothing_before_them(reader: str, causal: bool) -> None:
    """Another last clip changes earlier outputs if and only if the CRT is not causal."""
    crt = make(reader, "gru", causal=causal)
    segment, memory = torch.randn(1, L, 16), torch.rand(1, 12)
    changed = segment.clone()
    changed[:, -1] = torch.randn(16)
    difference = (crt(segment, memory)[0] - crt(changed, memory)[0]).abs().amax(dim=-1)[0]

    assert difference[-1] > 1e-3
    assert bool((difference[:-1] < 1e-6).all()) == causal


@pytest.mark.parametrize(("reader", "writer"), KINDS)
@torch.no_grad()
def test_every_token_sees_the_memory_unless_nothing_writes_it(reader: str, writer: str) -> None:
    """Another memory changes every output; with the writer none it changes none, and comes out as it went in."""
    crt = make(reader, writer)
    segment, memory = torch.randn(1, L, 16), torch.rand(1, 12)
    outputs, after = crt(segment, memory)
    others, _ = crt(segment, memory + 1)
    difference = (outputs - others).abs().amax(dim=-1)

    if writer == "none":
        assert torch.equal(difference, torch.zeros(1, L))
        assert torch.equal(after, memory)
    else:
        assert (difference > 1e-3).all()


@torch.no_grad()
def test_with_a_null_key_each_token_chooses_how_much_to_read() -> None:
    """What cross-attention adds for a memory differs from token to token; what `add` adds is the same for all."""
    shape = dict(width=16, memory=12, layers=1, heads=1, dropout=0.0)
    tokens, memory, other = torch.randn(1, L, 16) * 3, torch.randn(1, 12), torch.randn(1, 12)

    glance = make_reader("cross_attention", **shape)
    read = glance.between(0, tokens, memory) - glance.between(0, tokens, other)
    assert (read[0, 1:] - read[0, :1]).abs().amax(dim=-1).min() > 1e-2

    add = make_reader("add", **shape)
    added = add.enter(tokens, memory) - add.enter(tokens, other)
    torch.testing.assert_close(added, added[:, :1].expand(1, L, 16), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
@torch.no_grad()
def test_what_is_added_drowns_no_token(size: float) -> None:
    """However large the memory is, an untrained reader adds a tenth of a normalized token."""
    add = make_reader("add", width=64, memory=32, layers=1, heads=1, dropout=0.0)
    tokens = torch.zeros(1, L, 64)
    added = add.enter(tokens, torch.randn(1, 32) * size)
    assert 0.03 < added.std() < 0.11


@pytest.mark.parametrize(("reader", "writer"), REMEMBERING)
def test_the_initial_memory_is_learned(reader: str, writer: str) -> None:
    """All streams begin with the same parameter, and a loss on the first segment moves it."""
    crt = make(reader, writer)
    start = crt.initial_memory(3)
    assert torch.equal(start[0], start[2])

    crt(torch.randn(3, L, 16), start)[0].square().sum().backward()
    assert (crt.first_memory_M.grad.abs() > 0).all()


@pytest.mark.parametrize(("reader", "writer"), [*REMEMBERING, ("add", "none")])
def test_gradients_through_three_segments_are_right(reader: str, writer: str) -> None:
    """Against finite differences in float64, for clips, memory and every parameter, rows of unequal length included."""
    shape = dict(width=4, memory=4, layers=1, heads=2, hidden=4, dropout=0.0, segment=2)
    crt = make(reader, writer, **shape).double().train()
    crt.requires_grad_(True)
    mask = torch.tensor([[[1, 1], [1, 0]], [[1, 1], [0, 0]], [[1, 0], [1, 1]]], dtype=torch.bool)
    segments = torch.randn(3, 2, 2, 4, dtype=torch.double, requires_grad=True)
    memory = torch.rand(2, 4, dtype=torch.double, requires_grad=True)

    def through_three(segments: Tensor, memory: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros((), dtype=torch.double)
        for segment, present in zip(segments, mask, strict=True):
            outputs, memory = crt(segment, memory, present)
            total = total + (outputs[present] ** 3).sum()
        return total, memory

    used = [p for name, p in crt.named_parameters() if name != "first_memory_M"]
    assert torch.autograd.gradcheck(through_three, (segments, memory, *used), atol=1e-6, rtol=1e-4)


def test_a_fresh_writer_remembers_over_its_horizon() -> None:
    """After 64 clips a memory begun otherwise is still told apart with horizon 128, and forgotten with horizon 2."""
    kept = {}
    for horizon in (128, 2):
        torch.manual_seed(0)
        crt = CompactRecurrentTransformer(CrtConfig(width=16, memory=64, segment=64, horizon=horizon)).eval()
        clips = torch.randn(1, 64, 16)
        with torch.no_grad():
            memory = crt.initial_memory(1)
            kept[horizon] = (crt(clips, memory)[1] - crt(clips, memory + 0.5)[1]).abs().max().item()
    assert kept[128] > 0.1
    assert kept[2] < 0.01


@pytest.mark.parametrize(
    ("segment", "memory", "mask", "says"),
    [
        ((2, L, 15), (2, 12), None, r"segment is float\[B, 1 to 5, 16\]"),
        ((2, L + 1, 16), (2, 12), None, r"got \[2, 6, 16\]"),
        ((2, 0, 16), (2, 12), None, "1 to 5"),
        ((2, L, 16), (3, 12), None, r"float\[2, 12\], got \[3, 12\]"),
        ((2, L, 16), (2, 12), torch.ones(2, L), "bool"),
        ((2, L, 16), (2, 12), torch.ones(2, 4, dtype=torch.bool), r"bool\[2, 5\]"),
    ],
)
def test_shapes_that_do_not_fit_are_named(segment: Any, memory: Any, mask: Any, says: str) -> None:
    """A ValueError says what was wanted and what came."""
    with pytest.raises(ValueError, match=says):
        make("add", "gru")(torch.zeros(segment), torch.zeros(memory), mask)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(width=10, heads=4), "multiple of heads"),
        (dict(writer="lstm"), "writer"),
        (dict(memory=0), "memory"),
        (dict(memory=4, negatives=5), "negatives"),
        (dict(widht=16), "widht"),
        (dict(orthogonal=("output",)), "orthogonal"),
    ],
)
def test_impossible_configs_are_refused(changes: dict[str, Any], says: str) -> None:
    """By the name of the field, a mistyped one included."""
    with pytest.raises(ValueError, match=says):
        CrtConfig(**changes)


@torch.no_grad()
def test_a_block_computes_what_torchs_own_layers_do() -> None:
    """Pre-norm attention and feed-forward as nn.MultiheadAttention and nn.Sequential give them; a further key is one more token to look at."""
    block = Block(width=16, heads=4, hidden=32, dropout=0.0)
    for norm in (block.attention_norm, block.forward_norm):
        nn.init.normal_(norm.weight)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": block.attention.qkv.weight, "in_proj_bias": block.attention.qkv.bias,
            "out_proj.weight": block.attention.out.weight, "out_proj.bias": block.attention.out.bias,
        }
    )  # fmt: skip
    tokens, memory = torch.randn(3, 5, 16), torch.randn(3, 1, 16)
    asked = block.attention_norm(tokens)
    for extra in (None, memory):
        allowed = allowed_keys(torch.ones(3, 5, dtype=torch.bool), causal=True, extra=0 if extra is None else 1)
        seen = asked if extra is None else torch.cat([block.attention_norm(extra), asked], dim=1)
        mixed, _ = theirs(asked, seen, seen, attn_mask=~allowed[0, 0])
        attended = block.attend(tokens, allowed, extra)
        torch.testing.assert_close(attended, tokens + mixed, atol=1e-5, rtol=1e-5)
        thought = attended + block.feed_forward(block.forward_norm(attended))
        torch.testing.assert_close(block.think(attended), thought, atol=1e-6, rtol=0)
