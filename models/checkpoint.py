"""A trained model as a folder, and back: the only file in models/ that reads or writes, but for backbones.py, which loads
published or local weights.

    model.safetensors   weights of the backbone ("backbone.*") and the classifier ("classifier.*")
    config.json         what they are the weights of: names, shapes, labels, preprocessing, data, accuracy, digest
    NAME.onnx           networks to run in place of the backbone's own, if there are any (pipelines/quantize.py)

No pickles, so that loading runs no code from the folder. The digest covers everything that changes a score: weights,
graphs, shapes, preprocessing, the order of the labels. It names the model wherever a memory is kept, and a folder whose parts
do not belong together is refused.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from models.backbones import create_backbone
from models.base import Backbone, misfits
from models.errors import BadCheckpoint, ModelError
from models.heads import ClassifierConfig, VideoClassifier
from models.spec import ClipSpec

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


class BackboneConfig(BaseModel):
    """The backbone's part of config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    config: dict[str, Any] = {}
    spec: dict[str, Any]


class CheckpointConfig(BaseModel):
    """config.json, checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: Literal[1] = 1
    """Of this file."""
    name: str = Field(min_length=1)
    """For people; the digest is what tells models apart."""
    digest: str
    """"sha256:" and 64 hexadecimal digits."""
    labels: tuple[str, ...] = Field(min_length=1)
    """Of the classes, in order."""
    background: str | None
    """The label that says that nothing happens, if there is one."""
    backbone: BackboneConfig
    classifier: ClassifierConfig
    graphs: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], str] = {}
    """SHA-256 of each NAME.onnx."""
    card: dict[str, Any] = {}
    """Data, method, measured accuracy: for people."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ from each other")
        if len(self.labels) != self.classifier.classes:
            raise ValueError(f"{len(self.labels)} labels for a classifier of {self.classifier.classes} classes")
        if self.background is not None and self.background not in self.labels:
            raise ValueError(f"the background {self.background!r} is none of the labels")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A model ready for use: its networks are in evaluation mode and float32."""

    name: str
    """For people; the digest is what tells models apart."""
    digest: str
    """"sha256:..." of all that changes a score."""
    labels: tuple[str, ...]
    """Of the classes, in the order of the scores."""
    background: str | None
    """The label that says that nothing happens, if there is one."""
    backbone: Backbone
    classifier: VideoClassifier
    card: dict[str, Any]
    """Data, method, measured accuracy: JSON values."""
    graphs: Mapping[str, bytes] = field(default_factory=dict)
    """ONNX, by name: what is to be run in place of the backbone's networks."""

    @property
    def spec(self) -> ClipSpec:
        """Which clips the backbone reads."""
        return self.backbone.spec

    @property
    def segment(self) -> int:
        """L, clips in a full segment."""
        return self.classifier.config.crt.segment

    @property
    def memory(self) -> int:
        """M, numbers in a stream's memory."""
        return self.classifier.config.crt.memory


def save(
    folder: Path | str,
    backbone: Backbone,
    classifier: VideoClassifier,
    *,
    name: str,
    labels: Sequence[str],
    background: str | None = None,
    card: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    graphs: Mapping[str, bytes] | None = None,
) -> str:
    """Writes the folder, made if need be, and returns the digest.

    dtype: how floating-point weights are stored; float16 halves the file, and loading gives float32 either way.
    graphs: ONNX to run in place of the backbone's networks, by name.
    Raises ValueError for labels, background and shapes that do not fit together.
    """
    folder = Path(folder)
    if backbone.spec.feature_width != classifier.config.feature_width:
        raise ValueError(
            f"the backbone gives features of {backbone.spec.feature_width} numbers, "
            f"the classifier reads {classifier.config.feature_width}"
        )
    parts = {"backbone": backbone, "classifier": classifier}
    weights = {
        f"{part}.{key}": stored(value, dtype)
        for part, module in parts.items()
        for key, value in module.state_dict().items()
    }
    config = CheckpointConfig(
        name=name,
        digest="",
        labels=tuple(labels),
        background=background,
        backbone=BackboneConfig(name=backbone.name, config=backbone.config, spec=backbone.spec.to_dict()),
        classifier=classifier.config,
        card=dict(card or {}),
    )
    return _write(folder, config, weights, graphs or {})


def with_graphs(folder: Path | str, target: Path | str, graphs: Mapping[str, bytes]) -> str:
    """Writes the checkpoint in `folder` once more, to `target`, with these graphs in place of those it had; returns the new digest.

    Raises BadCheckpoint.
    """
    config, weights, _ = _read(Path(folder))
    return _write(Path(target), config, weights, graphs)


def _write(folder: Path, config: CheckpointConfig, weights: dict[str, Tensor], graphs: Mapping[str, bytes]) -> str:
    sums = {name: hashlib.sha256(graph).hexdigest() for name, graph in sorted(graphs.items())}
    config = CheckpointConfig.model_validate(config.model_dump() | {"graphs": sums})
    config = config.model_copy(update={"digest": digest_of(weights, config)})
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=folder
    ) as staging:  # same file system, so each file appears whole or not at all
        Path(staging, WEIGHTS).write_bytes(to_safetensors(weights))
        Path(staging, CONFIG).write_text(json.dumps(config.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
        for name, graph in graphs.items():
            Path(staging, f"{name}.onnx").write_bytes(graph)
        for file in (WEIGHTS, *(f"{name}.onnx" for name in graphs), CONFIG):
            os.replace(Path(staging, file), folder / file)
    return config.digest


def _read(folder: Path) -> tuple[CheckpointConfig, dict[str, Tensor], dict[str, bytes]]:
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise BadCheckpoint(f"{folder}: no {file}; a checkpoint is a folder with {CONFIG} and {WEIGHTS}")
    config = read_config(folder / CONFIG)
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(f"{folder / WEIGHTS}: not a whole safetensors file ({error})") from error
    if (digest := digest_of(weights, config)) != config.digest:
        raise BadCheckpoint(
            f"{folder}: {WEIGHTS} and {CONFIG} do not belong together: they make {digest}, "
            f"{CONFIG} says {config.digest}. Take both from one save."
        )
    graphs = {}
    for name, wanted in config.graphs.items():
        path = folder / f"{name}.onnx"
        if not path.is_file():
            raise BadCheckpoint(f"{folder}: no {path.name}, which {CONFIG} names")
        graphs[name] = path.read_bytes()
        if hashlib.sha256(graphs[name]).hexdigest() != wanted:
            raise BadCheckpoint(f"{path} is not the one that {CONFIG} names. Take all files from one save.")
    return config, weights, graphs


def start_from(folder: Path | str, backbone: Backbone) -> str:
    """Gives a backbone the weights of a checkpoint's, for a training to begin with; returns the checkpoint's digest.

    They need only be of the same shapes: clips of another size are no obstacle. Raises BadCheckpoint.
    """
    config, weights, _ = _read(Path(folder))
    own = {key.removeprefix("backbone."): value for key, value in weights.items() if key.startswith("backbone.")}
    if problems := misfits(backbone, own):
        raise BadCheckpoint(f"{folder}: its backbone is no {backbone.name} to begin with: {problems}")
    backbone.load_state_dict(own)
    return config.digest


def load(folder: Path | str, device: torch.device | str = "cpu") -> Checkpoint:
    """Raises BadCheckpoint, naming what is missing or contradicts itself."""
    folder = Path(folder)
    config, weights, graphs = _read(folder)
    try:
        backbone = create_backbone(config.backbone.name, weights=None, config=config.backbone.config)
    except ModelError as error:
        raise BadCheckpoint(f"{folder / CONFIG}: backbone: {error}") from error
    spec = backbone.spec.to_dict()
    if differing := [key for key in spec if spec[key] != config.backbone.spec.get(key)]:
        raise BadCheckpoint(
            f"{folder / CONFIG}: made with another version of the backbone {backbone.name}: "
            + ", ".join(f"{key} was {config.backbone.spec.get(key)}, is {spec[key]}" for key in differing)
        )
    classifier = VideoClassifier(config.classifier)
    for part, module in (("backbone", backbone), ("classifier", classifier)):
        own = {key.removeprefix(f"{part}."): value for key, value in weights.items() if key.startswith(f"{part}.")}
        if problems := misfits(module, own):
            raise BadCheckpoint(f"{folder}: the weights are not of the {part} that {CONFIG} describes: {problems}")
        module.load_state_dict(own)  # copies into float32
        module.requires_grad_(False).eval().to(device)
    return Checkpoint(
        config.name, config.digest, config.labels, config.background, backbone, classifier, config.card, graphs
    )


def read_config(path: Path) -> CheckpointConfig:
    """config.json, checked. Raises BadCheckpoint, naming the field."""
    try:
        return CheckpointConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise BadCheckpoint(f"{path}: {problems}") from error


def stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """As it goes to the file: counters keep their type."""
    tensor = tensor.detach().cpu()
    return (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()


def digest_of(weights: Mapping[str, Tensor], config: CheckpointConfig) -> str:
    """Over names, types, shapes and bytes of the weights and the fields of the config that change a score."""
    fields = config.model_dump(mode="json", include={"format", "labels", "background", "backbone", "classifier"})
    if config.graphs:
        fields["graphs"] = config.graphs
    total = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for key in sorted(weights):
        tensor = weights[key].contiguous()
        total.update(f"\n{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().data)
    return f"sha256:{total.hexdigest()}"
