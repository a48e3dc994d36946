"""Trains a backbone on single clips: what can be told from half a second of pictures, without a past.

The labels are the visible ones, in which fetching a cup and fetching a can differ and drinking from either does not; what has
to be remembered is left to the CRT. Where a data set knows the joints, they teach the backbone where to look: from labels
alone it takes very long to find a person in a room. Runs resume from RUN/backbone.pt at the step where they stopped.
Shapes: B clips, H x W pixels, C = T x 3 channels, K classes, J joints, Y x X cells.
"""

import copy
import hashlib
import logging
import math
import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from models import checkpoint, networks
from models.small import CLOSER, SIDES, SPEC, Light, Reading, SmallBackbone
from pipelines import parallel
from pipelines.clips import StoredClips, any_turn, turned
from pipelines.config import BackboneTraining, BadConfig, Config, begun_with, same_run
from pipelines.datasets import BACKGROUND, LabelledVideo, label_at
from pipelines.device import bfloat16, pick
from pipelines.homesim.scenario import PAIRS, POSE_JOINTS, POSE_RATE

log = logging.getLogger(__name__)


class ClipTable:
    """All clips of some videos with their visible labels; pixels stay on disk."""

    def __init__(self, videos: list[LabelledVideo], files: dict[str, Path], labels: list[str]) -> None:
        self.arrays: list[StoredClips] = []
        where, targets, joints = [], [], []
        nowhere = np.full((len(POSE_JOINTS), 3), np.nan, np.float32)
        for index, video in enumerate(videos):
            array = StoredClips(files[video.name])
            self.arrays.append(array)
            poses = (
                np.load(video.poses).astype(np.float32) if video.poses is not None else np.empty((0, *nowhere.shape))
            )
            for clip in range(len(array)):
                where.append((index, clip))
                middle = float(array.times_N2[clip].mean())
                targets.append(labels.index(label_at(video.visible, middle)))
                at = round(middle * POSE_RATE)
                joints.append(poses[at] if at < len(poses) else nowhere)
        self.where = np.array(where)
        self.targets = np.array(targets)
        self.joints = np.stack(joints).astype(np.float32)
        """float32[N, J, 3]: x, y as shares of the picture, height in metres; NaN where unknown or out of the picture."""

    def __len__(self) -> int:
        return len(self.targets)

    def picture(self, index: int) -> np.ndarray:
        """Clip `index` as one picture, uint8[H, W, C]."""
        video, clip = self.where[index]
        frames = self.arrays[video][clip]
        return np.ascontiguousarray(frames.transpose(1, 2, 0, 3)).reshape(frames.shape[1], frames.shape[2], -1)

    def weights(self) -> np.ndarray:
        """How often each clip is drawn: classes by the square root of their frequency."""
        counts = np.bincount(self.targets, minlength=self.targets.max() + 1)
        weights = 1 / np.sqrt(counts[self.targets])
        return weights / weights.sum()


def augment(
    picture: np.ndarray, joints: np.ndarray, rng: np.random.Generator, *, overhead: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """A clip cropped, mirrored, blurred or made grey, perhaps turned by any angle, the same for all its frames, and its joints with it.

    uint8[H, W, C] and float32[J, 3] to the same.
    """
    height, width, channels = picture.shape
    joints = joints.copy()
    if rng.random() < 0.7:
        scale, stretch = rng.uniform(0.75, 1.0), rng.uniform(0.88, 1.0)
        h, w = int(height * scale), int(width * scale)
        h, w = (int(h * stretch), w) if rng.random() < 0.5 else (h, int(w * stretch))
        y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        picture = cv2.resize(picture[y : y + h, x : x + w], (width, height), interpolation=cv2.INTER_LINEAR)
        joints[:, 0] = (joints[:, 0] * width - x) / w
        joints[:, 1] = (joints[:, 1] * height - y) / h
        joints[((joints[:, :2] < 0) | (joints[:, :2] >= 1)).any(1)] = np.nan
    if rng.random() < 0.2:
        f = rng.uniform(0.5, 0.9)
        small = cv2.resize(picture, None, fx=f, fy=f, interpolation=cv2.INTER_LINEAR)
        picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
        joints[:, 0] = 1 - joints[:, 0]
    if overhead and rng.random() < 0.8:
        turn = any_turn(rng, width, height)
        frames = np.split(np.ascontiguousarray(picture), channels // 3, axis=2)
        picture = np.concatenate([turned(frame, turn) for frame in frames], axis=2)
        pixels = joints[:, :2] * (width, height) - 0.5
        joints[:, :2] = (pixels @ turn[:, :2].T + turn[:, 2] + 0.5) / (width, height)
        joints[((joints[:, :2] < 0) | (joints[:, :2] >= 1)).any(1)] = np.nan
    if rng.random() < 0.12:
        grey = picture.reshape(height, width, channels // 3, 3).mean(-1, keepdims=True)
        picture = (
            np.broadcast_to(grey, (height, width, channels // 3, 3)).reshape(height, width, channels).astype(np.uint8)
        )
    return np.ascontiguousarray(picture), joints


def by_side(joints: np.ndarray) -> np.ndarray:
    """Joints float32[J, 3] with, of each pair, the one further left in the picture first; of half a pair nothing.

    Which hand is the left one cannot be told from a small picture, from behind least of all; which one is on the left side can.
    """
    joints = joints.copy()
    for first, second in PAIRS:
        if np.isnan(joints[[first, second], 0]).any():
            joints[[first, second]] = np.nan
        elif joints[first, 0] > joints[second, 0]:
            joints[[first, second]] = joints[[second, first]]
    return joints


def any_light(batch: int, generator: torch.Generator) -> Light:
    """Random light: gain, offset and colour balance for each clip."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) * (high - low) + low

    balance = uniform(0.88, 1.12, batch, 1, 3).expand(-1, SPEC.frames, -1).reshape(batch, 3 * SPEC.frames, 1, 1)
    gain = uniform(0.6, 1.4, batch, 1, 1, 1) * balance
    return Light(gain, uniform(-0.15, 0.15, batch, 1, 1, 1) + 0.45 - 0.45 * gain)


def _batches(
    table: ClipTable, options: BackboneTraining, seed: int, first: int, own: slice
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches for steps first..steps-1, each drawn from its own seed, made one thread ahead; `own` is this process's share of each."""
    batch, steps = options.batch, options.steps
    ready: queue.Queue[tuple[np.ndarray, np.ndarray, np.ndarray] | BaseException] = queue.Queue(maxsize=6)
    weights, stop = table.weights().cumsum(), threading.Event()

    def work() -> None:
        try:
            for step in range(first, steps):
                rng = np.random.default_rng([seed, step])
                picks = np.minimum(np.searchsorted(weights, rng.random(batch)), len(table) - 1)[own]
                pairs = [augment(table.picture(i), table.joints[i], rng, overhead=options.overhead) for i in picks]
                made = np.stack([p for p, _ in pairs]), table.targets[picks], np.stack([by_side(j) for _, j in pairs])
                while not stop.is_set():
                    try:
                        ready.put(made, timeout=0.5)
                        break
                    except queue.Full:
                        continue
                if stop.is_set():
                    return
        except BaseException as error:  # handed to the consumer, who raises it
            ready.put(error)

    thread = threading.Thread(target=work, name="clips", daemon=True)
    thread.start()
    try:
        for _ in range(first, steps):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()


def warm_cosine(step: int, steps: int, *, warm: float = 0.06) -> float:
    """Share of the highest learning rate at a step: up in a line over the first `warm` of all steps, down in a cosine."""
    first = max(1, round(warm * steps))
    if step < first:
        return (step + 1) / first
    return 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, steps - first)))


class Network(nn.Module):
    """A backbone with what training needs on top: a linear head for labels and one for the height of each joint."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = SmallBackbone()
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.Linear(SPEC.feature_width, classes))
        self.heights = nn.Linear(CLOSER[1], 1)

    def forward(
        self, x_BCHW: Tensor, square_B3: Tensor | None = None, light: Light | None = None
    ) -> tuple[Tensor, Reading, Tensor]:
        """Pictures in 0..255, T x 3 channels, to scores [B, K], what was seen, and heights [B, J].

        Looks closer at the given squares where they are numbers, else at those that it finds.
        """
        seen = self.backbone.read(x_BCHW, square_B3, light)
        return self.head(seen.features_BF), seen, self.heights(seen.around_BJC)[..., 0]


def squares(joints_BJ3: Tensor) -> Tensor:
    """The squares about the known joints, as models.small.look takes them: [B, 3]; NaN where none is known."""
    far = torch.where(joints_BJ3.isnan(), torch.inf, joints_BJ3)[..., :2].amin(1)
    near = torch.where(joints_BJ3.isnan(), -torch.inf, joints_BJ3)[..., :2].amax(1)
    spread_B2 = (near - far) * torch.tensor([SPEC.width / SPEC.height, 1.0])
    # Joints lie inside the body: a quarter more and a hand's breadth.
    side_B = (spread_B2.amax(1) * 1.3 + 0.07).clamp(*SIDES)
    square_B3 = torch.cat([(near + far) / 2, side_B.log()[:, None]], dim=1)
    return torch.where(far[:, :1].isinf(), torch.nan, square_B3)


def taught(square_B3: Tensor, done: float, generator: torch.Generator) -> Tensor:
    """Squares to look at in training, a little off, as those of the glance will be; NaN where it shall find one itself.

    At first the glance knows nothing and is told; from a tenth of the training on (`done`, 0 to 1), half of the time.
    """
    off_B3 = torch.randn(square_B3.shape, generator=generator) * torch.tensor([0.10, 0.10, 0.15])
    side_B = square_B3[:, 2].exp()
    off_B3[:, 0] *= side_B * SPEC.height / SPEC.width
    off_B3[:, 1] *= side_B
    alone_B1 = torch.rand(len(square_B3), 1, generator=generator) < (0.5 if done > 0.1 else 0.0)
    return torch.where(alone_B1, torch.nan, square_B3 + off_B3)


def inside(joints_BJ3: Tensor, square_B3: Tensor) -> Tensor:
    """Joints with x and y as shares of a square instead of the picture; NaN for those outside it."""
    side_B1 = square_B3[:, 2:].exp()
    x_BJ = (joints_BJ3[..., 0] - square_B3[:, :1]) * SPEC.width / SPEC.height / side_B1 + 0.5
    y_BJ = (joints_BJ3[..., 1] - square_B3[:, 1:2]) / side_B1 + 0.5
    out = (x_BJ < 0) | (x_BJ >= 1) | (y_BJ < 0) | (y_BJ >= 1)
    placed_BJ3 = torch.stack([x_BJ, y_BJ, joints_BJ3[..., 2]], dim=-1)
    return torch.where(out[..., None], torch.nan, placed_BJ3)


def joint_losses(places_BJYX: Tensor, heights_BJ: Tensor, joints_BJ3: Tensor) -> tuple[Tensor, Tensor]:
    """How far the queries are from their joints: cross-entropy over cells, and the error of heights in metres.

    The target is a small bell about the joint, so that neighbouring cells are nearly right. Unknown joints do not count.
    """
    known_BJ = ~joints_BJ3[..., 0].isnan()
    if not known_BJ.any():
        return places_BJYX.sum() * 0, heights_BJ.sum() * 0
    Y, X = places_BJYX.shape[2:]
    joints_N3 = joints_BJ3[known_BJ]
    columns_X, rows_Y = (torch.arange(n, device=joints_N3.device) + 0.5 for n in (X, Y))
    across_NX = torch.exp(-((columns_X - joints_N3[:, :1] * X) ** 2) / (2 * 0.7**2))
    down_NY = torch.exp(-((rows_Y - joints_N3[:, 1:2] * Y) ** 2) / (2 * 0.7**2))
    bell_NYX = down_NY[:, :, None] * across_NX[:, None, :]
    target_NP = (bell_NYX / bell_NYX.sum((1, 2), keepdim=True)).flatten(1)
    scores_NP = places_BJYX[known_BJ].flatten(1).log_softmax(-1)
    return -(target_NP * scores_NP).sum(1).mean(), F.smooth_l1_loss(heights_BJ[known_BJ], joints_N3[:, 2])


@torch.inference_mode()
def accuracy(network: Network, table: ClipTable, classes: int, *, most: int, bf16: bool) -> tuple[float, np.ndarray]:
    """Mean class accuracy over up to `most` clips, spread evenly, and the confusion counts int[K, K] (true, predicted)."""
    network.eval()
    confusion = np.zeros((classes, classes), int)
    picks = np.linspace(0, len(table) - 1, min(most, len(table))).astype(int)
    for start in range(0, len(picks), 64):
        some = picks[start : start + 64]
        device = network.heights.weight.device.type
        x = torch.from_numpy(np.stack([table.picture(i) for i in some])).to(device).permute(0, 3, 1, 2).float()
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            scores, _, _ = network(x)
        np.add.at(confusion, (table.targets[some], scores.float().argmax(1).cpu().numpy()), 1)
    present = confusion.sum(1) > 0
    return float((np.diag(confusion)[present] / confusion.sum(1)[present]).mean()), confusion


def visible_labels(videos: list[LabelledVideo]) -> list[str]:
    """All visible labels in use, background first."""
    return [BACKGROUND, *sorted({span.label for video in videos for span in video.visible} - {BACKGROUND})]


def digest_of(videos: list[LabelledVideo]) -> str:
    """Of all that is learned from: which files, which part of each, in which split, with which labels."""
    told = [
        f"{video.name} {video.path.stat().st_size} {video.start} {video.end} {video.split} {video.visible}"
        for video in sorted(videos, key=lambda video: video.name)
    ]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def train_backbone(config: Config, videos: list[LabelledVideo], files: dict[str, Path]) -> SmallBackbone:
    """Trains, or goes on where an earlier run stopped, and returns the averaged backbone, on the CPU.

    Of several processes (parallel.py) each has its share of every batch. Raises BadConfig where it cannot be shared evenly.
    """
    options, device, world = config.backbone.training, pick(config.device), parallel.world()
    assert options is not None
    if options.batch % world:
        raise BadConfig(f"backbone.training.batch has to be a multiple of the {world} processes, got {options.batch}")
    state_file = config.run / "backbone.pt"
    bf16 = options.bf16 and bfloat16(device)
    labels = visible_labels(videos)
    tables = {
        split: ClipTable([v for v in videos if v.split == split], files, labels)
        for split in ("train", "validation")
    }  # fmt: skip
    log.info(
        "%d clips to train on, %d to validate on, %d visible labels",
        len(tables["train"]),
        len(tables["validation"]),
        len(labels),
    )
    torch.manual_seed(config.seed)
    network = Network(len(labels)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    start = None
    if options.start is not None and not state_file.exists():
        beginning = checkpoint.read(options.start)
        networks.start_from(beginning, network.backbone)
        start = beginning.digest
        log.info("begins with the backbone of %s", start)
    average = copy.deepcopy(network).eval().requires_grad_(False)
    decay = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": options.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=options.learning_rate,
        fused=True,
    )
    learned_from = [video for video in videos if video.split != "test"]
    begun = begun_with(options, config.seed, labels, digest_of(learned_from))
    first, running, looking = 0, math.log(len(labels)), 5.7
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location=device)
        same_run(begun, state, state_file)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first, start = state["step"], state.get("start")
        running, looking = state.get("running", running), state.get("looking", looking)
        log.info("resumed at step %d", first)
    lead = parallel.rank() == 0
    writer = SummaryWriter(str(config.run / "tensorboard" / "backbone"), purge_step=first) if lead else None
    trained, own = parallel.parallel(network), slice(parallel.rank(), None, world)
    bar = tqdm(
        total=options.steps, initial=first, desc="backbone", unit="step", smoothing=0.05, disable=None if lead else True
    )
    for step, (pictures, targets, joints) in enumerate(
        _batches(tables["train"], options, config.seed, first, own), first
    ):
        network.train()
        # Every step has chance of its own, so that a run that was stopped goes on as if it had not been.
        chance = (config.seed * 1_000_003 + step) * world + parallel.rank()
        torch.manual_seed(chance)
        generator = torch.Generator().manual_seed(chance)
        x_BCHW = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float()
        light = Light(*(part.to(device) for part in any_light(len(x_BCHW), generator)))
        joints_BJ3 = torch.from_numpy(joints)
        square_B3 = squares(joints_BJ3)
        told_B3 = taught(square_B3, step / options.steps, generator).to(device)
        joints_BJ3, square_B3 = joints_BJ3.to(device), square_B3.to(device)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            scores, seen, heights = trained(x_BCHW, told_B3, light)
        labels_B = torch.from_numpy(targets).to(device)
        naming = F.cross_entropy(scores.float(), labels_B, label_smoothing=options.label_smoothing)
        spotting, sizing = joint_losses(seen.centre_B1YX, seen.square_B3[:, 2:], square_B3[:, None])
        finding, height = joint_losses(seen.places_BJYX, heights.float(), inside(joints_BJ3, seen.looked_B3))
        loss = naming + options.joints * (finding + height + spotting + sizing)
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * warm_cosine(step, options.steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        # The average starts as the network itself and slows down as it fills.
        keep = min(options.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            pairs = zip(average.state_dict().values(), network.state_dict().values(), strict=True)
            numbers = [(old, new) for old, new in pairs if old.dtype.is_floating_point]
            torch._foreach_lerp_([old for old, _ in numbers], [new for _, new in numbers], 1 - keep)
        running += 0.02 * (naming.item() - running)
        looking += 0.02 * (finding.item() - looking)
        bar.update()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{running:.3f}", joints=f"{looking:.3f}", person=f"{spotting.item():.2f}")
            if writer is not None:
                writer.add_scalar("loss", running, step)
                writer.add_scalar("joints", looking, step)
        if lead and ((step + 1) % options.checkpoint_every == 0 or step + 1 == options.steps):
            score, _ = accuracy(average, tables["validation"], len(labels), most=1500, bf16=bf16)
            if writer is not None:
                writer.add_scalar("validation/mean_class_accuracy", score, step)
            log.info("step %d: loss %.3f, validation mean class accuracy %.3f", step + 1, running, score)
            part = state_file.with_suffix(".part")
            torch.save(
                {
                    "network": network.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1,
                    "running": running, "looking": looking, "start": start, **begun,
                },
                part,
            )  # fmt: skip
            os.replace(part, state_file)
    bar.close()
    if writer is not None:
        writer.close()
    parallel.wait()
    if not lead:  # running means of norms are each process's own; the first one's are kept
        average.load_state_dict(torch.load(state_file, weights_only=True, map_location=device)["average"])
    return average.backbone.cpu()
