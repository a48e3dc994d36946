"""What a run is: one checked object, whose fields are the training command's options."""

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.config import Positive, ReaderName
from models.errors import CrtError

Fraction = Annotated[float, Field(ge=0, lt=1)]
PROGRAM = "python -m experiments.language.train"


class BadOptions(CrtError):  # noqa: N818 - named after what is wrong
    """A run was asked for that cannot be."""

    code = "options_bad"


class Options(BaseModel):
    """A run. The tokens of an update, streams x span x segment, should be equal in runs that are compared."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    task: Literal["words", "bytes", "sums"] = "words"
    """words: of a folder's text; bytes: Python's own sources; sums: operands from far back"""
    data: Path = Path("../shared/text")
    """words: the folder with its three files"""
    variant: Literal["transformer", "xl", "crt"] = "crt"
    """no memory, Transformer-XL's cache, or the CRT's vector"""
    read: ReaderName = "prepend"
    """crt: how tokens see the memory"""
    write: Literal["gru", "ncgru"] = "gru"
    """crt: how the next memory is made"""
    memory: Positive = 256
    """crt: width of the memory"""
    layers: Positive = 2
    """Transformer blocks"""
    d_model: Positive = 128
    """width of a token"""
    heads: Positive = 4
    """of each attention"""
    inner: Positive = 512
    """width of the feed-forward networks"""
    segment: Positive = 17
    """tokens that see each other"""
    cache: Positive | None = None
    """xl: tokens cached; as many as a segment has where not given"""
    span: Positive = 4
    """segments in an update"""
    gradient: Positive | None = None
    """crt: segments through which gradients run; all of the span where not given"""
    streams: Positive = 32
    """pieces of the text that are read side by side"""
    epochs: Positive = 10
    """times the text is read"""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-3
    """its highest, after the warm-up; from there to a hundredth by a cosine"""
    warmup: Positive = 200
    """updates"""
    dropout: Fraction = 0.2
    """in attention, feed-forward networks, residual branches and before the softmax"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    """AdamW's, of matrices"""
    clip: Annotated[float, Field(gt=0)] = 0.5
    """longest gradient"""
    cutoffs: tuple[int, ...] = ()
    """where the classes of an adaptive softmax begin, as in 20000,60000; a plain softmax where not given"""
    seed: Annotated[int, Field(ge=0)] = 1
    """of everything that is drawn"""
    precision: Literal["bf16", "fp32"] = "bf16"
    """of matrix products in training, and fp32 where the machine has none in bfloat16; evaluation is in float32"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one"""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.d_model % self.heads:
            raise ValueError(f"d_model must be a multiple of heads, got {self.d_model} and {self.heads}")
        if self.gradient is not None and self.span % self.gradient:
            raise ValueError(f"span must be a multiple of gradient, got {self.span} and {self.gradient}")
        if list(self.cutoffs) != sorted(set(self.cutoffs)) or any(edge < 1 for edge in self.cutoffs):
            raise ValueError(f"cutoffs must be positive and rise, got {self.cutoffs}")
        return self

    @property
    def remembered(self) -> int:
        """xl: the most tokens cached."""
        return self.cache or self.segment

    def command(self) -> str:
        """The command of this run and no other: only what differs from the defaults, in a fixed order."""
        words = [PROGRAM]
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in ("variant", "segment", "seed", "epochs") or value != field.default:
                text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                words += [f"--{name.replace('_', '-')}", shlex.quote(text)]
        return " ".join(words)

    def either(self) -> tuple[str, str]:
        """The command in both precisions: results are taken for the same."""
        return tuple(self.model_copy(update={"precision": one}).command() for one in ("bf16", "fp32"))  # type: ignore[return-value]

    def name(self) -> str:
        """Of the run's folder."""
        return re.sub(r"[^a-z0-9.]+", "-", self.command().removeprefix(PROGRAM).lower().replace("../", "")).strip("-")


def add_options(parser: argparse.ArgumentParser) -> None:
    """An option for each field."""
    for name, field in Options.model_fields.items():
        default = field.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        about = f"{field.description} (default: {shown if shown not in (None, '') else 'none'})"
        parser.add_argument(f"--{name.replace('_', '-')}", help=about.replace("%", "%%"), metavar="X")


def from_namespace(given: argparse.Namespace) -> Options:
    """Raises BadOptions, naming the option."""
    values: dict[str, Any] = {name: getattr(given, name) for name in Options.model_fields if getattr(given, name)}
    if "cutoffs" in values:
        values["cutoffs"] = tuple(values["cutoffs"].split(","))
    try:
        return Options(**values)
    except ValidationError as error:
        problems = [f"--{'.'.join(map(str, e['loc'][:1])).replace('_', '-')}: {e['msg']}" for e in error.errors()]
        raise BadOptions("; ".join(problems).replace("--: Value error, ", "")) from error


def parse(command: str | Sequence[str]) -> Options:
    """The options of a command as `Options.command` writes it, or of its arguments."""
    words = shlex.split(command.removeprefix(PROGRAM)) if isinstance(command, str) else list(command)
    parser = argparse.ArgumentParser(prog=PROGRAM)
    add_options(parser)
    return from_namespace(parser.parse_args(words))
