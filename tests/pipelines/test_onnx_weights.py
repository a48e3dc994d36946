"""Graphs without the weights that a checkpoint holds: what is put back is the same to the bit, and what cannot be is named."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from models import checkpoint
from models.config import ClassifierConfig, CrtConfig
from models.errors import BadCheckpoint
from models.heads import VideoClassifier
from models.small import SmallBackbone
from pipelines import graphs
from pipelines.label import BUNDLED
from pipelines.onnx_weights import fill, strip
from pipelines.quantize import quantize

ROOT = Path(__file__).parents[2]


def arrays(graph: bytes) -> dict[str, np.ndarray]:
    return {one.name: numpy_helper.to_array(one) for one in onnx.load_from_string(graph).graph.initializer}


def same(a: bytes, b: bytes) -> bool:
    """All of the arrays, to the bit, and the nodes between them."""
    left, right = arrays(a), arrays(b)
    nodes = [onnx.load_from_string(graph).graph.node for graph in (a, b)]
    return (
        left.keys() == right.keys()
        and all(left[key].dtype == right[key].dtype and np.array_equal(left[key], right[key]) for key in left)
        and [n.SerializeToString() for n in nodes[0]] == [n.SerializeToString() for n in nodes[1]]
    )


@pytest.fixture(scope="module")
def backbone() -> SmallBackbone:
    """With norms as training leaves them."""
    torch.manual_seed(3)
    made = SmallBackbone().eval()
    for name, value in made.state_dict().items():
        if name.endswith(("running_var", "running_mean")):
            value.uniform_(0.2, 2.0)
    return made.half().float()


@pytest.mark.parametrize("crt", [{}, {"reader": "cross_attention"}, {"writer": "ncgru"}, {"writer": "none"}], ids=str)
@pytest.mark.parametrize("half", [False, True])
def test_a_crt_comes_back_to_the_bit(backbone, crt, half):
    torch.manual_seed(4)
    classifier = VideoClassifier(ClassifierConfig(feature_width=256, classes=5, crt=CrtConfig(**crt))).eval()
    if half:
        classifier.half().float()
    weights, whole = checkpoint.weights_of(backbone, classifier, half=half), graphs.classify(classifier)
    stripped = strip(whole, weights)
    assert same(fill(stripped, weights), whole)
    if crt.get("writer") != "ncgru":  # whose matrices are made from the weights in ways of their own
        assert len(stripped) < 0.06 * len(whole)


def test_a_backbone_in_integers_comes_back_to_the_bit(backbone):
    classifier = VideoClassifier(ClassifierConfig(feature_width=256, classes=5))
    weights = checkpoint.weights_of(backbone, classifier, half=True)
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 240, 320, 3), dtype=np.uint8)
    for whole in quantize(backbone, list(clips)).values():
        stripped = strip(whole, weights)
        assert len(stripped) < 100_000
        assert same(fill(stripped, weights), whole)


def test_other_weights_give_other_arrays(backbone):
    """It is the weights that come back, not a copy of them."""
    classifier = VideoClassifier(ClassifierConfig(feature_width=256, classes=5)).eval()
    weights, whole = checkpoint.weights_of(backbone, classifier), graphs.classify(classifier)
    key = "classifier.project.2.weight"
    changed = {**weights, key: weights[key] + 1}
    assert not same(fill(strip(whole, weights), changed), whole)


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights_that_do_not_fit_are_named(backbone, change):
    classifier = VideoClassifier(ClassifierConfig(feature_width=256, classes=5)).eval()
    weights = checkpoint.weights_of(backbone, classifier)
    stripped, key = strip(graphs.classify(classifier), weights), "classifier.project.2.weight"
    if change == "missing":
        del weights[key]
    else:
        weights[key] = weights[key][:-1]
    with pytest.raises(BadCheckpoint, match=r"a graph wants .*MatMul.* \[256, 128\], which the weights do not give"):
        fill(stripped, weights)


def test_the_service_and_labelling_need_no_torch():
    """With the bundled model: it is half of the memory and of the start."""
    code = (
        "import sys; import pipelines.label; from app.main import create_app; from app.settings import Settings; "
        "create_app(Settings.read()); print(sorted({'torch', 'torchvision'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "classify" in checkpoint.read(BUNDLED).graphs
