"""The training command, whole: results, resuming, precision, and what memory is worth."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.language.networks import make_network
from experiments.language.options import BadOptions, Options, parse
from experiments.language.runs import GROUPS
from experiments.language.text import Corpus
from experiments.language.train import Training, main, read_lines, read_span
from models.vocabulary import IGNORE
from pipelines import device

FIELDS = [
    "variant", "read", "write", "layers", "d_model", "segment", "seed", "params", "epochs", "device", "train_seconds",
    "valid_ppl", "test_ppl", "flops_per_token", "command",
]  # fmt: skip
SMALL = "--layers 1 --d-model 16 --heads 2 --inner 32 --memory 24 --streams 4 --warmup 5 --dropout 0.1 --precision fp32"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A text of three sentences in random order, in WikiText-103's form."""
    rng, sentences = np.random.default_rng(0), ["the dog bites the man", "a cat sleeps on the mat", "= Cats ="]
    for part, length in (("train", 300), ("valid", 30), ("test", 30)):
        text = "\n".join(f" {sentences[k]} " for k in rng.integers(3, size=length))
        (tmp_path / f"wiki.{part}.tokens").write_text(text + "\n")
    return tmp_path


def call(folder: Path, command: str, runs: str = "runs") -> None:
    given = ["--data", str(folder), "--runs", str(folder / runs), "--results", str(folder / f"{runs}.jsonl")]
    main([*shlex.split(command), *given, "--curves", str(folder / f"{runs}.curves.jsonl")])


@pytest.mark.parametrize("variant", ["transformer", "xl", "crt", "crt --cutoffs 4,9 --read add"])
def test_a_run_appends_its_line_and_is_not_made_twice(folder: Path, variant: str):
    """Exactly the named fields; the text is learned, by the adaptive softmax too."""
    call(folder, f"{SMALL} --variant {variant} --segment 5 --epochs 6 --learning-rate 0.02")
    call(folder, f"{SMALL} --variant {variant} --segment 5 --epochs 6 --learning-rate 0.02")
    (entry,) = read_lines(folder / "runs.jsonl")
    assert list(entry) == FIELDS
    assert 1 < entry["test_ppl"] < 3
    assert entry["train_seconds"] > 0
    assert parse(entry["command"]).command() == entry["command"]
    assert parse(entry["command"]).segment == entry["segment"] == 5
    assert (entry["read"] == "none") == (not variant.startswith("crt"))
    (curve,) = read_lines(folder / "runs.curves.jsonl")
    assert [one["epoch"] for one in curve["curve"]] == list(range(1, 7))


@pytest.mark.parametrize("variant", ["xl", "crt --write ncgru", "crt --precision bf16"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(folder: Path, variant: str):
    """Stopped in the midst of an epoch, twice; weights, perplexities and curve are equal to the bit."""
    command = f"{SMALL} --variant {variant} --segment 5 --epochs 3"
    call(folder, f"{command} --save-every 5", "whole")
    for _ in range(2):
        call(folder, f"{command} --stop-after 15 --save-every 5")
        assert not read_lines(folder / "runs.jsonl")
    call(folder, f"{command} --save-every 5")
    results = [read_lines(folder / f"{runs}.jsonl")[0] for runs in ("whole", "runs")]
    for entry in results:
        entry.pop("train_seconds")
    assert results[0] == results[1]
    weights = [
        torch.load(next((folder / runs).glob("*/training.pt")), weights_only=True)["network"]
        for runs in ("whole", "runs")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_products_are_in_what_the_machine_has_unless_the_command_says(folder: Path, tmp_path: Path, monkeypatch):
    """And a run that was made in the one is not made again in the other, unless it is asked for."""
    monkeypatch.setattr(device, "_PROCESSOR", tmp_path / "cpuinfo")
    monkeypatch.setattr(device, "_DRIVER", tmp_path / "no driver")
    unsaid, made = SMALL.removesuffix("--precision fp32") + " --segment 5 --epochs 1", []
    for flags, precision in (("avx2", ""), ("avx512_bf16", ""), ("avx512_bf16", " --precision bf16")):
        (tmp_path / "cpuinfo").write_text(f"flags : fpu {flags}\n")
        call(folder, unsaid + precision)
        made.append([parse(entry["command"]).precision for entry in read_lines(folder / "runs.jsonl")])
    assert made == [["fp32"], ["fp32"], ["fp32", "bf16"]]
    call(folder, unsaid, "elsewhere")
    (entry,) = read_lines(folder / "elsewhere.jsonl")
    assert parse(entry["command"]).precision == "bf16"


def test_a_run_that_was_killed_goes_on_from_its_checkpoint(folder: Path):
    """The real process, without a chance to say goodbye."""
    command = [
        sys.executable,
        "-m",
        "experiments.language.train",
        *shlex.split(SMALL),
        "--segment",
        "5",
        "--epochs",
        "2000",
    ]
    command += [
        "--data",
        str(folder),
        "--runs",
        str(folder / "runs"),
        "--results",
        str(folder / "r"),
        "--save-every",
        "20",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if '"epoch": 3' in line:
            break
    process.kill()
    process.wait()
    process.stderr.close()
    done = subprocess.run([*command, "--stop-after", "2"], capture_output=True, text=True, check=True)
    assert "goes on at update" in done.stderr


def test_bfloat16_learns_as_float32_does():
    """The same loss after every update, within two per cent, and at the end within one."""
    text = np.random.default_rng(0).integers(5, size=20_000).cumsum() % 40  # the next word is one of five
    corpus = Corpus(*[text.astype(np.int32)] * 3, words=tuple(map(str, range(40))))
    curves = []
    for precision in ("fp32", "bf16"):
        o = Options(
            d_model=32,
            inner=64,
            memory=32,
            streams=8,
            dropout=0.0,
            warmup=10,
            learning_rate=0.01,
            precision=precision,
            device="cpu",
        )
        training = Training(o, corpus, Path("nowhere"))
        words, targets = (torch.from_numpy(text[k : 8 * 2000 + k].reshape(8, 2000)) for k in (0, 1))
        size = o.span * o.segment
        curves.append(
            [training.step(words[:, at : at + size], targets[:, at : at + size]) for at in range(0, 1900, size)]
        )
    first, second = np.array(curves)
    assert first[-1] < 2.5 < 3.5 < first[0]
    assert np.abs(second / first - 1).max() < 0.02
    assert np.abs(second / first - 1)[-5:].mean() < 0.01


def test_memory_tells_what_lies_in_earlier_segments():
    """A word is said, and asked for two segments of two words later: the CRT learns to tell it, the Transformer cannot."""
    said = np.random.default_rng(0).integers(4, size=4000)
    text = np.stack([said, *[np.full(4000, 4)] * 4, 5 + said], axis=1).flatten().astype(np.int32)
    corpus = Corpus(text, text, text, tuple("abcd.ABCD"), scored=frozenset(range(5, 9)))
    found = {}
    for variant in ("crt", "transformer"):
        o = Options(
            task="sums", variant=variant, layers=1, d_model=32, inner=32, memory=32, segment=2, span=12, streams=16, dropout=0.0,
            warmup=10, epochs=2, learning_rate=0.01, clip=5.0, precision="fp32", device="cpu",
        )  # fmt: skip
        training = Training(o, corpus, Path("nowhere"))
        training.save = lambda: None  # type: ignore[method-assign]
        training.run(save_every=10_000)
        found[variant] = training.curve[-1]["valid_ppl"]
    assert found["crt"] < 1.2
    assert found["transformer"] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("gradient", [1, 2, 4, None])
def test_gradients_run_through_as_many_segments_as_are_asked_for(gradient: int | None):
    """Seen at the embeddings of words that each stand in one segment of the four only: those whose memory reaches the last word's loss."""
    o = Options.model_validate(
        {"d_model": 16, "inner": 16, "memory": 8, "segment": 2, "heads": 2, "gradient": gradient, "dropout": 0.0}
    )
    torch.manual_seed(0)
    network = make_network(o, 20)
    words = torch.arange(8)[None]
    targets = torch.full((1, 8), IGNORE)
    targets[0, -1] = 19
    network.vocabulary.weight_VD.requires_grad_(False)
    embedded = list[torch.Tensor]()
    embed = network.vocabulary.embed

    def watched(words_BL: torch.Tensor) -> torch.Tensor:
        embedded.append(embed(words_BL).requires_grad_())
        return embedded[-1]

    network.vocabulary.embed = watched  # type: ignore[method-assign, assignment]
    loss, _ = read_span(network, o, words, targets, network.initial_state(1).detach())
    loss.backward()
    reached = [one.grad is not None and bool(one.grad.abs().sum() > 0) for one in embedded]
    assert reached == [False] * (4 - (gradient or 4)) + [True] * (gradient or 4)
    written = network.crt.writer.rnn.weight_ih_l0.grad
    assert (written is not None and bool(written.abs().sum() > 0)) == (gradient != 1)


@pytest.mark.parametrize("variant", ["xl", "crt"])
def test_what_is_remembered_passes_from_one_update_to_the_next(variant: str):
    """The second update begins with what the first one ended with; an epoch begins anew."""
    text = (np.arange(400) % 17).astype(np.int32)
    corpus = Corpus(text, text, text, tuple(map(str, range(17))))
    o = Options.model_validate(
        {"variant": variant, "d_model": 16, "inner": 16, "heads": 2, "memory": 8, "segment": 4, "span": 3, "streams": 2, "epochs": 2,
         "precision": "fp32", "device": "cpu"}
    )  # fmt: skip
    training, began, ended = Training(o, corpus, Path("nowhere")), list[torch.Tensor](), list[torch.Tensor]()
    step = training.step

    def watched(words: torch.Tensor, targets: torch.Tensor) -> float:
        began.append(training.state)
        loss = step(words, targets)
        ended.append(training.state)
        return loss

    training.step, training.save = watched, lambda: None  # type: ignore[method-assign]
    training.run(save_every=10_000)
    per_epoch = len(began) // 2
    first = training.network.initial_state(2)
    for number, (state, before) in enumerate(zip(began[1:], ended[:-1], strict=True), 1):
        assert torch.equal(state, first if number == per_epoch else before)
    assert not torch.equal(ended[0], ended[1])


def test_options_are_checked_and_a_command_says_them_all():
    """As it is written in the results it gives the same run again."""
    for group in GROUPS.values():
        for run in group():
            assert parse(run.command()) == run
    commands = [run.command() for group in GROUPS.values() for run in group()]
    assert len(set(commands)) == len(commands)
    with pytest.raises(BadOptions, match=r"--d-model: .*greater"):
        parse(["--d-model", "0"])
    with pytest.raises(BadOptions, match="span must be a multiple of gradient"):
        parse(["--gradient", "3"])
    with pytest.raises(BadOptions, match="cutoffs must be positive and rise"):
        parse(["--cutoffs", "30,20"])


def test_results_that_are_kept_have_the_named_fields_only():
    """Of every run that the tables are made from."""
    kept = Path("experiments/language/results.jsonl")
    if not kept.exists():
        pytest.skip("no results yet")
    for line in kept.read_text().splitlines():
        assert list(json.loads(line)) == FIELDS
