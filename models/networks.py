"""A checkpoint's networks, by torch; see checkpoint.py, which imports this when they are asked for."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from models.backbones import create_backbone
from models.base import Backbone, misfits
from models.config import PerClipConfig
from models.errors import BadCheckpoint, ModelError
from models.heads import Classifier, PerClipClassifier, VideoClassifier

if TYPE_CHECKING:
    from models.checkpoint import Checkpoint


def backbone(model: "Checkpoint") -> Backbone:
    """Raises BadCheckpoint, naming what is missing or contradicts itself."""
    described = model.config.backbone
    try:
        made = create_backbone(described.name, weights=None, config=described.config)
    except ModelError as error:
        raise BadCheckpoint(f"{model.folder}: backbone: {error}") from error
    here = made.spec.to_dict()
    if differing := [key for key in here if here[key] != described.spec.get(key)]:
        raise BadCheckpoint(
            f"{model.folder}: made with another version of the backbone {made.name}: "
            + ", ".join(f"{key} was {described.spec.get(key)}, is {here[key]}" for key in differing)
        )
    _fill(made, "backbone", model)
    return made.requires_grad_(False).eval()


def classifier(model: "Checkpoint") -> Classifier:
    """Raises BadCheckpoint, naming what is missing or contradicts itself."""
    config = model.config.classifier
    made = PerClipClassifier(config) if isinstance(config, PerClipConfig) else VideoClassifier(config)
    _fill(made, "classifier", model)
    return made.requires_grad_(False).eval()


def start_from(model: "Checkpoint", backbone: Backbone) -> None:
    """Gives a backbone the weights of a checkpoint's, for a training to begin with.

    They need only be of the same shapes: clips of another size are no obstacle. Raises BadCheckpoint.
    """
    _fill(backbone, "backbone", model)


def _fill(network: nn.Module, part: str, model: "Checkpoint") -> None:
    own = {
        key.removeprefix(f"{part}."): torch.from_numpy(value)
        for key, value in model.weights.items()
        if key.startswith(f"{part}.")
    }
    if problems := misfits(network, own):
        raise BadCheckpoint(f"{model.folder}: the weights are not of the {part} that is wanted: {problems}")
    network.load_state_dict(own)  # copies into float32
