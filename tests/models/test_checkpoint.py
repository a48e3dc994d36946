"""Checkpoints: what is saved comes back, the digest names it, and a bad folder is one clear error."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from models import checkpoint, networks
from models.backbones import create_backbone
from models.base import Backbone
from models.config import ClassifierConfig, CrtConfig
from models.errors import BadCheckpoint, CrtError
from models.heads import VideoClassifier

LABELS = ["Walk", "Sitdown", "background"]
CARD = {"data": "none", "accuracy": {"mean_class": 0.5}}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(1)
    return create_backbone("small")


@pytest.fixture
def classifier(backbone: Backbone) -> VideoClassifier:
    crt = CrtConfig(width=16, memory=12, heads=2, hidden=24, segment=3, writer="ncgru")
    return VideoClassifier(ClassifierConfig(feature_width=backbone.spec.feature_width, classes=3, crt=crt))


@pytest.fixture
def save(tmp_path: Path, backbone: Backbone, classifier: VideoClassifier) -> Any:
    """Saves to a folder named so, and returns the folder."""

    def save(folder: str = "model", **changes: Any) -> Path:
        arguments = dict(name="tiny", labels=LABELS, background="background", card=CARD) | changes
        checkpoint.save(tmp_path / folder, backbone, classifier, **arguments)
        return tmp_path / folder

    return save


def edit(folder: Path, **changes: Any) -> None:
    """Changes fields of config.json; None removes one."""
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


@torch.no_grad()
def test_what_is_saved_comes_back(save: Any, backbone: Backbone, classifier: VideoClassifier) -> None:
    """Features, scores and memory bit for bit; labels, background, shapes, card; ready for evaluation in float32."""
    loaded = checkpoint.load(save())
    spec = backbone.spec

    assert (loaded.name, loaded.labels, loaded.background, loaded.card) == ("tiny", tuple(LABELS), "background", CARD)
    assert (loaded.spec, loaded.segment, loaded.memory) == (spec, 3, 12)
    assert not loaded.backbone.training
    assert not loaded.classifier.training
    parameters = [*loaded.backbone.parameters(), *loaded.classifier.parameters()]
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in parameters)

    clips = torch.randint(0, 256, (3, spec.frames, spec.height, spec.width, 3), dtype=torch.uint8)
    features = backbone.eval()(clips)
    assert torch.equal(loaded.backbone(clips), features)
    memory = classifier.initial_memory(1)
    torch.testing.assert_close(loaded.classifier(features[None], memory), classifier.eval()(features[None], memory))


def test_the_digest_names_what_changes_a_score(save: Any, classifier: VideoClassifier) -> None:
    """Saving again, another name or card: the same. Labels in another order, a background, one weight: another."""
    digest = checkpoint.load(save()).digest
    assert digest.startswith("sha256:")
    assert len(digest) == 71

    assert checkpoint.load(save("again")).digest == digest
    assert checkpoint.load(save("other_card", name="other", card={})).digest == digest
    assert checkpoint.load(save("labels", labels=LABELS[::-1])).digest != digest
    assert checkpoint.load(save("no_background", background=None)).digest != digest
    with torch.no_grad():
        classifier.classify.bias[0] += 1e-6
    assert checkpoint.load(save("weight")).digest != digest


@torch.no_grad()
def test_half_precision_halves_the_file(save: Any) -> None:
    """It loads as float32, with nearly the same weights and a digest of its own."""
    whole, half = save(), save("half", half=True)
    assert (half / "model.safetensors").stat().st_size < 0.55 * (whole / "model.safetensors").stat().st_size
    a, b = checkpoint.load(whole), checkpoint.load(half)
    assert a.digest != b.digest
    assert b.classifier.classify.weight.dtype == torch.float32
    torch.testing.assert_close(a.classifier.classify.weight, b.classifier.classify.weight, atol=1e-3, rtol=1e-3)


def test_saving_over_a_checkpoint_replaces_it_whole(save: Any) -> None:
    """The folder holds the two files and nothing else, readable by others as files here usually are."""
    save()
    folder = save(name="second")
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    assert checkpoint.load(folder).name == "second"
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(save: Any, file: str) -> None:
    """With what a checkpoint consists of."""
    folder = save()
    (folder / file).unlink()
    with pytest.raises(BadCheckpoint, match=f"no {file}; a checkpoint is a folder with"):
        checkpoint.load(folder)


def test_no_folder_is_the_same_error(tmp_path: Path) -> None:
    """A path to nowhere has no config.json; the error has a code and is a CrtError."""
    with pytest.raises(CrtError, match=r"no config\.json") as caught:
        checkpoint.load(tmp_path / "nowhere")
    assert caught.value.code == "checkpoint_bad"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(labels=None), "labels: Field required"),
        (dict(labels=["a", "b"]), "2 labels for a classifier of 3 classes"),
        (dict(labels=["a", "a", "background"]), "differ from each other"),
        (dict(background="Fall"), "'Fall' is none of the labels"),
        (dict(format=2), "format"),
        (dict(colour="blue"), "colour"),
        (dict(labels=LABELS[::-1]), "do not belong together"),
        (dict(digest="sha256:0"), "do not belong together"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(save: Any, changes: dict[str, Any], says: str) -> None:
    """By the field that is wrong."""
    folder = save()
    edit(folder, **changes)
    with pytest.raises(BadCheckpoint, match=says):
        checkpoint.load(folder)


def test_a_config_that_is_not_json_is_refused(save: Any) -> None:
    """As one cut off in the middle."""
    folder = save()
    (folder / "config.json").write_text('{"name": "ti')
    with pytest.raises(BadCheckpoint, match=r"config\.json: .*JSON"):
        checkpoint.load(folder)


@pytest.mark.parametrize("damage", ["cut", "noise", "pickle", "empty"])
def test_damaged_weights_are_refused(save: Any, damage: str) -> None:
    """A file that is not a whole safetensors file is one error; a pickle is never opened."""
    weights = save() / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(
        {"cut": whole[: len(whole) // 2], "noise": os.urandom(5000), "pickle": pickle.dumps({}), "empty": b""}[damage]
    )
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors: not a whole safetensors file"):
        checkpoint.load(weights.parent)


def test_one_flipped_weight_is_noticed(save: Any) -> None:
    """The digest in config.json is checked, not believed."""
    folder = save()
    weights = load_file(folder / "model.safetensors")
    weights["classifier.classify.bias"][0] += 1
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BadCheckpoint, match="do not belong together"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w, c: w.pop("classifier.classify.bias"), r"classifier.*classify\.bias is missing"),
        (lambda w, c: w.update({"backbone.extra": np.zeros(1, np.float32)}), r"backbone.*extra is unknown"),
        (
            lambda w, c: w.update({"classifier.classify.bias": np.zeros(4, np.float32)}),
            r"is \[4\] and would have to be \[3\]",
        ),
        (lambda w, c: c["backbone"].update(name="vgg"), "no backbone is named 'vgg'"),
        (lambda w, c: c["backbone"].update(config={"depth": 3}), "no such setting"),
        (lambda w, c: c["backbone"]["spec"].update(rate=99.0), "rate was 99.0, is"),
        (lambda w, c: c["backbone"]["spec"].pop("rate"), "spec: missing rate"),
    ],
)
def test_another_networks_weights_are_refused(save: Any, change: Any, says: str) -> None:
    """Even where the digest is right, as from another version of this program: by name and shape."""
    folder = save()
    weights = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    change(weights, config)
    config["digest"] = checkpoint.digest_of(weights, checkpoint.CheckpointConfig.model_validate(config))
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadCheckpoint, match=says):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(labels=["a"]), "1 labels for a classifier of 3"),
        (dict(background="Fall"), "none of the labels"),
        (dict(name=""), "name"),
    ],
)
def test_nothing_wrong_is_saved(save: Any, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    """A ValueError, and no folder."""
    with pytest.raises(ValueError, match=says):
        save(**changes)
    assert not (tmp_path / "model").exists()


def test_a_backbone_and_a_classifier_that_do_not_fit_are_not_saved(tmp_path: Path, backbone: Backbone) -> None:
    """The classifier reads the features that the backbone gives."""
    with pytest.raises(ValueError, match="reads 7"):
        checkpoint.save(
            tmp_path, backbone, VideoClassifier(ClassifierConfig(feature_width=7, classes=1)), name="x", labels=["a"]
        )


def test_a_training_can_begin_with_a_checkpoints_backbone(save: Any, backbone: Backbone) -> None:
    """Its weights; clips of another size do not matter, another network does."""
    folder = save()
    spec = json.loads((folder / "config.json").read_text())["backbone"]
    torch.manual_seed(2)
    other = create_backbone("small")
    networks.start_from(checkpoint.read(folder), other)
    for key, value in other.state_dict().items():
        assert torch.equal(value, backbone.state_dict()[key]), key
    assert spec["name"] == "small"
    with pytest.raises(BadCheckpoint, match="not of the backbone that is wanted"):
        networks.start_from(checkpoint.read(folder), create_backbone("mobilenet_v3_small"))
