"""Exported models give torch's numbers in any ONNX runtime, with the memory handed in and out."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from models import checkpoint
from models.backbones import create_backbone
from models.config import ClassifierConfig, CrtConfig
from models.heads import VideoClassifier
from pipelines import export, graphs
from pipelines.clips import clips_of
from pipelines.label import BUNDLED

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "kitchen.mp4"
STATE = ("scores", "clip_scores", "next_memory")


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    command = [sys.executable, "-m", "pipelines.export", BUNDLED, "--output", folder, "--integers", EXAMPLE]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert {line.split()[-1] for line in done.stdout.splitlines()} == {str(path) for path in folder.iterdir()}
    return folder


@pytest.fixture(scope="module")
def model() -> checkpoint.Checkpoint:
    return checkpoint.load(BUNDLED)


@pytest.fixture(scope="module")
def clips(model) -> np.ndarray:
    """Of three streams in three segments each, uint8[3, 3, L, T, H, W, 3]."""
    clips = clips_of(EXAMPLE, model.spec)
    return np.stack([clips[n : n + 9 * model.segment : 3] for n in range(3)]).reshape(
        3, 3, model.segment, *clips.shape[1:]
    )


@torch.inference_mode()
def test_a_stream_by_onnx_is_the_stream_by_torch(exported, model, clips):
    """Segment by segment with its own memory, alone or with others, with the last clips absent in the end."""
    whole, crt, backbone = (session(exported / name) for name in (export.RECOGNIZER, export.CRT, export.BACKBONE))
    first = json.loads((exported / export.SIGNATURE).read_text())["first_memory"]
    for streams in (clips, clips[:1]):
        B = len(streams)
        memory, wanted_memory = np.tile(np.float32(first), (B, 1)), model.classifier.initial_memory(B)
        for turn in range(3):
            segment = streams[:, turn]
            mask = np.tile(np.arange(model.segment) < (2 if turn == 2 else model.segment), (B, 1))
            features = model.backbone(torch.from_numpy(segment).flatten(0, 1)).unflatten(0, mask.shape)
            wanted = model.classifier(features, wanted_memory, torch.from_numpy(mask))
            wanted_memory = wanted.memory_BM
            expected = wanted.logits_BC.softmax(-1), wanted.position_logits_BLC.softmax(-1), wanted.memory_BM
            got = whole.run(STATE, {"clips": segment, "memory": memory, "mask": mask})
            (apart,) = backbone.run(None, {"clips": segment.reshape(-1, *segment.shape[2:])})
            parts = crt.run(STATE, {"features": apart.reshape(*mask.shape, -1), "memory": memory, "mask": mask})
            for one, other, right in zip(got, parts, expected, strict=True):
                if one.ndim == 3:
                    one, other, right = one[mask], other[mask], right[torch.from_numpy(mask)]
                np.testing.assert_allclose(one, right.numpy(), atol=1e-4)
                np.testing.assert_allclose(other, right.numpy(), atol=1e-4)
            memory = got[2]


def test_integers_say_the_same_of_what_is_clear(exported, clips, model):
    """Where the numbers' best label leads by a fifth or more."""
    numbers, integers = session(exported / export.RECOGNIZER), session(exported / export.INTEGERS)
    inputs = {
        "clips": clips.reshape(9, *clips.shape[2:]),
        "memory": model.classifier.initial_memory(9).numpy(),
        "mask": np.ones((9, model.segment), bool),
    }
    wanted, got = numbers.run(["scores"], inputs)[0], integers.run(["scores"], inputs)[0]
    best = np.sort(wanted, axis=1)
    clear = best[:, -1] - best[:, -2] > 0.2
    assert clear.sum() >= 3
    assert np.array_equal(wanted.argmax(1)[clear], got.argmax(1)[clear])
    assert abs(wanted - got).max() > 0
    assert (exported / export.INTEGERS).stat().st_size < (exported / export.RECOGNIZER).stat().st_size


def test_the_signature_says_all_that_a_caller_needs(exported, model):
    signature = json.loads((exported / export.SIGNATURE).read_text())
    assert (signature["digest"], signature["segment"], signature["memory"]) == (
        model.digest,
        model.segment,
        model.memory,
    )
    assert signature["labels"] == list(model.labels)
    assert signature["several"] is False
    assert signature["clip"]["rate"] == model.spec.rate
    inputs = {one.name: one.shape[1:] for one in session(exported / export.RECOGNIZER).get_inputs()}
    clip = [signature["clip"][side] for side in ("frames", "height", "width")]
    assert inputs == {"clips": [model.segment, *clip, 3], "memory": [model.memory], "mask": [model.segment]}


@torch.no_grad()
def test_other_backbones_and_writers_are_exported_too(tmp_path):
    torch.manual_seed(0)
    backbone = create_backbone("mobilenet_v3_small", weights=None)
    crt = CrtConfig(width=16, heads=2, memory=24, segment=2, writer="ncgru", reader="prepend")
    config = ClassifierConfig(feature_width=backbone.spec.feature_width, classes=2, crt=crt)
    checkpoint.save(tmp_path / "model", backbone, VideoClassifier(config), name="other", labels=["a", "b"])
    model, spec = checkpoint.load(tmp_path / "model"), backbone.spec
    export.export(checkpoint.load(tmp_path / "model"), tmp_path / "onnx")
    assert not (tmp_path / "onnx" / export.INTEGERS).exists()
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (3, 2, spec.frames, spec.height, spec.width, 3), dtype=np.uint8)
    memory, mask = model.classifier.initial_memory(3), np.ones((3, 2), bool)
    got = session(tmp_path / "onnx" / export.RECOGNIZER).run(
        STATE, {"clips": clips, "memory": memory.numpy(), "mask": mask}
    )
    features = model.backbone(torch.from_numpy(clips).flatten(0, 1)).unflatten(0, (3, 2))
    wanted = model.classifier(features, memory, torch.from_numpy(mask))
    np.testing.assert_allclose(got[0], wanted.logits_BC.softmax(-1).numpy(), atol=1e-4)
    np.testing.assert_allclose(got[2], wanted.memory_BM.numpy(), atol=1e-4)


def test_what_onnx_has_no_word_for_is_named():
    """In one line; the network trains on as before."""

    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(x)

    odd = Odd().train()
    with pytest.raises(graphs.NotExportable, match="svd") as caught:
        graphs.to_onnx(odd, {"x": torch.ones(2, 2)}, ("y",))
    assert caught.value.code == "model_not_exportable"
    assert "\n" not in str(caught.value)
    assert odd.training
