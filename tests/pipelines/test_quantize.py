"""The backbone in integers: nearly the same features, the same to the bit each time, and a checkpoint that says what it holds."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models import checkpoint
from models.backbones import create_backbone
from models.config import ClassifierConfig, CrtConfig
from models.errors import BadCheckpoint
from models.heads import VideoClassifier
from models.small import SPEC, SmallBackbone
from pipelines import graphs
from pipelines.clips import clips_of
from pipelines.label import BUNDLED
from pipelines.quantize import quantize
from pipelines.recognizer import Recognizer
from pipelines.runtime import OnnxSmall

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "kitchen.mp4"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.quantize", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    return clips_of(EXAMPLE, SPEC)


@pytest.fixture(scope="module")
def backbone() -> SmallBackbone:
    backbone = checkpoint.load(BUNDLED).backbone
    assert isinstance(backbone, SmallBackbone)
    return backbone


@pytest.fixture(scope="module")
def made(backbone, clips) -> dict[str, bytes]:
    return quantize(backbone, list(clips[::2]))


def test_features_are_nearly_those_of_the_numbers(backbone, made, clips):
    """On clips that gave no ranges; noise between features of different clips is hundreds of times larger."""
    wanted = OnnxSmall(graphs.of_backbone(backbone), threads=1)(clips[1::2])
    got = OnnxSmall(made, threads=1)(clips[1::2])
    assert 0 < (got - wanted).std() < 0.15 * wanted.std()


def test_the_same_clips_give_the_same_graphs_and_the_backbone_stays(backbone, made, clips):
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert quantize(backbone, list(clips[::2])) == made
    assert all(value.equal(before[name]) for name, value in backbone.state_dict().items())


def test_a_feature_is_the_same_to_the_bit_whoever_else_is_served(backbone, made, clips):
    shared, alone = OnnxSmall(made, threads=3), OnnxSmall(made, threads=1)
    assert np.array_equal(shared(clips), np.concatenate([alone(clips[n : n + 1]) for n in range(len(clips))]))


def test_weights_of_convolutions_keep_to_seven_bits(made):
    """So that processors without VNNI get the same sums."""
    for graph in made.values():
        weights = [numpy_helper.to_array(one) for one in onnx.load_from_string(graph).graph.initializer]
        kernels = [one for one in weights if one.dtype == np.int8 and one.ndim == 4]
        assert len(kernels) >= 7
        assert all(abs(one.astype(int)).max() <= 64 for one in kernels)


def test_no_clips_are_refused(backbone):
    with pytest.raises(ValueError, match="no clip"):
        quantize(backbone, [])


def test_by_command(tmp_path):
    done = run(BUNDLED, EXAMPLE, "--output", tmp_path / "integers")
    assert done.returncode == 0, done.stderr
    whole, model = checkpoint.load(BUNDLED), checkpoint.load(tmp_path / "integers")
    assert model.digest in done.stdout
    assert set(model.graphs) == {"look_over", "look_closer", "classify"}
    assert model.card == whole.card
    assert model.digest != whole.digest


def test_a_graph_that_is_missing_or_anothers_is_refused(tmp_path, made):
    digest = checkpoint.with_graphs(BUNDLED, tmp_path / "model", made)
    assert checkpoint.load(tmp_path / "model").digest == digest
    (tmp_path / "model" / "look_over.onnx").write_bytes(made["look_closer"])
    with pytest.raises(BadCheckpoint, match=r"look_over\.onnx is not the one"):
        checkpoint.load(tmp_path / "model")
    (tmp_path / "model" / "look_over.onnx").unlink()
    with pytest.raises(BadCheckpoint, match=r"no look_over\.onnx"):
        checkpoint.load(tmp_path / "model")


def test_a_digest_covers_the_graphs(tmp_path, made):
    checkpoint.with_graphs(BUNDLED, tmp_path, made)
    config = json.loads((tmp_path / "config.json").read_text())
    config["graphs"] = {}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadCheckpoint, match="do not belong together"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"look_over": b"", "look_closer": b"", "classify": b""}, "cannot run"),
        ({"look_over": b"no graph"}, "not look_over"),
        ({"look_over": b"no graph", "look_closer": b"no graph", "classify": b"no graph"}, "no ONNX"),
    ],
)
def test_graphs_that_are_none_are_refused(tmp_path, given, message):
    checkpoint.with_graphs(BUNDLED, tmp_path, given)
    with pytest.raises(BadCheckpoint, match=message):
        Recognizer(checkpoint.read(tmp_path), threads=1)


def test_a_model_of_another_backbone_is_told_what_can_be_had(tmp_path):
    other = create_backbone("mobilenet_v3_small", weights=None)
    config = ClassifierConfig(
        feature_width=other.spec.feature_width, classes=2, crt=CrtConfig(width=16, heads=2, memory=16)
    )
    checkpoint.save(tmp_path / "other", other, VideoClassifier(config), name="other", labels=["a", "b"])
    done = run(tmp_path / "other", EXAMPLE, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "only the backbone small" in done.stderr
    assert not (tmp_path / "out").exists()
