"""Backbones by name: specs as published, features of the promised shape, and weights from a file or a clear error.

No weights are fetched: each test makes the file that it loads.
"""

import math
import pickle
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models._api import WeightsEnum

from models.backbones import NAMES, PUBLISHED, create_backbone
from models.base import Backbone
from models.errors import BadWeights, UnknownBackbone, WeightsUnavailable
from models.small import SPEC, halves, look
from models.spec import LOOK

IMAGE = ("mobilenet_v3_small", "mobilenet_v3_large")


def clips(backbone: Backbone, count: int) -> Tensor:
    spec = backbone.spec
    return torch.randint(0, 256, (count, spec.frames, spec.height, spec.width, 3), dtype=torch.uint8)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_every_name_turns_clips_into_features(name: str) -> None:
    """One finite float32 vector of the spec's width per clip, in evaluation mode."""
    backbone = create_backbone(name)
    features = backbone(clips(backbone, 1))

    assert features.shape == (1, backbone.spec.feature_width)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    assert not backbone.training
    assert (backbone.name, backbone.config) == (name, {})


@pytest.mark.parametrize("name", PUBLISHED)
def test_specs_are_those_of_the_published_weights(name: str) -> None:
    """Normalisation, crop and least number of frames, as torchvision itself says."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    published, spec = weights.transforms(), PUBLISHED[name].spec

    assert (list(spec.mean), list(spec.std)) == (list(published.mean), list(published.std))
    assert [spec.height, spec.width] == (list(published.crop_size) * 2)[:2]
    assert spec.fit == "crop"
    if name not in IMAGE:
        assert spec.frames >= weights.meta.get("min_temporal_size", 1)
        assert name == "s3d" or f"`clip_len={spec.frames}`" in weights.meta["_docs"]
        assert f"`frame_rate={spec.rate:g}`" in weights.meta["_docs"]


@torch.no_grad()
def test_an_image_backbone_pools_over_time() -> None:
    """Mean, then mean absolute difference, of what torchvision's own network and transforms give for each frame."""
    backbone = create_backbone("mobilenet_v3_small")
    batch = clips(backbone, 2)
    transforms = torchvision.models.MobileNet_V3_Small_Weights.DEFAULT.transforms(resize_size=224)
    net = backbone.net
    frames = torch.stack([net(transforms(clip.permute(0, 3, 1, 2))) for clip in batch])

    features = backbone(batch)
    torch.testing.assert_close(features[:, :576], frames.mean(dim=1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(features[:, 576:], frames.diff(dim=1).abs().mean(dim=1), atol=1e-4, rtol=1e-4)

    still = backbone(batch[:, :1].expand_as(batch))
    assert still[:, 576:].abs().max() < 1e-4, "where nothing moves, the difference is nothing"


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "small"])
@torch.no_grad()
def test_a_clips_feature_does_not_depend_on_its_batch(name: str) -> None:
    """Alone or among others."""
    backbone = create_backbone(name)
    batch = clips(backbone, 3)
    torch.testing.assert_close(backbone(batch)[1:2], backbone(batch[1:2]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_fit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's whole network, classification layers included, fits by name: here one made on the spot."""
    whole = torchvision.models.get_model(name, weights=None).state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **_: whole)
    backbone = create_backbone(name, weights="published")
    loaded = backbone.state_dict()

    assert loaded
    assert all(torch.equal(value, whole[key.removeprefix("net.")]) for key, value in loaded.items())
    left_out = {key.split(".")[0] for key in whole} - {key.split(".")[1] for key in loaded}
    assert left_out == set(PUBLISHED[name].head)


@pytest.mark.parametrize("ending", ["pth", "pt", "safetensors"])
@pytest.mark.parametrize("names", ["torchvision's", "ours"])
def test_a_local_file_makes_the_same_backbone(ending: str, names: str, tmp_path: Path) -> None:
    """From torchvision's whole network or a saved backbone, in either format."""
    first = create_backbone("mobilenet_v3_small")
    whole = torchvision.models.mobilenet_v3_small(weights=None)
    state = first.state_dict()
    if names == "torchvision's":
        state = whole.state_dict() | {key.removeprefix("net."): value for key, value in state.items()}
    file = tmp_path / f"weights.{ending}"
    if ending == "safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)

    second = create_backbone("mobilenet_v3_small", weights=file)
    for key, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[key], value)


def test_our_own_backbone_loads_from_a_file(tmp_path: Path) -> None:
    """Its state_dict, as training saves it."""
    first = create_backbone("small")
    torch.save(first.state_dict(), tmp_path / "small.pth")
    second = create_backbone("small", weights=tmp_path / "small.pth")
    batch = clips(first, 1)
    with torch.no_grad():
        assert torch.equal(first(batch), second(batch))


class Trap:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    """A pickle that would act on loading is refused, and has not acted."""
    file = tmp_path / "trap.pth"
    file.write_bytes(pickle.dumps(Trap(tmp_path / "sprung"), protocol=2))
    with pytest.raises(BadWeights, match="not a file of weights"):
        create_backbone("mobilenet_v3_small", weights=file)
    torch.save({"features": Trap(tmp_path / "sprung")}, file)
    with pytest.raises(BadWeights, match="not a file of weights"):
        create_backbone("mobilenet_v3_small", weights=file)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["empty.pth", "noise.pth", "noise.pt", "noise.safetensors", "empty.safetensors"])
def test_a_file_that_is_no_weights_is_named(name: str, tmp_path: Path) -> None:
    """BadWeights with the path, in one line."""
    (tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"these are not weights" * 50)
    with pytest.raises(BadWeights, match=name) as caught:
        create_backbone("s3d", weights=tmp_path / name)
    assert "\n" not in str(caught.value)
    assert caught.value.code == "weights_bad"


def test_other_mistakes_with_files_are_told_apart(tmp_path: Path) -> None:
    """Absent, of another kind, without names, of another network, of another shape."""

    def load(file: Path) -> None:
        create_backbone("mobilenet_v3_small", weights=file)

    with pytest.raises(BadWeights, match="no such file"):
        load(tmp_path / "absent.pth")
    (tmp_path / "weights.onnx").touch()
    with pytest.raises(BadWeights, match=r"\.pth, \.pt or \.safetensors"):
        load(tmp_path / "weights.onnx")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(BadWeights, match="table of named tensors"):
        load(tmp_path / "list.pth")
    torch.save(torchvision.models.mobilenet_v3_large(weights=None).state_dict(), tmp_path / "large.pth")
    with pytest.raises(BadWeights, match=r"not weights of mobilenet_v3_small: .* and \d+ more"):
        load(tmp_path / "large.pth")
    state = create_backbone("mobilenet_v3_small").state_dict()
    state["net.features.0.0.weight"] = torch.zeros(16, 1, 3, 3)
    torch.save(state, tmp_path / "grey.pth")
    with pytest.raises(BadWeights, match=r"is \[16, 1, 3, 3\] and would have to be \[16, 3, 3, 3\]"):
        load(tmp_path / "grey.pth")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without internet and with an empty cache; returns the folder where torch keeps weights."""

    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("name", PUBLISHED)
def test_without_internet_the_error_says_which_file_goes_where(name: str, offline: Path) -> None:
    """The file's name, the folder, and that a path can be given."""
    file = Path(torchvision.models.get_model_weights(name).DEFAULT.url).name
    with pytest.raises(WeightsUnavailable, match="could not be fetched") as caught:
        create_backbone(name, weights="published")
    assert f"Place {file} in {offline}, or give its path as weights." in str(caught.value)


def test_without_internet_a_file_placed_there_is_taken(offline: Path) -> None:
    """As the error said; and a damaged one is told from an absent one."""
    file = offline / Path(torchvision.models.MobileNet_V3_Small_Weights.DEFAULT.url).name
    whole = torchvision.models.mobilenet_v3_small(weights=None).state_dict()
    offline.mkdir()
    torch.save(whole, file)
    loaded = create_backbone("mobilenet_v3_small", weights="published").state_dict()
    assert torch.equal(loaded["net.features.0.0.weight"], whole["features.0.0.weight"])

    for damaged in (b"cut off", pickle.dumps(Trap(offline / "sprung"), protocol=2)):
        file.write_bytes(damaged)
        with pytest.raises(BadWeights, match="Remove it"):
            create_backbone("mobilenet_v3_small", weights="published")
    assert not (offline / "sprung").exists()


def test_our_own_has_no_published_weights() -> None:
    """Its weights come with a checkpoint."""
    with pytest.raises(WeightsUnavailable, match="come with a checkpoint"):
        create_backbone("small", weights="published")


def test_an_unknown_name_lists_the_known_ones() -> None:
    """All of them."""
    with pytest.raises(UnknownBackbone, match=", ".join(NAMES)) as caught:
        create_backbone("resnet152")
    assert caught.value.code == "backbone_unknown"


@pytest.mark.parametrize("change", ["float", "channels first", "frames", "size", "no batch"])
def test_clips_of_another_shape_are_named(change: str) -> None:
    """What the backbone reads and what came."""
    backbone = create_backbone("mobilenet_v3_small")
    batch = clips(backbone, 1)
    wrong = {
        "float": batch.float(),
        "channels first": batch.permute(0, 1, 4, 2, 3),
        "frames": batch[:, :3],
        "size": batch[:, :, :200],
        "no batch": batch[0],
    }[change]
    with pytest.raises(ValueError, match=r"reads clips uint8\[B, 4, 224, 224, 3\], got torch\.") as caught:
        backbone(wrong)
    assert str(list(wrong.shape)) in str(caught.value).replace("torch.float32", "").replace("torch.uint8", "")


def test_a_closer_look_is_as_sharp_as_the_picture() -> None:
    """Of a small square every pixel is seen, of the whole picture the mean of those that fall together; outside is nothing."""
    pictures = torch.zeros(1, 12, SPEC.height, SPEC.width)
    pictures[..., ::2] = 255.0  # stripes, one pixel wide
    levels = halves(pictures)
    side = LOOK / SPEC.height
    near = look(levels, torch.tensor([[0.5, 0.5, math.log(side)]]))
    assert near.shape == (1, 12, LOOK, LOOK)
    assert near.std() > 1.5  # black and white
    far = look(levels, torch.tensor([[0.5, 0.5, math.log(4 * side)]]))
    assert far.abs().max() < 0.3  # all grey
    corner = look(levels, torch.tensor([[0.0, 0.0, math.log(side)]]))
    assert (corner[..., : LOOK // 2 - 1] == 0).all()
    assert corner[..., LOOK // 2 + 1 :, LOOK // 2 + 1 :].std() > 1.5
