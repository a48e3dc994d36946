"""A training run's configuration: one YAML file, checked when it is read, each field documented in place."""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.config import ReaderName, WriterName
from models.errors import CrtError


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
    bf16: bool = True
    """Convolutions in bfloat16 where the processor has it; weights stay float32."""
    checkpoint_every: Annotated[int, Field(gt=0)] = 500
    """Steps between checkpoints and validations."""


class CrtTraining(_Section):
    """Training of the CRT on cached features by backpropagation through time."""

    width: int = 192
    """D, width of the Transformer."""
    memory: int = 512
    """M, width of the memory: 512 float32 are 2 KB."""
    layers: int = 2
    heads: int = 4
    hidden: int = 384
    segment: int = 4
    """L, clips in a segment."""
    reader: ReaderName = "cross_attention"
    writer: WriterName = "gru"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    epochs: Annotated[int, Field(gt=0)] = 24
    lanes: Annotated[int, Field(gt=0)] = 32
    """Streams trained side by side."""
    unroll: Annotated[int, Field(gt=0)] = 40
    """Segments through which gradients run; the memory is carried on beyond them."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.05
    feature_noise: Annotated[float, Field(ge=0)] = 0.3
    """Standard deviation of noise added to normalised features."""
    clip_norm: Annotated[float, Field(gt=0)] = 1.0


class Config(_Section):
    """One run."""

    data: Path
    """Folder of a HomeSim data set."""
    run: Path
    """Folder for checkpoints, caches and logs of this run."""
    seed: int = 0
    threads: Annotated[int, Field(gt=0)] = 2
    name: str
    """The model's name in its card and in answers."""
    backbone: BackboneTraining = BackboneTraining()
    crt: CrtTraining = CrtTraining()


def same_options(now: BaseModel, then: dict[str, Any] | None, file: Path) -> None:
    """Makes sure that a training goes on as it was begun. Raises BadConfig naming what differs; `then` is None in old files."""
    differing = [
        f"{name} was {then.get(name)} and is {value}"
        for name, value in now.model_dump(mode="json").items()
        if then is not None and then.get(name) != value
    ]
    if differing:
        raise BadConfig(
            f"{file} was begun with other options: {', '.join(differing)}. Set them back, or begin anew with --fresh."
        )


def read_config(path: Path) -> Config:
    """Raises BadConfig naming file and field."""
    try:
        values = yaml.safe_load(path.read_text())
        return Config.model_validate(values)
    except (OSError, yaml.YAMLError) as error:
        raise BadConfig(f"{path} cannot be read as YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadConfig(f"{path}: {where}: {first['msg']}") from error
