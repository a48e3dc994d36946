"""The backbone that a training or an extraction works with: a model's own, or one of torchvision's with published or local weights."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from models import checkpoint
from models.spec import ClipSpec
from pipelines.config import BackboneChoice
from pipelines.device import Device
from pipelines.frames import Pixels
from pipelines.recognizer import Recognizer

if TYPE_CHECKING:
    from models.base import Backbone


class Look(Protocol):
    """Clips of T frames uint8[H, W, 3] to features float32[N, F]."""

    def __call__(self, clips: Sequence[Sequence[Pixels]] | np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class OpenBackbone:
    """A backbone at work."""

    spec: ClipSpec
    key: str
    """Of everything that changes a feature: name, sampling, weights, graphs."""
    look: Look


def open_backbone(choice: BackboneChoice, *, threads: int, device: Device = "cpu") -> OpenBackbone:
    """A model's or one of torchvision's. Raises BadCheckpoint; UnknownBackbone, WeightsUnavailable, BadWeights."""
    if choice.checkpoint is not None:
        model = checkpoint.read(choice.checkpoint)
        own = {key: value for key, value in model.weights.items() if key.startswith("backbone.")}
        graphs = {name: graph for name, graph in model.graphs.items() if name != "classify"}
        key = digest(device, model.config.backbone.name, model.spec, own, graphs)
        return OpenBackbone(model.spec, key, Recognizer(model, threads=threads, device=device).features)
    from models.backbones import create_backbone  # torch, which a model's own backbone does not need

    assert choice.name is not None
    made = create_backbone(choice.name, weights=choice.weights)
    weights = {name: value.numpy() for name, value in made.state_dict().items()}
    key = digest(device, choice.name, made.spec, weights, {})
    if device == "cuda":
        from pipelines.cuda_side import FixedBackbone

        return OpenBackbone(made.spec, key, FixedBackbone(made, device))
    from pipelines.torch_side import TorchBackbone

    return OpenBackbone(made.spec, key, TorchBackbone(made, threads=threads))


def ready(choice: BackboneChoice, threads: int) -> tuple["Backbone", Mapping[str, bytes], bool]:
    """What a checkpoint of this backbone holds: the network, graphs to run in its place, and whether its weights are in half precision.

    Raises what open_backbone raises.
    """
    if choice.checkpoint is None:
        from models.backbones import create_backbone

        assert choice.name is not None
        return create_backbone(choice.name, weights=choice.weights), {}, False
    model = checkpoint.read(choice.checkpoint)
    half = any(value.dtype == np.float16 for value in model.weights.values())
    graphs = Recognizer(model, threads=threads).backbone_graphs if model.graphs else {}
    return model.backbone, graphs, half


def described(choice: BackboneChoice) -> str:
    """For people."""
    if choice.checkpoint is not None:
        model = checkpoint.read(choice.checkpoint)
        return f"of the model {model.name} ({model.digest[:19]}), as it is"
    return f"{choice.name}, weights {choice.weights}, as it is"


def digest(
    device: Device, name: str, spec: ClipSpec, weights: Mapping[str, np.ndarray], graphs: Mapping[str, bytes]
) -> str:
    """16 hexadecimal digits of what changes a feature. On a GPU the arithmetic is another one, bfloat16 and without the graphs."""
    described: dict[str, Any] = {"device": device, "name": name, "spec": spec.to_dict()}
    total = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for key in sorted(weights):
        total.update(f"\n{key} {weights[key].dtype} {weights[key].shape}\n".encode())
        total.update(np.ascontiguousarray(weights[key]).tobytes())
    for key in sorted(graphs):
        total.update(f"\n{key}\n".encode() + graphs[key])
    return total.hexdigest()[:16]
