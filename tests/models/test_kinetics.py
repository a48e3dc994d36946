"""torchvision's Kinetics-400 classifiers as models: torchvision's own numbers, its labels, and clear words where weights are missing.

No weights are fetched: the tests make random ones.
"""

import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from models import checkpoint
from models.errors import BadWeights, UnknownBackbone, WeightsUnavailable
from models.kinetics import LAST
from pipelines.recognizer import Recognizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each network, with statistics that are not those of a fresh one."""
    files = {}
    for name in LAST:
        torch.manual_seed(0)
        network = torchvision.models.get_model(name)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2)
        files[name] = tmp_path_factory.mktemp("weights") / f"{name}.pth"
        torch.save(network.state_dict(), files[name])
    return files


@pytest.mark.parametrize("name", LAST)
def test_scores_are_those_of_torchvisions_network(name: str, weights: dict[str, Path]) -> None:
    """A clip's bytes normalised as published, then the whole network with its head."""
    recognizer = Recognizer(checkpoint.read(f"kinetics400:{name}@{weights[name]}"), threads=2)
    spec = recognizer.spec
    clip_THWC = np.random.default_rng(0).integers(0, 256, (spec.frames, spec.height, spec.width, 3), np.uint8)

    (feature_F,) = recognizer.features([list(clip_THWC)])
    memory_BM = recognizer.initial_memory()[None]
    found = recognizer.advance(feature_F[None, None], memory_BM, np.ones((1, 1), bool))

    network = torchvision.models.get_model(name).eval()
    network.load_state_dict(torch.load(weights[name], weights_only=True))
    clip_CTHW = torch.from_numpy(clip_THWC).permute(3, 0, 1, 2) / 255
    mean, std = (torch.tensor(one).view(3, 1, 1, 1) for one in (spec.mean, spec.std))
    with torch.no_grad():
        logits_C = network(((clip_CTHW - mean) / std)[None])[0]
    assert np.log(found.scores_BC[0]) == pytest.approx(logits_C.log_softmax(0).numpy(), abs=1e-4)
    assert np.ptp(logits_C.numpy()) > 0.05  # which tells classes apart
    assert found.memory_BM.shape == memory_BM.shape == (1, 0)
    assert recognizer.labels == tuple(torchvision.models.get_model_weights(name).DEFAULT.meta["categories"])
    assert recognizer.model.name == f"kinetics400:{name} (memoryless)"


def test_other_weights_are_another_model(weights: dict[str, Path], tmp_path: Path) -> None:
    """The digest covers all of them, the last layer too."""
    state = torch.load(weights["s3d"], weights_only=True)
    state["classifier.1.bias"][7] += 1
    torch.save(state, tmp_path / "other.pth")
    digests = {checkpoint.read(f"kinetics400:s3d@{file}").digest for file in (weights["s3d"], tmp_path / "other.pth")}
    assert len(digests) == 2


def test_a_machine_without_internet_is_told_which_file_to_put_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: dict[str, Path]
) -> None:
    """And with the file there, it is read, if it is the published one."""

    def no_internet(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", no_internet)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        WeightsUnavailable, match=rf"Place s3d-\w+\.pth in {tmp_path}/hub/checkpoints, or name it: kinetics400:s3d@FILE"
    ):
        checkpoint.read("kinetics400:s3d")


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("kinetics400:slowfast", UnknownBackbone, "kinetics400:s3d"),
        ("kinetics400:mobilenet_v3_small", UnknownBackbone, "kinetics400:s3d"),
        ("kinetics400:s3d@nowhere.pth", BadWeights, "nowhere.pth: no such file"),
    ],
)
def test_a_name_or_file_that_is_not_there_is_named(name: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        checkpoint.read(name)


def test_another_networks_weights_and_another_number_of_classes_are_refused(
    weights: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(BadWeights, match="not weights of s3d"):
        checkpoint.read(f"kinetics400:s3d@{weights['r3d_18']}")
    torch.save(torchvision.models.get_model("r3d_18", num_classes=7).state_dict(), tmp_path / "seven.pth")
    with pytest.raises(BadWeights, match=r"fc, has to give 400 scores of 512 numbers; it is \[7, 512\]"):
        checkpoint.read(f"kinetics400:r3d_18@{tmp_path / 'seven.pth'}")


def test_where_torch_is_not_installed_it_is_named() -> None:
    """As in the service's image, which serves by ONNX Runtime alone."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from models import checkpoint\n"
        "from models.errors import ModelError\n"
        "try:\n    checkpoint.read('kinetics400:s3d')\nexcept ModelError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "torch is not installed here; `pip install -r requirements.txt`" in done.stdout, done.stderr
