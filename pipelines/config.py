"""A training run's configuration: one YAML file, checked when it is read, each field documented in place."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.config import CrtConfig, Positive, ReaderName, WriterName
from models.errors import CrtError
from pipelines.datasets import AnyDataset


class BadConfig(CrtError):  # noqa: N818 - named after what is wrong
    """A configuration file cannot be read or has an impossible value."""

    code = "config_bad"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class BackboneTraining(_Section):
    """Training of the backbone on single clips and their visible labels."""

    start: Path | None = None
    """A checkpoint folder whose backbone the training begins with; None for chance."""
    steps: Annotated[int, Field(gt=0)] = 6_000
    batch: Annotated[int, Field(gt=0)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Highest rate; see train_backbone.warm_cosine."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.05
    joints: Annotated[float, Field(ge=0)] = 0.5
    """Weight of finding the joints, beside naming the activity; where a data set does not know them it has no effect."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.998
    """Share of the old average kept at each step; the average is what is saved."""
    overhead: bool = False
    """For a camera that looks down from the ceiling and knows no up: clips are shown turned by any angle."""
    bf16: bool = True
    """Convolutions in bfloat16 where the processor has it (device.bfloat16); weights stay float32."""
    checkpoint_every: Annotated[int, Field(gt=0)] = 500
    """Steps between checkpoints and validations."""


class CrtTraining(_Section):
    """Training of the CRT on cached features by backpropagation through time."""

    width: Positive = 192
    """D, width of the Transformer."""
    memory: Positive = 512
    """M, width of the memory: 512 float32 are 2 KB."""
    layers: Positive = 2
    heads: Positive = 4
    hidden: Positive = 384
    segment: Positive = 4
    """L, clips in a segment."""
    reader: ReaderName = "cross_attention"
    writer: WriterName = "gru"
    several: bool = Field(
        default=False, exclude_if=lambda several: not several
    )  # so that runs that began without the choice go on
    """Learns all labels that are true of a clip, each by a probability of its own (binary cross-entropy); else the one that began last."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    epochs: Annotated[int, Field(gt=0)] = 24
    lanes: Annotated[int, Field(gt=0)] = 32
    """Streams trained side by side."""
    unroll: Annotated[int, Field(gt=0)] = 40
    """Segments through which gradients run; the memory is carried on beyond them."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Of segments' labels; without effect on several."""
    feature_noise: Annotated[float, Field(ge=0)] = 0.3
    """Standard deviation of noise added to normalised features."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Parameter of the beta distribution by which features and labels of trimmed videos are mixed in pairs; 0 mixes none."""
    balance: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Weights of the loss: a class's rarity to this power. 0 weighs clips alike, 1 classes. Of several labels, also where a label is not true."""
    sampling: Literal["once", "balanced"] = "once"
    """An epoch shows each video once; or, balanced, trimmed ones of all classes equally often."""
    shift: bool = True
    """Cuts long videos at another clip in each epoch."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.98
    """Share of the old average kept at each step; the average is what is saved."""
    bf16: bool = False
    """Matrix products in bfloat16; weights and memory stay float32. On a GPU it is quicker, on a CPU not at these sizes."""
    clip_norm: Annotated[float, Field(gt=0)] = 1.0

    @property
    def shape(self) -> CrtConfig:
        """Of the network that is trained. Raises pydantic.ValidationError for values that do not fit together."""
        return CrtConfig(
            width=self.width, memory=self.memory, layers=self.layers, heads=self.heads, hidden=self.hidden, segment=self.segment,
            causal=False, reader=self.reader, writer=self.writer, dropout=self.dropout,
        )  # fmt: skip

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            _ = self.shape
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"]) from error
        return self


class Looks(_Section):
    """How often the CRT sees a training video anew, as another camera in another light would have taken it."""

    untrimmed: Annotated[int, Field(ge=0)] = 1
    """They are few, and each is long."""
    trimmed: Annotated[int, Field(ge=0)] = 0


class BackboneChoice(_Section):
    """The backbone: exactly one of these three."""

    training: BackboneTraining | None = None
    """The small one, trained on this data set's clips."""
    checkpoint: Path | None = None
    """A model's folder: its backbone as it is, as the service runs it."""
    name: str | None = None
    """One of torchvision's as it is: mobilenet_v3_small, mobilenet_v3_large, s3d, r3d_18, mvit_v2_s, swin3d_t."""
    weights: Literal["published"] | Path | None = None
    """Of torchvision's: "published", fetched on first use (Kinetics-400; for the MobileNets ImageNet), or a local file of them."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(given is not None for given in (self.training, self.checkpoint, self.name)) != 1:
            raise ValueError("give one of training, checkpoint (a model's folder) and name (with weights)")
        if (self.name is None) != (self.weights is None):
            raise ValueError('name and weights go together; weights are "published" or a file')
        return self


class EndToEnd(_Section):
    """Training of backbone and CRT together, after each of them."""

    epochs: Annotated[int, Field(gt=0)] = 4
    lanes: Annotated[int, Field(gt=0)] = 4
    """Streams trained side by side."""
    unroll: Annotated[int, Field(gt=0)] = 4
    """Segments through which gradients run; all their pictures are in memory at once."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Of the backbone."""
    crt_learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    overhead: bool = False
    """As in backbone.training."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.98
    bf16: bool = True
    """Networks in bfloat16 where the processor has it (device.bfloat16); weights and memory stay float32."""


class Config(_Section):
    """One run."""

    data: AnyDataset
    """The data set: its kind, its folder and what the kind asks for; `python -m pipelines.datasets KIND --help` tells."""
    run: Path
    """Folder for checkpoints and logs of this run."""
    cache: Path | None = None
    """Folder of features, which runs with the same backbone may share; by default RUN/features."""
    seed: int = 0
    threads: Annotated[int, Field(gt=0)] = 2
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks are trained; auto is a GPU where there is one."""
    name: str
    """The model's name in its card and in answers."""
    backbone: BackboneChoice
    looks: Looks | None = None
    """By default one of each untrimmed video where the backbone is trained here, else none."""
    crt: CrtTraining = CrtTraining()
    end_to_end: EndToEnd | None = None
    """Trains both together at the end; without it, the backbone stays as the CRT found it."""

    @property
    def further(self) -> Looks:
        """The looks."""
        return self.looks or Looks(untrimmed=int(self.backbone.training is not None))

    @property
    def features(self) -> Path:
        """Where features are kept."""
        return self.cache or self.run / "features"


def begun_with(options: BaseModel, seed: int, labels: Iterable[str], data: str) -> dict[str, Any]:
    """What a training's state keeps of what it was begun with. data: a digest of all that it learns from."""
    return {"options": options.model_dump(mode="json"), "seed": seed, "labels": list(labels), "data": data}


def same_run(now: dict[str, Any], state: dict[str, Any], file: Path) -> None:
    """Makes sure that a training goes on as it was begun, on what it was begun with; both as begun_with has it, or lacking some (old files).

    Raises BadConfig naming what differs: weights that have seen other videos would be measured on people whom they know.
    """
    then = state.get("options") or {}
    differing = [
        f"{name} was {then.get(name)} and is {value}"
        for name, value in now["options"].items()
        if then and then.get(name) != value
    ]
    if state.get("seed", now["seed"]) != now["seed"]:
        differing.append(f"seed was {state['seed']} and is {now['seed']}")
    if state.get("labels", now["labels"]) != now["labels"]:
        differing.append(f"labels were {', '.join(state['labels'])} and are {', '.join(now['labels'])}")
    elif state.get("data", now["data"]) != now["data"]:
        differing.append("what it learns from (videos, their splits and labels, or their features) is not what it was")
    if differing:
        raise BadConfig(
            f"{file} was begun otherwise: {'; '.join(differing)}. Set it back, give another folder (--set run=FOLDER), or begin anew with --fresh."
        )


def read_config(path: Path, changes: Iterable[str] = ()) -> Config:
    """The file, with changes such as "data.fold=1". Raises BadConfig naming file and field."""
    try:
        values = yaml.safe_load(path.read_text())
        for change in changes:
            _change(values, change)
        return Config.model_validate(values)
    except (OSError, yaml.YAMLError) as error:
        raise BadConfig(f"{path} cannot be read as YAML: {error}") from error
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3])
        raise BadConfig(f"{path}: {told}") from error


def _change(values: Any, change: str) -> None:
    """Sets one value, "section.field=YAML", in place. Raises BadConfig."""
    where, equals, value = change.partition("=")
    *sections, field = where.split(".")
    for section in sections:
        values = values.setdefault(section, {}) if isinstance(values, dict) else None
    if not equals or not isinstance(values, dict):
        raise BadConfig(f"{change!r} is no change: give a field and its value, such as crt.epochs=12")
    values[field] = yaml.safe_load(value)
