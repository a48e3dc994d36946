"""A trained model as a folder, and back: the only file in models/ that reads or writes, but for backbones.py, which loads
published or local weights.

    model.safetensors   weights of the backbone ("backbone.*") and the classifier ("classifier.*")
    config.json         what they are the weights of: names, shapes, labels, preprocessing, data, accuracy, digest
    NAME.onnx           networks to run in place of the backbone's own, if there are any (pipelines/quantize.py)

Loading needs no torch; it comes when one asks for the networks themselves. A model whose graphs say all is run without it, in half
the memory.

No pickles, so that loading runs no code from the folder. The digest covers everything that changes a score: weights,
graphs, shapes, preprocessing, the order of the labels. It names the model wherever a memory is kept, and a folder whose parts
do not belong together is refused.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_safetensors

from models.config import ClassifierConfig, PerClipConfig
from models.errors import BadCheckpoint, ModelError
from models.spec import ClipSpec

if TYPE_CHECKING:
    from models.base import Backbone
    from models.heads import Classifier

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
PUBLISHED = "kinetics400:"
"""What the name of a published classifier begins with."""


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
    classifier: ClassifierConfig | PerClipConfig
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


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model: what it is, its weights, and on demand its networks."""

    folder: Path
    config: CheckpointConfig
    spec: ClipSpec
    """Which clips the backbone reads."""
    weights: Mapping[str, np.ndarray]
    """As they are stored, "backbone.*" and "classifier.*"."""
    graphs: Mapping[str, bytes]
    """ONNX, by name: what is to be run in place of the networks."""

    @property
    def name(self) -> str:
        """For people; the digest is what tells models apart."""
        return self.config.name

    @property
    def digest(self) -> str:
        """ "sha256:..." of all that changes a score."""
        return self.config.digest

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the classes, in the order of the scores."""
        return self.config.labels

    @property
    def background(self) -> str | None:
        """The label that says that nothing happens, if there is one."""
        return self.config.background

    @property
    def card(self) -> dict[str, Any]:
        """Data, method, measured accuracy: JSON values."""
        return self.config.card

    @property
    def segment(self) -> int:
        """L, clips in a full segment."""
        return self.config.classifier.segment

    @property
    def memory(self) -> int:
        """M, numbers in a stream's memory."""
        return self.config.classifier.memory

    @property
    def first_memory_M(self) -> np.ndarray:  # noqa: N802 - the name of the weight
        """The learned memory with which a stream begins, float32[M]. Raises BadCheckpoint."""
        if isinstance(self.config.classifier, PerClipConfig):
            return np.empty(0, np.float32)
        found = self.weights.get("classifier.crt.first_memory_M")
        if found is None or found.shape != (self.memory,):
            raise BadCheckpoint(f"{self.folder}: the weights have no first memory of {self.memory} numbers")
        return found.astype(np.float32)

    @cached_property
    def backbone(self) -> "Backbone":
        """In evaluation mode and float32. Raises BadCheckpoint."""
        # Torch is half of a service's memory and start, and not all need it.
        from models import networks

        return networks.backbone(self)

    @cached_property
    def classifier(self) -> "Classifier":
        """In evaluation mode and float32. Raises BadCheckpoint."""
        from models import networks

        return networks.classifier(self)


def save(
    folder: Path | str,
    backbone: "Backbone",
    classifier: "Classifier",
    *,
    name: str,
    labels: Sequence[str],
    background: str | None = None,
    card: Mapping[str, Any] | None = None,
    half: bool = False,
    graphs: Mapping[str, bytes] | None = None,
) -> str:
    """Writes the folder, made if need be, and returns the digest.

    half: weights are stored as float16, which halves the file; loading gives float32 either way.
    graphs: ONNX to run in place of the networks, by name.
    Raises ValueError for labels, background and shapes that do not fit together.
    """
    folder = Path(folder)
    if backbone.spec.feature_width != classifier.config.feature_width:
        raise ValueError(
            f"the backbone gives features of {backbone.spec.feature_width} numbers, "
            f"the classifier reads {classifier.config.feature_width}"
        )
    weights = weights_of(backbone, classifier, half=half)
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


def _write(
    folder: Path, config: CheckpointConfig, weights: Mapping[str, np.ndarray], graphs: Mapping[str, bytes]
) -> str:
    sums = {name: hashlib.sha256(graph).hexdigest() for name, graph in sorted(graphs.items())}
    config = CheckpointConfig.model_validate(config.model_dump() | {"graphs": sums})
    config = config.model_copy(update={"digest": digest_of(weights, config)})
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=folder
    ) as staging:  # same file system, so each file appears whole or not at all
        Path(staging, WEIGHTS).write_bytes(to_safetensors(dict(weights)))
        Path(staging, CONFIG).write_text(json.dumps(config.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
        for name, graph in graphs.items():
            Path(staging, f"{name}.onnx").write_bytes(graph)
        for file in (WEIGHTS, *(f"{name}.onnx" for name in graphs), CONFIG):
            os.replace(Path(staging, file), folder / file)
    return config.digest


def _read(folder: Path) -> tuple[CheckpointConfig, dict[str, np.ndarray], dict[str, bytes]]:
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


def read(model: Path | str) -> Checkpoint:
    """A folder, or one of torchvision's classifiers by its name, see kinetics.py.

    Raises BadCheckpoint, naming what is missing or contradicts itself; for a name UnknownBackbone, WeightsUnavailable and BadWeights, and
    ModelError where PyTorch is not installed.
    """
    if str(model).startswith(PUBLISHED):
        try:
            from models import kinetics  # torch
        except ModuleNotFoundError as error:
            raise ModelError(
                f"{model} runs by PyTorch and torchvision, of which {error.name} is not installed here; `pip install -r requirements.txt` brings both"
            ) from error

        return kinetics.read(str(model))
    folder = Path(model)
    config, weights, graphs = _read(folder)
    try:
        spec = ClipSpec.from_dict(config.backbone.spec)
    except ValueError as error:
        raise BadCheckpoint(f"{folder / CONFIG}: backbone: spec: {error}") from error
    if spec.feature_width != config.classifier.feature_width:
        raise BadCheckpoint(
            f"{folder / CONFIG}: the backbone gives features of {spec.feature_width} numbers, "
            f"the classifier reads {config.classifier.feature_width}"
        )
    return Checkpoint(folder, config, spec, weights, graphs)


def load(model: Path | str) -> Checkpoint:
    """The same, with its networks made, so that what is wrong with them is told, too. Raises what read raises."""
    found = read(model)
    _ = found.backbone, found.classifier
    return found


def read_config(path: Path) -> CheckpointConfig:
    """config.json, checked. Raises BadCheckpoint, naming the field."""
    try:
        return CheckpointConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise BadCheckpoint(f"{path}: {problems}") from error


def weights_of(backbone: "Backbone", classifier: "Classifier", *, half: bool = False) -> dict[str, np.ndarray]:
    """As they go to the file; counters keep their type."""
    found = {
        f"{part}.{key}": value.detach().cpu().contiguous().numpy()
        for part, module in (("backbone", backbone), ("classifier", classifier))
        for key, value in module.state_dict().items()
    }
    return {
        key: value.astype(np.float16) if half and value.dtype.kind == "f" else value for key, value in found.items()
    }


def digest_of(weights: Mapping[str, np.ndarray], config: CheckpointConfig) -> str:
    """Over names, types, shapes and bytes of the weights and the fields of the config that change a score."""
    fields = config.model_dump(mode="json", include={"format", "labels", "background", "backbone", "classifier"})
    if config.graphs:
        fields["graphs"] = config.graphs
    total = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for key in sorted(weights):
        array = np.ascontiguousarray(weights[key]).reshape(weights[key].shape)  # which makes a number a row
        total.update(f"\n{key} torch.{array.dtype} {list(array.shape)}\n".encode())
        total.update(array.tobytes())
    return f"sha256:{total.hexdigest()}"
