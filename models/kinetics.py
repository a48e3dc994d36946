"""torchvision's Kinetics-400 classifiers as models to serve: 400 labels of the world before any training, each clip for itself, no memory.

    kinetics400:NAME         NAME's published weights, from torchvision's cache or the internet
    kinetics400:NAME@FILE    a file of them, or of the same network trained on

Clips are as backbones.py says; so a label is about a second or two of video, and a video's is the mean of its clips'.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from models.backbones import create_backbone, fit_weights, published_weights, read_weights, torchvision_models
from models.checkpoint import PUBLISHED, BackboneConfig, Checkpoint, CheckpointConfig, digest_of
from models.config import PerClipConfig
from models.errors import BadWeights, UnknownBackbone

LAST = {"s3d": "classifier.1", "r3d_18": "fc", "mvit_v2_s": "head.1", "swin3d_t": "head"}
"""The layer of each that makes features scores."""


def read(name: str) -> Checkpoint:
    """The model of such a name. Raises UnknownBackbone, WeightsUnavailable and BadWeights."""
    network, _, file = name.removeprefix(PUBLISHED).partition("@")
    if network not in LAST:
        raise UnknownBackbone(
            f"there is no model {PUBLISHED}{network}; there are {', '.join(PUBLISHED + n for n in LAST)}"
        )
    named = f"name it: {PUBLISHED}{network}@FILE"
    found = read_weights(Path(file)) if file else published_weights(network, named)
    source = file or f"the published weights of {network}"
    backbone = create_backbone(network)
    fit_weights(backbone, found, source)
    meta = torchvision_models().get_model_weights(network).DEFAULT.meta
    config = CheckpointConfig(
        name=f"{PUBLISHED}{network} (memoryless)",
        digest="",
        labels=tuple(meta["categories"]),
        background=None,
        backbone=BackboneConfig(name=network, spec=backbone.spec.to_dict()),
        classifier=PerClipConfig(
            kind="per_clip", feature_width=backbone.spec.feature_width, classes=len(meta["categories"])
        ),
        card=_card(network, file, meta),
    )
    weights = {f"backbone.{key}": value.numpy() for key, value in backbone.state_dict().items()}
    weights |= _last_layer(network, found, config, source)
    config = config.model_copy(update={"digest": digest_of(weights, config)})
    return Checkpoint(Path(name), config, backbone.spec, weights, {})


def _last_layer(
    network: str, found: Mapping[str, Tensor], config: CheckpointConfig, source: str
) -> dict[str, np.ndarray]:
    """As a PerClipClassifier's. S3D's is a convolution of one pixel, whose mean over the places is that of their mean."""
    C, F = config.classifier.classes, config.classifier.feature_width
    weight, bias = (found.get(f"{LAST[network]}.{part}") for part in ("weight", "bias"))
    if weight is None or bias is None or weight.numel() != C * F or bias.shape != (C,):
        got = "none" if weight is None else str(list(weight.shape))
        raise BadWeights(
            f"{source}: the last layer, {LAST[network]}, has to give {C} scores of {F} numbers; it is {got}"
        )
    return {
        "classifier.classify.weight": weight.reshape(C, F).numpy(),
        "classifier.classify.bias": bias.numpy(),
    }


def _card(network: str, file: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    """What torchvision says; nothing of it was measured here."""
    accuracy = meta["_metrics"]["Kinetics-400"]
    return {
        "memory": "none: each clip for itself",
        "data": "Kinetics-400",
        "weights": f"the file {Path(file).name}" if file else "published with torchvision",
        "method": f"{network} as published with torchvision; {meta['recipe']}",
        "accuracy": {
            "published by torchvision, for its own weights and sampling, in percent of videos": dict(accuracy)
        },
    }
