"""Training and evaluation: from videos to a model folder on a HomeSim set of a few tiny recordings, and figures by hand."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import torch

from models import checkpoint, networks
from models.small import SPEC, SmallBackbone
from pipelines import train_backbone
from pipelines import train_crt as train_crt_module
from pipelines import train_end_to_end as end_to_end
from pipelines.clips import Look, StoredClips, cache_clips, second_look
from pipelines.config import BadConfig, Config, read_config
from pipelines.datasets import BadDataset, LabelledVideo, Span, read_homesim
from pipelines.homesim.make import make, write_video
from pipelines.homesim.scenario import POSE_JOINTS, Recording
from pipelines.train import plot_gap, run
from pipelines.train_backbone import augment, by_side
from pipelines.train_crt import (
    IGNORE,
    Example,
    chunks,
    class_weights,
    classifier_for,
    drawn,
    mixed,
    predict_all,
    segment_targets,
    train_crt,
)
from tests.assets import numbered

HOME = {"kind": "homesim", "folder": "."}
BACKBONE = {"training": {}}


def film(path: Path, seconds: float) -> None:
    """A small video of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    write_video(path, (rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(round(10 * seconds))), 10)


def test_joints_are_told_by_the_side_on_which_they_are_seen():
    """The hand further left comes first, with its height; where one of two is not seen, neither is told."""
    joints = np.zeros((len(POSE_JOINTS), 3), np.float32)
    joints[3:7] = [(0.8, 0.1, 1.0), (0.2, 0.5, 2.0), (0.4, 0.0, 0.5), (0.3, np.nan, np.nan)]
    joints[6, 0] = np.nan
    told = by_side(joints)
    assert told[3].tolist() == [np.float32(x) for x in (0.2, 0.5, 2.0)]
    assert told[4].tolist() == [np.float32(x) for x in (0.8, 0.1, 1.0)]
    assert np.isnan(told[5:7]).all()
    assert (told[:3] == 0).all()


def test_what_a_training_begins_with_has_to_be_there_before_anything_is_decoded(tmp_path):
    """Hours of decoding come first; the videos are not even looked for."""
    nowhere = {"kind": "homesim", "folder": tmp_path / "no videos"}
    backbone = {"training": {"start": tmp_path / "no model"}}
    config = Config.model_validate({"data": nowhere, "run": tmp_path / "run", "name": "x", "backbone": backbone})
    with pytest.raises(checkpoint.BadCheckpoint, match="no model"):
        run(config)


@pytest.mark.parametrize("overhead", [False, True])
def test_joints_stay_on_the_pixels_that_show_them(overhead):
    """However a clip is varied: a spot on dark ground, and a joint in its middle. From the ceiling, it may go anywhere."""
    yy, xx = np.mgrid[:96, :128]
    spot = (np.hypot(yy - 40, xx - 90) < 4).astype(np.uint8) * 200
    picture = np.repeat(spot[..., None], 12, axis=2)
    joints = np.array([[90.5 / 128, 40.5 / 96, 1.0]], np.float32)
    places = []
    for seed in range(60):
        seen, moved = augment(picture, joints, np.random.default_rng(seed), overhead=overhead)
        assert seen.shape == picture.shape
        assert (seen == seen[..., :1]).all()  # one way for all frames
        if np.isnan(moved).any():
            continue
        there = np.argwhere(seen[..., 0] > 90).mean(0) + 0.5
        assert there == pytest.approx(moved[0, 1::-1] * (96, 128), abs=1.0)
        places.append(moved[0, 1])
    assert len(places) > 30
    assert (
        np.min(places) < 0.25
    ) == overhead  # upright, the spot stays in the upper half, but never so near to the top
    assert (np.max(places) > 0.75) == overhead


def test_a_segments_target_is_its_most_frequent_label():
    """Of two as frequent, the later; padding does not count."""
    targets = torch.tensor([[3, 3, 1, 0], [1, 1, 2, 2], [0, IGNORE, IGNORE, IGNORE], [IGNORE] * 4])
    assert segment_targets(targets, 4).tolist() == [3, 2, 0, IGNORE]


def recall_task(rng, count, writer_gap=6):
    """A symbol in the first segment, then noise, then a cue that asks for it: what HomeSim's drinks are, in numbers."""
    made = []
    for index in range(count):
        symbol = int(rng.integers(2))
        x = rng.normal(0, 0.1, (4 * writer_gap, 8)).astype(np.float32)
        y = np.zeros(len(x), np.int64)
        x[:4, symbol] += 2
        x[-4:, 5] += 2
        y[-4:] = 1 + symbol
        made.append(Example(str(index), x, y, False))
    return made


@pytest.mark.parametrize(("writer", "low", "high"), [("gru", 0.97, 1.0), ("none", 0.2, 0.8)])
def test_training_teaches_the_memory_what_to_keep(tmp_path, writer, low, high):
    """Asked five segments after the symbol: a GRU knows it, a plain Transformer guesses."""
    rng = np.random.default_rng(0)
    crt = {
        "width": 32, "memory": 32, "layers": 1, "heads": 2, "hidden": 64, "writer": writer, "epochs": 30, "lanes": 8, "unroll": 12,
        "learning_rate": 5e-3, "feature_noise": 0.0, "dropout": 0.0,
    }  # fmt: skip
    config = Config(data=HOME, run=tmp_path, name="t", backbone=BACKBONE, crt=crt)
    data = {"train": recall_task(rng, 96), "validation": recall_task(rng, 8)}
    classifier = train_crt(config, data, ["Background", "A", "B"])
    held_out = recall_task(rng, 64)
    scores = predict_all(classifier, held_out, 4)
    right = np.mean(
        [s[-1, 1:].argmax() + 1 == sequence.targets[-1] for s, sequence in zip(scores, held_out, strict=True)]
    )
    assert low <= right <= high


def test_several_labels_at_once_are_all_learned(tmp_path):
    """Two things that come and go on their own: each is sure when it is there, also beside the other; one that no example shows never is."""
    labels = ["Background", "A", "B", "Never"]

    def some(count, rng):
        made = []
        for index in range(count):
            there = rng.integers(2, size=(6, 2)).repeat(4, 0).astype(bool)  # of each segment's four clips
            x = rng.normal(0, 0.1, (24, 8)).astype(np.float32)
            x[:, :2] += 2 * there
            truth = np.stack([~there.any(1), there[:, 0], there[:, 1], np.zeros(24, bool)], 1)
            made.append(Example(str(index), x, truth.argmax(1), False, truth_NC=truth))
        return made

    crt = {
        "width": 32, "memory": 32, "layers": 1, "heads": 2, "hidden": 64, "epochs": 20, "lanes": 8, "unroll": 6,
        "learning_rate": 5e-3, "feature_noise": 0.0, "dropout": 0.0, "several": True,
    }  # fmt: skip
    config = Config(data=HOME, run=tmp_path, name="t", backbone=BACKBONE, crt=crt)
    rng = np.random.default_rng(0)
    classifier = train_crt(config, {"train": some(64, rng), "validation": some(8, rng)}, labels)
    held_out = some(32, rng)
    scores = np.concatenate(predict_all(classifier, held_out, 4))
    truth = np.concatenate([one.truth_NC[::4] for one in held_out])
    assert ((scores >= 0.5) == truth).mean() > 0.97
    assert truth.sum(1).max() == 2
    assert scores[:, 3].max() < 0.2


def test_a_run_that_began_before_there_was_a_choice_of_several_goes_on(tmp_path):
    """Its file does not say; what it says is not held against it. One that learns several is another run, also with the same features."""
    rng = np.random.default_rng(0)
    data = {"train": recall_task(rng, 4), "validation": recall_task(rng, 2)}
    crt = {"width": 16, "memory": 16, "layers": 1, "heads": 2, "hidden": 16, "epochs": 1, "lanes": 2}
    config = Config(data=HOME, run=tmp_path, name="t", backbone=BACKBONE, crt=crt)
    train_crt(config, data, ["Background", "A", "B"])
    assert "several" not in torch.load(tmp_path / "crt-gru.pt", weights_only=True)["options"]
    train_crt(config, data, ["Background", "A", "B"])
    truth = {
        split: [replace(one, truth_NC=np.eye(3, dtype=bool)[one.targets]) for one in some]
        for split, some in data.items()
    }
    for crt_of, given in ((crt | {"several": True}, truth), (crt, truth)):
        with pytest.raises(BadConfig, match="begun otherwise"):
            train_crt(
                config.model_copy(
                    update={"crt": Config(data=HOME, run=tmp_path, name="t", backbone=BACKBONE, crt=crt_of).crt}
                ),
                given,
                ["Background", "A", "B"],
            )


def test_mixtures_of_several_labels_are_true_by_their_shares():
    """Of two trimmed videos, each of one label and one that is always there."""
    data = [
        Example(str(k), np.full((4, 2), k, np.float32), np.full(4, k), True, truth_NC=np.tile([k == 0, k == 1, True], (4, 1)))
        for k in range(2)
    ]  # fmt: skip
    options = Config(
        data=HOME, run=".", name="t", backbone=BACKBONE, crt={"mixup": 0.4, "several": True, "lanes": 2}
    ).crt
    for seed in range(5):
        for chunk in chunks(data, options, np.random.default_rng(seed)):
            of_one = chunk.features_SBLF[..., 0][chunk.mask_SBL]
            assert torch.allclose(chunk.truth_SBLC[chunk.mask_SBL][:, 1], of_one, atol=1e-6)
            assert torch.allclose(chunk.truth_SBLC[chunk.mask_SBL].sum(1), torch.tensor(2.0))


def test_an_epoch_shows_every_clip_once_and_starts_each_video_afresh():
    """Whatever the lanes; cut from the first clip on."""
    data = [Example(str(n), np.full((n, 2), n, np.float32), np.full(n, n % 3), False) for n in (3, 8, 9, 17)]
    options = Config(data=HOME, run=".", name="t", backbone=BACKBONE, crt={"lanes": 3, "unroll": 2, "shift": False}).crt
    seen, fresh = [], 0
    for chunk in chunks(data, options, np.random.default_rng(1)):
        seen += chunk.features_SBLF[chunk.mask_SBL][:, 0].tolist()
        fresh += int(chunk.fresh_SB.sum())
        assert (chunk.targets_SBL[~chunk.mask_SBL] == IGNORE).all()
    assert sorted(seen) == sorted(float(n) for n in (3, 8, 9, 17) for _ in range(n))
    assert fresh == 4


def test_the_whole_run_makes_a_model_and_resumes(tmp_path):
    """Four recordings, two steps: what comes out loads as a checkpoint with measured figures; a second call trains nothing anew."""
    recordings = [
        Recording(1, 1, 0, 1, "Drink.Fromcup"), Recording(2061, 2062, 0, 5, "Walk"), Recording(2280, 2281, 0, 2, "Walk"),
        Recording(1, 1, 0, 1, None, 20.0), Recording(2282, 2281, 0, 2, None, 20.0), Recording(2063, 2061, 0, 5, None, 20.0),
    ]  # fmt: skip
    list(make(recordings, tmp_path / "data", width=64, height=48, seed=0, workers=1))
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"data: {{kind: homesim, folder: {tmp_path / 'data'}}}\nrun: {tmp_path / 'run'}\nname: tiny\nthreads: 1\n"
        "backbone: {training: {steps: 2, batch: 4, checkpoint_every: 2}}\ncrt: {epochs: 1, lanes: 2, width: 32, memory: 16, hidden: 32}\n"
    )
    card = run(read_config(path))
    assert card["accuracy"]["test"]["trimmed_clips"] == 1
    assert 0 <= card["accuracy"]["test"]["untrimmed_frame_accuracy"] <= 1
    assert (tmp_path / "run" / "report.html").read_text().count("<img") >= 4
    model = checkpoint.load(tmp_path / "run" / "model")
    assert model.labels[0] == model.background == "Background"
    assert model.card["data"]["videos"]["train"] == {"trimmed": 1, "untrimmed": 1}
    again = run(read_config(path), output=tmp_path / "second")
    assert again["accuracy"] == json.loads(json.dumps(card["accuracy"]))
    assert checkpoint.load(tmp_path / "second").digest == model.digest


def test_what_has_seen_other_videos_is_not_gone_on_with(tmp_path):
    """The next fold in the same folder would be measured on people whom the weights know: refused, and nothing there is overwritten.

    A folder named Background is the background: its clips count, and no label is there twice.
    """
    for n, (label, place) in enumerate(zip(["Walk", "Sit", "Background"] * 4, "abcdabcdabcd", strict=True)):
        film(tmp_path / "data" / label / f"{place}{n}.mp4", seconds=1.0 + n % 2)
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"data: {{kind: folders, folder: {tmp_path / 'data'}, group: '/([a-d])', folds: 4}}\nrun: {tmp_path / 'run'}\nname: tiny\nthreads: 1\n"
        "backbone: {checkpoint: models/bundled}\ncrt: {epochs: 1, lanes: 2, width: 32, memory: 16, hidden: 32}\n"
    )
    card = run(read_config(path))
    assert checkpoint.load(tmp_path / "run" / "model").labels == ("Background", "Sit", "Walk")
    assert set(card["accuracy"]["test"]["trimmed_class_accuracy"]) == {"Background", "Sit", "Walk"}
    before = (tmp_path / "run" / "config.json").read_text()
    with pytest.raises(BadConfig, match=r"crt-gru\.pt was begun otherwise: what it learns from .*--set run=FOLDER"):
        run(read_config(path, ["data.fold=1"]))
    with pytest.raises(BadConfig, match="seed was 0 and is 3"):
        run(read_config(path, ["seed=3"]))
    assert (tmp_path / "run" / "config.json").read_text() == before
    assert run(read_config(path))["accuracy"] == card["accuracy"]
    other = run(read_config(path, ["data.fold=1", f"run={tmp_path / 'other'}"]))
    assert other["accuracy"] != card["accuracy"]


def test_what_no_example_shows_is_not_taught():
    """A data set without background: no clip has it, so neither the loss's weights nor label smoothing may ask for it."""
    data = [Example(str(k), np.zeros((2, 4), np.float32), np.full(2, 1 + k % 2), True) for k in range(6)]
    weights = class_weights(data, 3, 1.0)
    assert weights.tolist() == [0.0, 1.0, 1.0]
    logits = torch.zeros(1, 3, requires_grad=True)
    torch.nn.functional.cross_entropy(logits, torch.tensor([1]), weights, label_smoothing=0.1).backward()
    asked = torch.softmax(logits.detach(), 1) - logits.grad  # what the loss wants each probability to be
    assert asked[0, 0] == pytest.approx(0.0, abs=0.02)


def test_what_is_drawn_more_often_is_not_weighed_more_as_well():
    """Two classes, of which one has four times the clips: balanced sampling shows them alike, and there is nothing left to weigh."""
    data = [Example(str(k), np.zeros((5, 4), np.float32), np.full(5, int(k < 2)), True) for k in range(10)]
    assert class_weights(data, 2, 1.0).tolist() == pytest.approx([0.4, 1.6])
    assert class_weights(data, 2, 1.0, balanced=True).tolist() == pytest.approx([1.0, 1.0])
    day = Example("day", np.zeros((30, 4), np.float32), np.zeros(30, int), False)
    assert class_weights([*data, day], 2, 1.0, balanced=True).tolist() == pytest.approx([0.625, 1.375])  # as 55 to 25


def test_a_small_sets_average_holds_nothing_of_chance_and_its_rate_ends_at_zero(tmp_path, monkeypatch):
    """Six steps in all: what is saved is near what was trained, and the schedule is as long as the training."""
    rates, real = [], torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda self, *given: (rates.append(self.param_groups[0]["lr"]), real(self, *given))[1],
    )
    data = {split: recall_task(np.random.default_rng(k), 8) for k, split in enumerate(("train", "validation"))}
    config = Config(
        data=HOME, run=tmp_path, name="t", backbone=BACKBONE, crt=SMALL_CRT | {"epochs": 3, "learning_rate": 0.01}
    )
    average = train_crt(config, data, ["Background", "A", "B"])
    state = torch.load(tmp_path / "crt-gru.pt", weights_only=True)
    torch.manual_seed(0)
    fresh = classifier_for(config.crt, 8, 3)
    for name, now in average.state_dict().items():
        moved = (state["classifier"][name] - fresh.state_dict()[name]).norm()
        assert (now - state["classifier"][name]).norm() <= 0.6 * moved, name
    assert len(rates) == state["schedule"]["total_steps"]
    assert rates[-1] < 0.01 * max(rates)


def test_drinks_over_the_gap_are_drawn(tmp_path):
    """With and without memory."""
    points = [
        {"low": 0, "high": 5, "drinks": 3, "accuracy": 1.0},
        {"low": 20, "high": 30, "drinks": 2, "accuracy": 0.5},
    ]
    plot_gap({"drinks_by_gap": points}, {"drinks_by_gap": points[:1]}, tmp_path / "gap.png")
    assert cv2.imread(str(tmp_path / "gap.png")).std() > 10


def test_a_configuration_with_a_wrong_value_names_file_and_field(tmp_path):
    """As does one with an unknown field."""
    path = tmp_path / "c.yaml"
    path.write_text("data: {kind: homesim, folder: a}\nrun: b\nname: c\nbackbone: {training: {steps: 0}}\n")
    with pytest.raises(BadConfig, match=r"c\.yaml: backbone\.training\.steps"):
        read_config(path)
    path.write_text("data: {kind: homesim, folder: a}\nrun: b\nname: c\nbackbone: {training: {}}\ncrt: {heads: 5}\n")
    with pytest.raises(BadConfig, match=r"c\.yaml: crt: .*width must be a multiple of heads, got 192 and 5"):
        read_config(path)
    path.write_text("data: {kind: homesim, folder: a}\nrun: b\nname: c\nbackbone: {training: {}}\ncrt: {segment: 0}\n")
    with pytest.raises(BadConfig, match=r"c\.yaml: crt\.segment"):
        read_config(path)
    path.write_text("data: {kind: homesim, folder: a}\nrun: b\nname: c\nstep: 3\n")
    with pytest.raises(BadConfig, match="step"):
        read_config(path)


def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    """From its last checkpoint on, to the same weights; with other options it does not go on at all."""
    recordings = [Recording(1, 1, 0, 1, "Walk"), Recording(2061, 2062, 0, 5, "Walk")]
    list(make(recordings, tmp_path / "data", width=64, height=48, seed=0, workers=1))
    videos = read_homesim(tmp_path / "data")
    files, _ = cache_clips(videos, SPEC, tmp_path / "pixels", workers=1)

    def train(name, steps=4):
        options = {"steps": steps, "batch": 4, "checkpoint_every": 2, "bf16": False}
        config = Config(data=HOME, run=tmp_path / name, name="t", threads=1, backbone={"training": options})
        config.run.mkdir(exist_ok=True)
        return train_backbone.train_backbone(config, videos, files)

    whole = train("whole")
    measured, real = [], train_backbone.accuracy

    def stopped(*given, **named):
        measured.append(1)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(train_backbone, "accuracy", stopped)
    with pytest.raises(KeyboardInterrupt):
        train("cut")
    monkeypatch.undo()
    for (name, mine), (_, theirs) in zip(whole.named_parameters(), train("cut").named_parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    with pytest.raises(BadConfig, match="steps was 4 and is 5"):
        train("cut", steps=5)


def test_a_training_that_begins_with_a_model_teaches_all_of_its_backbone(tmp_path):
    """No weight stays as it came: what a checkpoint gives to serve is not learned, what it gives to begin with is."""
    recordings = [Recording(1, 1, 0, 1, "Walk"), Recording(2061, 2062, 0, 5, "Walk")]
    list(make(recordings, tmp_path / "data", width=64, height=48, seed=0, workers=1))
    files, _ = cache_clips(videos := read_homesim(tmp_path / "data"), SPEC, tmp_path / "pixels", workers=1)
    begun = {"start": "models/bundled", "steps": 2, "batch": 4, "checkpoint_every": 2, "bf16": False, "ema": 0.0}
    config = Config(data=HOME, run=tmp_path / "run", name="t", threads=1, backbone={"training": begun})
    config.run.mkdir()
    learned = dict(train_backbone.train_backbone(config, videos, files).named_parameters())
    came = networks.backbone(checkpoint.read(Path("models/bundled")))
    assert [name for name, weight in came.named_parameters() if torch.equal(weight, learned[name])] == []


def test_a_processor_without_bfloat16_trains_in_float32(tmp_path, monkeypatch):
    """Asked for bfloat16, it comes to the very weights of a training in float32; one that has it does not."""
    recordings = [Recording(1, 1, 0, 1, "Walk"), Recording(2061, 2062, 0, 5, "Walk")]
    list(make(recordings, tmp_path / "data", width=64, height=48, seed=0, workers=1))
    files, _ = cache_clips(videos := read_homesim(tmp_path / "data"), SPEC, tmp_path / "pixels", workers=1)

    def train(name, *, bf16, has):
        monkeypatch.setattr(train_backbone, "bfloat16", lambda device: has)
        options = {"steps": 1, "batch": 2, "checkpoint_every": 1, "bf16": bf16}
        config = Config(data=HOME, run=tmp_path / name, name="t", threads=1, backbone={"training": options})
        config.run.mkdir()
        return torch.cat([p.flatten() for p in train_backbone.train_backbone(config, videos, files).parameters()])

    plain = train("plain", bf16=False, has=True)
    assert torch.equal(train("without", bf16=True, has=False), plain)
    assert not torch.equal(train("with", bf16=True, has=True), plain)


SMALL_CRT = {
    "width": 32, "memory": 32, "layers": 1, "heads": 2, "hidden": 64, "lanes": 8, "unroll": 4, "epochs": 4, "mixup": 0.3,
    "sampling": "balanced",
}  # fmt: skip


@pytest.mark.parametrize("writer", ["gru", "ncgru"])
def test_a_crt_that_was_stopped_ends_with_the_very_same_numbers(tmp_path, monkeypatch, writer):
    """Stopped after two epochs of four, by a validation that is interrupted; losses equal to the bit."""
    data = {split: recall_task(np.random.default_rng(k), 16) for k, split in enumerate(("train", "validation"))}
    data["train"] = [replace(one, trimmed=True) for one in data["train"]]
    losses = {"whole": [], "cut": []}

    def train(name):
        config = Config(data=HOME, run=tmp_path / name, name="t", backbone=BACKBONE, crt=SMALL_CRT | {"writer": writer})
        config.run.mkdir(exist_ok=True)
        real = train_crt_module.SummaryWriter.add_scalar
        monkeypatch.setattr(
            train_crt_module.SummaryWriter,
            "add_scalar",
            lambda self, tag, value, step: (losses[name].append((tag, step, value)), real(self, tag, value, step))[1],
        )
        try:
            return train_crt(config, data, ["Background", "A", "B"])
        finally:
            monkeypatch.setattr(train_crt_module.SummaryWriter, "add_scalar", real)

    whole = train("whole")
    real, seen = train_crt_module.clip_accuracy, []

    def stopped(*given):
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(train_crt_module, "clip_accuracy", stopped)
    with pytest.raises(KeyboardInterrupt):
        train("cut")
    monkeypatch.setattr(train_crt_module, "clip_accuracy", real)
    again = train("cut")
    assert losses["cut"] == losses["whole"]
    assert len(losses["cut"]) == 8
    for (name, mine), (_, theirs) in zip(whole.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(mine, theirs), name


def test_mixtures_are_of_two_videos_and_balanced_epochs_show_classes_alike():
    """The shorter one's clips, each a share of both; of nine videos of one class and one of another, each class half of the time."""
    data = [
        Example(str(k), np.full((4 + k % 2, 2), float(k == 9), np.float32), np.full(4 + k % 2, int(k == 9)), True)
        for k in range(10)
    ]
    options = Config(data=HOME, run=".", name="t", backbone=BACKBONE, crt={"mixup": 0.4, "sampling": "balanced"}).crt
    rare = shares = 0
    for epoch in range(40):
        rng = np.random.default_rng(epoch)
        order = drawn(data, options, rng)
        assert len(order) == 10
        for one in mixed(data, order, options, rng):
            rare += int(one.targets[0] == 1)
            shares += 0 < one.share < 1
            expected = one.share * one.targets + (1 - one.share) * one.others
            assert one.features(slice(None, len(one.targets)))[:, 0] == pytest.approx(expected, abs=1e-6)
    assert 150 < rare < 250
    assert shares > 390


def test_end_to_end_teaches_the_backbone_through_the_memory(tmp_path):
    """Stopped and gone on with; both have learned, and what is stored is what was trained, in integers of its own."""
    recordings = [Recording(k, 1, 0, 1, label) for k, label in enumerate(("Walk", "Sitdown"))]
    recordings += [Recording(2061, 2062, 0, 5, "Walk"), Recording(2280, 2281, 0, 2, "Walk")]
    list(make(recordings, tmp_path / "data", width=64, height=48, seed=0, workers=1))
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"data: {{kind: homesim, folder: {tmp_path / 'data'}}}\nrun: {tmp_path / 'run'}\nname: tiny\nthreads: 1\n"
        "backbone: {checkpoint: models/bundled}\ncrt: {epochs: 1, lanes: 2, width: 32, memory: 16, hidden: 32}\n"
        "end_to_end: {epochs: 2, lanes: 2, unroll: 2, bf16: false}\n"
    )
    config = read_config(path)
    run(config)
    frozen, after = checkpoint.load(tmp_path / "run" / "model-none"), checkpoint.load(tmp_path / "run" / "model")
    moved = [
        k for k, v in frozen.weights.items() if k.startswith("backbone.") and np.abs(v - after.weights[k]).max() > 0
    ]
    assert len(moved) > 20
    assert frozen.graphs["look_closer"] != after.graphs["look_closer"]
    before = torch.load(tmp_path / "run" / "crt-gru.pt", weights_only=True)["average"]["crt.writer.rnn.weight_hh_l0"]
    assert (before.half().numpy() != after.weights["classifier.crt.writer.rnn.weight_hh_l0"]).any()
    assert "end to end" in after.card["method"]["backbone"]
    state = torch.load(tmp_path / "run" / "end-to-end.pt", weights_only=True)
    again = run(read_config(path, ["end_to_end.epochs=2"]), output=tmp_path / "again")
    assert again["accuracy"] == json.loads(json.dumps(after.card["accuracy"]))
    assert state["epoch"] == 2


@pytest.mark.parametrize("writer", ["gru", "ncgru"])
def test_an_end_to_end_training_that_was_stopped_ends_with_the_very_same_numbers(tmp_path, monkeypatch, writer):
    """Interrupted in the middle of its second epoch of three, and gone on with by what knows only the folder: losses and weights to the bit."""
    recordings = [Recording(1, 1, 0, 1, "Walk"), Recording(2, 1, 0, 1, "Sitdown")]
    list(make(recordings, tmp_path / "data", width=64, height=48, seed=0, workers=1))
    videos = read_homesim(tmp_path / "data")
    files, _ = cache_clips(videos, SPEC, tmp_path / "pixels", workers=1)
    lengths = [len(StoredClips(files[video.name])) for video in videos]
    examples = [
        Example(video.name, np.zeros((n, SPEC.feature_width), np.float32), np.full(n, 1 + k), True)
        for k, (video, n) in enumerate(zip(videos, lengths, strict=True))
    ]
    small = {"width": 32, "memory": 16, "layers": 1, "heads": 2, "hidden": 32, "writer": writer, "dropout": 0.2}
    options = {"epochs": 3, "lanes": 1, "unroll": 2, "bf16": False}
    losses = {"whole": [], "cut": []}

    def train(name):
        config = Config(data=HOME, run=tmp_path / name, name="t", backbone=BACKBONE, crt=small, end_to_end=options)
        config.run.mkdir(exist_ok=True)
        torch.manual_seed(7)
        backbone, classifier = SmallBackbone(), classifier_for(config.crt, SPEC.feature_width, 3)
        torch.manual_seed(time.time_ns())  # what came before must not matter
        with monkeypatch.context() as patch:
            real = end_to_end.SummaryWriter.add_scalar
            patch.setattr(
                end_to_end.SummaryWriter,
                "add_scalar",
                lambda self, tag, value, step: (losses[name].append((step, value)), real(self, tag, value, step))[1],
            )
            return end_to_end.train_end_to_end(config, backbone, classifier, examples, files)

    whole = train("whole")
    assert len(losses["whole"]) == 3
    real, into_second = end_to_end.Pictures.clips, []

    def stopped(self, *given):
        into_second.extend([1] * len(losses["cut"]))
        if len(into_second) == 2:
            raise KeyboardInterrupt
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(end_to_end.Pictures, "clips", stopped)
        with pytest.raises(KeyboardInterrupt):
            train("cut")
    assert [step for step, _ in losses["cut"]] == [0]
    again = train("cut")
    assert losses["cut"] == losses["whole"]
    for one, other in zip(whole, again, strict=True):
        for (name, mine), (_, theirs) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
            assert torch.equal(mine, theirs), name


def test_two_processes_train_end_to_end_also_when_one_has_nothing_to_see(tmp_path):
    """A single video on two lanes: the second process sees nothing at all, and the weights come out as those of one process."""
    recordings = [
        Recording(1, 1, 0, 1, "Walk"),
        Recording(2061, 2062, 0, 5, "Walk"),
        Recording(2280, 2281, 0, 2, "Walk"),
    ]
    list(make(recordings, tmp_path / "data", width=64, height=48, seed=0, workers=1))
    ways = {"one": [], "two": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]}
    moved = {}
    for name, words in ways.items():
        (tmp_path / f"{name}.yaml").write_text(
            f"data: {{kind: homesim, folder: {tmp_path / 'data'}}}\nrun: {tmp_path / name}\nname: tiny\nthreads: 1\n"
            "backbone: {checkpoint: models/bundled}\nend_to_end: {epochs: 1, lanes: 2, unroll: 2, bf16: false}\n"
            "crt: {epochs: 1, lanes: 2, unroll: 2, width: 32, memory: 16, hidden: 32, dropout: 0, feature_noise: 0}\n"
        )
        done = subprocess.run(
            [sys.executable, "-m", *words, "pipelines.train", str(tmp_path / f"{name}.yaml")],
            cwd=Path(__file__).parents[2], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        after = torch.load(tmp_path / name / "end-to-end.pt", weights_only=True)["both"]
        before = checkpoint.load(tmp_path / name / "model-none").weights
        moved[name] = {
            key: after[key] - torch.from_numpy(before[key]).float()
            for key in ("backbone.closer8.0.weight", "backbone.glance8.0.weight")
        }
    for key, one in moved["one"].items():
        assert one.abs().max() > 1e-5
        assert torch.nn.functional.cosine_similarity(one.flatten(), moved["two"][key].flatten(), dim=0) > 0.95


def test_two_processes_train_what_one_trains(tmp_path):
    """As torchrun starts them, each with half of the lanes: the same weights but for rounding, and the first one alone writes."""
    recordings = [Recording(k, 1, 0, 1, label) for k, label in enumerate(("Walk", "Sitdown", "Walk", "Fall"))]
    recordings += [Recording(2061, 2062, 0, 5, "Walk"), Recording(2280, 2281, 0, 2, "Walk")]
    list(make(recordings, tmp_path / "data", width=64, height=48, seed=0, workers=1))
    ways = {"one": [], "two": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]}
    imported = {}
    for name, words in ways.items():
        (tmp_path / f"{name}.yaml").write_text(
            f"data: {{kind: homesim, folder: {tmp_path / 'data'}}}\nrun: {tmp_path / name}\nname: tiny\nthreads: 1\n"
            f"cache: {tmp_path / name / 'features'}\nbackbone: {{checkpoint: models/bundled}}\n"
            "crt: {epochs: 2, lanes: 4, unroll: 2, width: 32, memory: 16, hidden: 32, dropout: 0, feature_noise: 0}\n"
        )
        done = subprocess.run(
            [sys.executable, "-m", *words, "pipelines.train", str(tmp_path / f"{name}.yaml"), "--until", "crt"],
            cwd=Path(__file__).parents[2], env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPROFILEIMPORTTIME": "1"},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        imported[name] = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
    # What extracts features is a process of its own, and need not wait for what only training needs.
    assert imported["one"].count("onnxruntime") > 0
    assert imported["one"].count("torch") == 1
    # Not the weights: those that have no effect, as biases of keys, go wherever rounding leads them.
    options = read_config(tmp_path / "one.yaml").crt
    segment_BLF = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 4, 256)).astype(np.float32))
    logits = []
    for name in ("one/crt-gru.pt", "two/crt-gru.pt", "fresh"):
        torch.manual_seed(0)
        classifier = classifier_for(options, 256, 4).eval()
        if name != "fresh":
            classifier.load_state_dict(torch.load(tmp_path / name, weights_only=True)["classifier"])
        logits.append(classifier(segment_BLF, classifier.initial_memory(8)).logits_BC.detach())
    one, two, fresh = logits
    assert (one - two).abs().max() < 1e-3
    assert (one - fresh).abs().max() > 1e-2
    assert len(list((tmp_path / "two" / "tensorboard" / "crt-gru").iterdir())) == 1


def test_clips_of_another_data_set_are_not_trained_on(tmp_path):
    """The same names, other pictures: they are decoded anew; a data set made in two ways is refused."""
    for seed in (0, 1):
        list(make([Recording(1, 1, 0, 1, "Walk")], tmp_path / f"data{seed}", width=64, height=48, seed=seed, workers=1))
    stored = [
        StoredClips(*cache_clips(read_homesim(tmp_path / data), SPEC, tmp_path / "pixels", workers=1)[0].values())
        for data in ("data0", "data1")
    ]
    assert np.abs(stored[0][0].astype(int) - stored[1][0]).mean() > 2
    with pytest.raises(BadDataset, match="seed 0 there, 3 now"):
        list(make([Recording(1, 1, 0, 1, "Walk")], tmp_path / "data0", width=64, height=48, seed=3, workers=1))


def test_a_video_that_cannot_be_decoded_is_told_by_name(tmp_path):
    """The others are there."""
    list(make([Recording(1, 1, k, 1, "Walk") for k in (0, 1)], tmp_path, width=64, height=48, seed=0, workers=1))
    good, bad = read_homesim(tmp_path)
    bad.path.write_bytes(b"no video at all")
    files, problems = cache_clips([good, bad], SPEC, tmp_path / "pixels", workers=1)
    assert list(files) == [good.name]
    assert [(one.code, one.what) for one in problems] == [("unreadable", bad.name)]


def test_stored_clips_are_those_that_were_given(tmp_path):
    """In their order, each frame, but for what JPEG leaves out."""
    clips = np.empty((5, 4, 48, 64, 3), np.uint8)
    down, across = np.mgrid[:48, :64]
    for n in range(5):
        for t in range(4):
            clips[n, t] = np.stack([down * 3 + n * 10, across * 2 + t * 20, down + across], -1)
    StoredClips.store(tmp_path / "a.npy", clips, np.arange(10.0).reshape(5, 2))
    stored = StoredClips(tmp_path / "a.npy")
    assert len(stored) == 5
    for n in (0, 3, 4):
        assert np.abs(stored[n].astype(int) - clips[n]).mean() < 2
        assert np.abs(stored[n].astype(int) - clips[(n + 1) % 5]).mean() > 2


def test_a_clip_knows_when_it_was_also_after_a_gap(tmp_path):
    """A camera that says nothing for five seconds: what comes after it keeps its time, for labels as for the CRT."""
    times = [*np.arange(0, 4, 0.1), *np.arange(9, 13, 0.1)]
    numbered(tmp_path / "walk.mp4", frames=len(times), times=times, width=64, height=48)
    spans = (Span(0.0, 4.0, "Walk"), Span(9.0, 13.0, "Sit"))
    video = LabelledVideo(tmp_path / "walk.mp4", "walk", "train", None, spans, spans)
    files, _ = cache_clips([video], SPEC, tmp_path / "pixels", workers=1)
    table = train_backbone.ClipTable([video], files, ["Background", "Walk", "Sit"])
    assert set(table.targets.tolist()) == {1, 2}
    assert (np.diff(table.targets) >= 0).all()
    assert StoredClips(files["walk"]).times_N2[-1, 1] == pytest.approx(13, abs=0.6)


def test_more_videos_than_a_process_may_open_files(tmp_path):
    """All of them are at hand, and few are open."""
    clips = np.random.default_rng(0).integers(0, 255, (1, 4, 12, 16, 3), np.uint8)
    for n in range(400):
        StoredClips.store(tmp_path / f"{n}.npy", clips, np.array([[0.0, 0.5]]))
    before = psutil.Process().num_fds()
    stored = [StoredClips(tmp_path / f"{n}.npy") for n in range(400)]
    for one in stored:
        assert one[0].shape == (4, 12, 16, 3)
    assert psutil.Process().num_fds() - before < 300


@pytest.mark.parametrize("look", [Look(), Look(1, overhead=True)])
def test_a_second_look_is_the_same_for_all_of_a_video(look):
    """Mirrored and in another light, from the ceiling turned; another video gets another."""
    clips = np.random.default_rng(0).integers(0, 255, (3, 4, 48, 64, 3), np.uint8)
    clips[1:] = clips[0]
    seen = second_look(clips, "one", look)
    assert seen.shape == clips.shape
    assert (seen[0] == seen[2]).all()
    assert (seen != clips).any()
    assert (second_look(clips, "one", look) == seen).all()
    assert (second_look(clips, "two", look) != seen).any()
