"""`python -m pipelines.train CONFIG`: from a data set to a model with its card.

First the backbone on clips, then its features once, then the CRT on them; and the same CRT with the writer `none`, which
forgets, to measure what the memory is worth. Every stage resumes where it stopped, and starts anew with --fresh.
"""

import argparse
import copy
import hashlib
import json
import logging
import platform
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from models import checkpoint
from models.heads import VideoClassifier
from models.small import SPEC, SmallBackbone
from pipelines import command, evaluate, graphs
from pipelines.card import card_text
from pipelines.config import Config, read_config
from pipelines.datasets import BACKGROUND, LabelledVideo, read_homesim
from pipelines.features import cache_clips, cache_features, some_clips
from pipelines.homesim.make import VERSION
from pipelines.onnx_weights import strip
from pipelines.quantize import quantize
from pipelines.recognizer import Recognizer
from pipelines.runtime import OnnxSmall
from pipelines.train_backbone import train_backbone
from pipelines.train_crt import label_set, train_crt, train_data

log = logging.getLogger(__name__)
STAGES = ("backbone", "features", "crt", "evaluate")


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def plot_gap(gru: dict[str, Any], none: dict[str, Any], path: Path) -> None:
    """Draws drinks over the gap, with and without memory."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), dpi=110, layout="constrained")
    for name, measured, style in (("GRU memory", gru, "o-"), ("no memory (writer none)", none, "s--")):
        points = measured["drinks_by_gap"]
        axes.plot([(p["low"] + p["high"]) / 2 for p in points], [p["accuracy"] for p in points], style, label=name)
    for p in gru["drinks_by_gap"]:
        axes.annotate(f"n={p['drinks']}", ((p["low"] + p["high"]) / 2, 0.02), ha="center", fontsize=8, color="gray")
    axes.axhline(0.25, color="gray", linewidth=0.8, linestyle=":")
    axes.set(xlabel="seconds since the container was last seen", ylabel="right container", ylim=(0, 1.05), xlim=(0, 75))
    axes.legend(loc="upper right")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def run(
    config: Config,
    *,
    until: str = "evaluate",
    output: Path | None = None,
    plot: Path | None = None,
    homes: Path | None = None,
) -> dict[str, Any]:
    """All stages up to and including `until`; returns the card once there is one, else an empty dict."""
    config.run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config.threads)
    (config.run / "config.json").write_text(config.model_dump_json(indent=2))
    (config.run / "code.json").write_text(
        json.dumps({"commit": _commit(), "torch": torch.__version__, "python": platform.python_version()})
    )
    videos = read_homesim(config.data)
    files = cache_clips(videos, SPEC, config.run / "pixels", workers=config.threads)
    backbone = train_backbone(config, videos, files)
    if until == "backbone":
        return {}
    backbone.half().float()  # as it will be stored
    # The CRT learns from what it will see: features in the integers that will serve.
    integers = quantize(backbone, some_clips([files[v.name] for v in videos if v.split == "train"]))
    look = OnnxSmall(integers, threads=config.threads)
    key = hashlib.sha256(b"".join(integers.values())).hexdigest()[:16]
    features = cache_features(look, key, files, config.run / "features", threads=config.threads)
    # Days are few, and each is long: one that is also seen by another camera in another light counts for two.
    again = {v.name: files[v.name] for v in videos if v.split == "train" and v.label is None}
    others = cache_features(look, key, again, config.run / "features", threads=config.threads, second=True)
    if until == "features":
        return {}
    labels = label_set(videos)
    data = train_data(videos, features, labels, SPEC.clip_seconds)
    data["train"] = [replace(s, second=others.get(s.name)) for s in data["train"]]
    classifier = train_crt(config, data, labels)
    plain = config.model_copy(update={"crt": config.crt.model_copy(update={"writer": "none"})})
    forgetful = train_crt(plain, data, labels)
    if until == "crt":
        return {}
    held_out = [v for v in videos if v.split == "test"]
    target = output or config.run / "model"
    measured: dict[str, Any] = {}
    for name, trained, folder in (
        ("without", forgetful, config.run / "model-none"),
        ("with", classifier, config.run / "model"),
    ):
        # Measured is what was stored: half-precision weights and the backbone in integers, loaded again.
        save_model(config, backbone, trained, labels, {}, integers, folder)
        measured[name] = evaluate.measure(Recognizer(checkpoint.load(folder), threads=config.threads), held_out)
    for name, value in measured["with"].items():
        if not isinstance(value, list | dict):
            log.info("%-30s %8s   writer none %8s", name, value, measured["without"][name])
    card = make_card(config, videos, measured["with"], measured["without"])
    if homes is not None:
        card["accuracy"]["real_homes"] = evaluate.measure_falls(
            Recognizer(checkpoint.load(config.run / "model"), threads=config.threads), homes
        )
        log.info("real homes: %s", card["accuracy"]["real_homes"])
    (config.run / "card.json").write_text(json.dumps(card, indent=2))
    save_model(config, backbone, classifier, labels, card, integers, target)
    (target / "README.md").write_text(card_text(config.name, tuple(labels), card))
    if plot is not None:
        plot_gap(measured["with"], measured["without"], plot)
    log.info("the model is in %s", target)
    return card


def make_card(
    config: Config, videos: list[LabelledVideo], measured: dict[str, Any], without: dict[str, Any]
) -> dict[str, Any]:
    """Data, method and measured accuracy, as served by GET /v1/model."""
    start = torch.load(config.run / "backbone.pt", weights_only=True).get("start")
    counts = {
        split: {
            "trimmed": sum(v.split == split and v.label is not None for v in videos),
            "untrimmed": sum(v.split == split and v.label is None for v in videos),
        }
        for split in ("train", "validation", "test")
    }  # fmt: skip
    return {
        "summary": "Knows simulated homes only: trained on HomeSim, never on pictures of real people.",
        "data": {
            "name": f"HomeSim, version {VERSION}", "command": f"python -m pipelines.homesim make {config.data}", "videos": counts,
            "held_out": "The test's people, rooms and stretch of wall for the camera (c02) appear in no training video. Every other "
            "room is mirrored, in training and test alike, so that in those other cameras have hung across from c02.",
        },
        "method": {
            "backbone": "SmallBackbone, trained on half-second clips with what is visible in them, and with the joints that HomeSim knows"
            + (f"; begun with the weights of {start}" if start else ""),
            "crt": f"{config.crt.layers} layers, width {config.crt.width}, memory {config.crt.memory}, "
            f"reader {config.crt.reader}, writer {config.crt.writer}; "
            f"backpropagation through time over {config.crt.unroll} segments",
            "integers": "convolutions of the backbone in 8 bits (static, per channel), ranges from clips of the training split",
            "command": "python -m pipelines.train configs/bundled.yaml", "seed": config.seed, "commit": _commit(),
            "date": datetime.now(UTC).date().isoformat(),
        },
        "accuracy": {"test": measured, "test_without_memory": without},
    }  # fmt: skip


def save_model(
    config: Config,
    backbone: SmallBackbone,
    classifier: VideoClassifier,
    labels: list[str],
    card: dict[str, Any],
    integers: dict[str, bytes],
    folder: Path,
) -> None:
    weights = checkpoint.weights_of(backbone, classifier, half=True)
    made = integers | {"classify": graphs.classify(copy.deepcopy(classifier).half().float())}
    checkpoint.save(
        folder, backbone, classifier, name=config.name, labels=labels, background=BACKGROUND, card=card, half=True,
        graphs={name: strip(graph, weights) for name, graph in made.items()},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--until", choices=STAGES, default="evaluate", help="the last stage to run")
    parser.add_argument("--output", type=Path, help="folder for the finished model (default: RUN/model)")
    parser.add_argument("--plot", type=Path, help="write the drinks-over-gap plot here")
    parser.add_argument(
        "--homes", type=Path, help="folder of real falls and daily life to measure on (clips and segments.csv)"
    )
    parser.add_argument("--fresh", action="store_true", help="forget what was trained before (caches of clips stay)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    config = read_config(args.config)
    if args.fresh:
        for state in config.run.glob("*.pt"):
            state.unlink()
    run(config, until=args.until, output=args.output, plot=args.plot, homes=args.homes)


if __name__ == "__main__":
    command.run(main)
