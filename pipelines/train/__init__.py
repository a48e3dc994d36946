"""`python -m pipelines.train CONFIG`: from a data set to a model with its card.

First the backbone, trained on the data set's clips or taken as it is, then its features once, then the CRT on them, and the same CRT
with the writer `none`, which forgets, to measure what the memory is worth; at last, if asked for, both together, end to end. Every stage
resumes where it stopped, and starts anew with --fresh. `torchrun --nproc-per-node 2 -m pipelines.train CONFIG` trains with several
processes, see parallel.py.
"""

import copy
import hashlib
import json
import logging
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import checkpoint
from models.base import Backbone
from models.heads import VideoClassifier
from models.small import SPEC, SmallBackbone
from pipelines import evaluate, graphs, parallel
from pipelines.backbone import described, ready
from pipelines.card import card_text, commit, make_card
from pipelines.clips import Look, StoredClips, cache_clips, cache_features, some_clips
from pipelines.config import Config
from pipelines.datasets import BACKGROUND, SPLITS, Found, LabelledVideo, Problem, complete, overlap
from pipelines.device import pick
from pipelines.features import Seen, extract
from pipelines.onnx_weights import strip
from pipelines.quantize import quantize
from pipelines.recognizer import Recognizer
from pipelines.runtime import OnnxSmall
from pipelines.train_backbone import train_backbone
from pipelines.train_crt import Example, sequences, train_crt
from pipelines.train_end_to_end import train_end_to_end

log = logging.getLogger(__name__)
INTEGERS = "convolutions of the backbone in 8 bits (static, per channel), ranges from clips of the training split"
STAGES = ("backbone", "features", "crt", "evaluate")


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


@dataclass(frozen=True, slots=True)
class Prepared:
    """A backbone that has seen all videos."""

    backbone: Backbone
    graphs: Mapping[str, bytes]
    """To run in its place, if there are any."""
    half: bool
    """Whether its weights are stored in half precision, which loses nothing more then."""
    about: dict[str, str]
    """For the card: what it is and its arithmetic."""
    seen: dict[str, Seen]
    """By video."""
    again: dict[str, list[np.ndarray]]
    """float32[N, F] each: some once more, by other cameras in another light."""


def prepare(config: Config, found: Found) -> tuple[Found, Prepared]:
    """Trains the backbone or takes the one that is asked for, and extracts its features.

    Of the data set, what could not be decoded is left out.
    """
    device = pick(config.device)
    again: dict[str, list[np.ndarray]] = {}
    if config.backbone.training is None:
        cache, problems = parallel.first_then_others(
            lambda: extract(found.videos, config.backbone, config.features, processes=config.threads, device=device)
        )
        found = without(config, found, problems)
        for look, videos in looks_of(config, found):
            once_more, _ = parallel.first_then_others(
                partial(
                    extract, videos, config.backbone, config.features,
                    processes=config.threads, device=device, look=look,
                )
            )  # fmt: skip
            for video in videos:
                again.setdefault(video.name, []).append(once_more.load(video).features_NF.astype(np.float32))
        backbone, graphs, half = ready(config.backbone, config.threads)
        about = {"backbone": described(config.backbone), "integers": "as the backbone came"}
        return found, Prepared(backbone, graphs, half, about, {v.name: cache.load(v) for v in found.videos}, again)
    files, problems = kept_clips(config, found)
    found = without(config, found, problems)
    backbone = train_backbone(config, complete(found).videos, files)
    backbone.half().float()  # as it will be stored
    # The CRT learns from what it will see: features in the integers that will serve.
    integers = quantize(backbone, some_clips([files[v.name] for v in found.of("train")]))
    serving = OnnxSmall(integers, threads=config.threads)
    key = hashlib.sha256(b"".join(integers.values())).hexdigest()[:16]

    def further(look_at: Look | None, some: dict[str, Path]) -> dict[str, np.ndarray]:
        return parallel.first_then_others(
            lambda: cache_features(serving, key, some, config.features, threads=config.threads, look=look_at)
        )

    features = further(None, files)
    for look_at, videos in looks_of(config, found):
        seen = further(look_at, {video.name: files[video.name] for video in videos})
        for name, look_features in seen.items():
            again.setdefault(name, []).append(look_features)
    timed = {name: Seen(found, StoredClips(files[name]).times_N2) for name, found in features.items()}
    start = torch.load(config.run / "backbone.pt", weights_only=True).get("start")
    about = {
        "backbone": "SmallBackbone, trained on half-second clips with what is visible in them, and with the joints where the data set knows them"
        + (f"; begun with the weights of {start}" if start else ""),
        "integers": INTEGERS,
    }  # fmt: skip
    return found, Prepared(backbone, integers, True, about, timed, again)


def looks_of(config: Config, found: Found) -> Iterator[tuple[Look, list[LabelledVideo]]]:
    """The further looks at training videos that are asked for."""
    training = config.backbone.training
    overhead = training is not None and training.overhead
    for untrimmed, count in ((True, config.further.untrimmed), (False, config.further.trimmed)):
        some = [video for video in found.of("train") if (video.label is None) == untrimmed]
        for number in range(count if some else 0):
            yield Look(number, overhead), some


def tuned(
    config: Config, found: Found, prepared: Prepared, classifier: VideoClassifier, examples: list[Example]
) -> tuple[Prepared, VideoClassifier]:
    """Both, trained together from where they stand."""
    spec = prepared.backbone.spec
    files, _ = parallel.first_then_others(
        lambda: cache_clips(found.of("train"), spec, config.run / "pixels", workers=config.threads)
    )
    backbone, classifier = train_end_to_end(config, prepared.backbone, classifier, examples, files)
    graphs: Mapping[str, bytes] = {}
    if isinstance(backbone, SmallBackbone):
        backbone.half().float()  # as it will be stored
        graphs = quantize(backbone, some_clips(list(files.values())))
    about = prepared.about | {
        "backbone": f"{prepared.about['backbone']}; then trained together with the CRT, end to end",
        "without_memory": "The writer `none` shows what the same data gave before that, without a memory and with the backbone as it was: "
        "the difference is not the memory's alone.",
    }
    if graphs:
        about["integers"] = INTEGERS
    return replace(prepared, backbone=backbone, graphs=graphs, about=about), classifier


def kept_clips(config: Config, found: Found) -> tuple[dict[str, Path], list[Problem]]:
    """The clips that the small backbone trains on."""
    return parallel.first_then_others(
        lambda: cache_clips(found.videos, SPEC, config.run / "pixels", workers=config.threads)
    )


def without(config: Config, found: Found, problems: list[Problem]) -> Found:
    """The data set less what could not be decoded. Raises BadDataset where that is fatal."""
    bad = {problem.what for problem in problems}
    kept = [video for video in found.videos if video.name not in bad]
    return config.data.accept(replace(found, videos=kept, problems=[*found.problems, *problems]))


def write_config(config: Config) -> None:
    """What the run is made with, and by which code."""
    if parallel.rank() == 0:
        (config.run / "config.json").write_text(config.model_dump_json(indent=2))
        (config.run / "code.json").write_text(
            json.dumps({"commit": commit(), "torch": torch.__version__, "python": platform.python_version()})
        )


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
    if not any(config.run.glob("*.pt")):
        write_config(config)
    training = config.backbone.training
    if training is not None and training.start is not None and not (config.run / "backbone.pt").exists():
        checkpoint.read(training.start)  # what it begins with has to be there, before hours of decoding
    found = config.data.find()
    if until != "features":
        complete(found)
    if not config.crt.several and (together := overlap(found.of("train"))):
        log.warning(
            "several labels at once in %.1f %% of the labelled time: the one that began last is learned; `crt: {several: true}` learns them all",
            100 * together,
        )
    if until == "backbone":
        if config.backbone.training is not None:
            files, problems = kept_clips(config, found)
            train_backbone(config, complete(without(config, found, problems)).videos, files)
        return {}
    found, prepared = prepare(config, found)
    for problem in found.problems:
        log.warning("%s", problem)
    if until == "features":
        return {}
    complete(found)  # less what could not be decoded
    labels = [BACKGROUND, *(label for label in found.classes if label != BACKGROUND)]
    data = {split: sequences(found.of(split), prepared.seen, labels, several=config.crt.several) for split in SPLITS}
    data["train"] = [replace(s, looks=tuple(prepared.again.get(s.name, ()))) for s in data["train"]]
    classifier = train_crt(config, data, labels)
    write_config(config)  # what went on is what was begun
    plain = config.model_copy(update={"crt": config.crt.model_copy(update={"writer": "none"})})
    forgetful = train_crt(plain, data, labels)
    if until == "crt":
        return {}
    before = prepared
    if config.end_to_end is not None:
        prepared, classifier = tuned(config, found, prepared, classifier, data["train"])
    if parallel.rank() > 0:
        return {}
    target = output or config.run / "model"
    measured: dict[str, Any] = {}
    for name, seen_by, trained, folder in (
        ("without", before, forgetful, config.run / "model-none"),
        ("with", prepared, classifier, config.run / "model"),
    ):
        # Measured is what was stored: weights and graphs as they will serve, loaded again.
        save_model(config, seen_by, trained, labels, {}, folder)
        recognizer = Recognizer(checkpoint.load(folder), threads=config.threads, device=pick(config.device))
        answers = evaluate.measure(recognizer, found.of("test"), threads=config.threads)
        measured[name] = answers.figures()
    for name, value in measured["with"].items():
        if not isinstance(value, list | dict):
            log.info("%-30s %8s   writer none %8s", name, value, measured["without"][name])
    card = make_card(config, found, prepared.about, measured["with"], measured["without"])
    if homes is not None:
        card["accuracy"]["real_homes"] = evaluate.measure_falls(
            Recognizer(checkpoint.load(config.run / "model"), threads=config.threads, device=pick(config.device)), homes
        )
        log.info("real homes: %s", card["accuracy"]["real_homes"])
    (config.run / "card.json").write_text(json.dumps(card, indent=2))
    save_model(config, prepared, classifier, labels, card, target)
    (target / "README.md").write_text(card_text(config.name, tuple(labels), card))
    if plot is not None and "drinks_by_gap" not in measured["with"]:
        log.warning("%s is not drawn: the test split has no drinks whose container was to be seen before", plot)
    elif plot is not None:
        plot_gap(measured["with"], measured["without"], plot)
    from pipelines.report import write_report  # matplotlib takes a second, which each worker would wait for

    write_report(config.run / "report.html", checkpoint.read(target), found.title, "test", answers)
    log.info("the model is in %s, pictures of what it says in %s", target, config.run / "report.html")
    return card


def save_model(
    config: Config,
    prepared: Prepared,
    classifier: VideoClassifier,
    labels: list[str],
    card: dict[str, Any],
    folder: Path,
) -> None:
    """The classifier's weights go to the file as the backbone's do; so do those in its graph."""
    weights = checkpoint.weights_of(prepared.backbone, classifier, half=prepared.half)
    stored = copy.deepcopy(classifier)
    made = {**prepared.graphs, "classify": graphs.classify(stored.half().float() if prepared.half else stored)}
    checkpoint.save(
        folder, prepared.backbone, classifier, name=config.name, labels=labels, background=BACKGROUND, card=card, half=prepared.half,
        graphs={name: strip(graph, weights) for name, graph in made.items()},
    )  # fmt: skip
