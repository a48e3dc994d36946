"""Which networks are compared. Every variant differs from the defaults in one thing; three seeds each."""

from dataclasses import dataclass, field
from typing import Any

from experiments.video.data import TASKS
from experiments.video.pasts import Attending, Network, Recurrent, Tokens
from pipelines.config import CrtTraining
from pipelines.train_crt import classifier_for

SEEDS = (0, 1, 2)
FIRST = ("writer", "past", "reader")
SMALL = {"width": 128, "hidden": 256, "memory": 256}
"""Two thirds of the defaults' width and half of their memory, so that all of it can be run on two cores."""
SIZES: dict[str, dict[str, Any]] = {
    "homesim": {**SMALL, "epochs": 10, "lanes": 16, "learning_rate": 2e-3},
    "kard": {**SMALL, "epochs": 20, "lanes": 32},
    "nw_ucla": {**SMALL, "epochs": 10, "lanes": 32},
}
"""Of each task, what differs from the defaults of a training."""
REACH = {"homesim": 160, "kard": 32, "nw_ucla": 32}
"""Clips through which gradients run, whatever a segment's length."""
LONGEST = {"homesim": 448, "kard": 96, "nw_ucla": 112}
"""Earlier clips that `whole` keeps between chunks of a training: more than any video has. A stream at work keeps all."""
PEER_LAYERS = 4
"""Of whole, cache and tokens, whose feed-forward networks are widened until they have as many parameters as the CRT."""
WINDOW = 16
"""Clips that `cache` sees in each layer: 8 s of HomeSim, and through four layers 32 s."""
TOKENS = 4
"""Memory tokens of `tokens`: 2 KB, the CRT's memory has 1 KB."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One network."""

    name: str
    question: str
    changes: dict[str, Any] = field(default_factory=dict)
    """Of a CRT's options."""
    past: str | None = None
    """The network that takes the CRT's place: whole, cache or tokens."""
    longer: int = 1
    """Times as many epochs."""


DEFAULT = Variant("gru", "writer")
VARIANTS = (
    DEFAULT,
    Variant("ncgru", "writer", {"writer": "ncgru"}),
    Variant("none", "writer", {"writer": "none"}),
    *(Variant(past, "past", past=past) for past in ("whole", "cache", "tokens")),
    *(Variant(reader, "reader", {"reader": reader}) for reader in ("prepend", "add")),
    *(Variant(f"memory {m}", "memory", {"memory": m}) for m in (32, 64, 128, 512, 1024)),
    *(Variant(f"segment {n}", "segment", {"segment": n}) for n in (1, 2, 8, 16)),
    *(
        Variant(f"{name}, 4 times as long", "training", past=past, longer=4)
        for name, past in (("gru", None), ("whole", "whole"))
    ),
)
"""The middle ones first: a comparison that is stopped has answered what matters most. Of each question, the default is a variant, too."""


def options_of(task: str, variant: Variant) -> CrtTraining:
    options = CrtTraining(**(SIZES[task] | variant.changes))
    return options.model_copy(
        update={"unroll": REACH[task] // options.segment, "epochs": options.epochs * variant.longer}
    )


def build(task: str, variant: Variant, feature_width: int, classes: int) -> Network:
    """A fresh network, by torch's seed."""
    o = options_of(task, variant)
    if variant.past is None:
        return Recurrent(classifier_for(o, feature_width, classes))
    wanted = count(Recurrent(classifier_for(o, feature_width, classes)))
    few, more = (count(_peer(task, o, variant.past, feature_width, classes, hidden)) for hidden in (8, 16))
    return _peer(task, o, variant.past, feature_width, classes, 8 + round((wanted - few) * 8 / (more - few)))


def _peer(task: str, o: CrtTraining, past: str, feature_width: int, classes: int, hidden: int) -> Network:
    shape: dict[str, Any] = {
        "width": o.width,
        "layers": PEER_LAYERS,
        "heads": o.heads,
        "hidden": hidden,
        "dropout": o.dropout,
    }
    if past == "tokens":
        return Tokens(feature_width, classes, segment=o.segment, tokens=TOKENS, **shape)
    return Attending(feature_width, classes, window=WINDOW if past == "cache" else None, longest=LONGEST[task], **shape)


def count(network: Network) -> int:
    """Parameters that are trained."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def trials() -> list[tuple[int, str, Variant]]:
    """Seed, task and variant: writers, pasts and readers before the longer rows."""
    rows = ([v for v in VARIANTS if v.question in FIRST], [v for v in VARIANTS if v.question not in FIRST])
    return [(seed, task, variant) for some in rows for seed in SEEDS for variant in some for task in TASKS]
