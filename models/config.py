"""The shapes of the CRT and of the classifier around it, as a checkpoint's config.json tells them. No torch."""

from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
ReaderName = Literal["prepend", "cross_attention", "add"]
"""How tokens see the memory; see models/reading.py."""
WriterName = Literal["gru", "ncgru", "none"]
"""How the next memory is made; see models/writing.py."""
Gate = Literal["reset", "update", "candidate"]
GATES: tuple[Gate, ...] = get_args(Gate)
"""In the order in which nn.GRU stacks them."""


class CrtConfig(BaseModel):
    """The shape of a CRT. Raises pydantic.ValidationError, a ValueError, for values that do not fit together."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    width: Positive = 128
    """D, of each token."""
    memory: Positive = 512
    """M, of the vector between segments: 2 KB as float32."""
    layers: Positive = 2
    """Transformer blocks."""
    heads: Positive = 4
    """Of each attention; divides width."""
    hidden: Positive = 512
    """Of the feed-forward networks."""
    segment: Positive = 4
    """L, the most clips that a segment has."""
    causal: bool = True
    """Each clip sees itself and those before it; else all of its segment."""
    reader: ReaderName = "prepend"
    """How tokens see the memory; without effect where the writer is none."""
    writer: WriterName = "gru"
    """How the next memory is made."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """In attention, feed-forward networks and residual branches; in training only."""
    horizon: Positive = 128
    """Clips over which the longest-lived units of a fresh writer remember; see models.writing.remember."""
    orthogonal: tuple[Gate, ...] = ("candidate",)
    """ncgru: the gates whose recurrent matrices are orthogonal."""
    negatives: Annotated[int, Field(ge=0)] | None = None
    """ncgru: how many entries of D are -1; half of them where None."""
    neumann_terms: Positive = 2
    """ncgru: powers in the truncated series."""
    refresh_every: Positive = 100
    """ncgru: optimizer steps between exact solutions."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got {self.width} and {self.heads}")
        if self.negatives is not None and self.negatives > self.memory:
            raise ValueError(f"negatives must be at most memory ({self.memory}), got {self.negatives}")
        return self


class PerClipConfig(BaseModel):
    """The shape of a PerClipClassifier."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["per_clip"]
    feature_width: Positive
    """F, as the backbone's spec says."""
    classes: Positive
    """C."""
    segment: Literal[1] = 1
    """L: a label for each clip."""
    memory: Literal[0] = 0
    """M: none."""
    several: ClassVar[Literal[False]] = False
    """Labels exclude each other."""


class ClassifierConfig(BaseModel):
    """The shape of a VideoClassifier."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    feature_width: Positive
    """F, as the backbone's spec says."""
    classes: Positive
    """C, the background included."""
    crt: CrtConfig = CrtConfig()
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of the features, in training only."""
    several: bool = Field(
        default=False, exclude_if=lambda several: not several
    )  # so that older models' digests stay theirs
    """Whether several labels may be true at once: each has a probability of its own then, and they need not sum to one."""

    @property
    def segment(self) -> int:
        """L, the most clips that a segment has."""
        return self.crt.segment

    @property
    def memory(self) -> int:
        """M, of the vector between segments."""
        return self.crt.memory
