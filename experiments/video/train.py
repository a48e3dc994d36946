"""Trains one network on one task, by the rules of pipelines/train_crt.py, and measures it."""

import copy
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.video.data import Task
from experiments.video.pasts import Network
from experiments.video.trials import Variant, build, count, options_of
from pipelines.config import CrtTraining
from pipelines.evaluate import Watched, clip_scores, drinks_by_gap
from pipelines.metrics import mean_class_accuracy
from pipelines.train_crt import IGNORE, Chunk, Example, class_weights, epoch_of, segment_targets, totals

TOGETHER = 32
"""Videos that are measured side by side."""


def run(task: Task, task_name: str, variant: Variant, seed: int) -> dict[str, Any]:
    """One line of the results: how right the network is after its training."""
    started, o = time.process_time(), options_of(task_name, variant)
    torch.manual_seed(seed)
    network = build(task_name, variant, task.train[0].features.shape[1], len(task.labels))
    average, loss = train(network, task, o, seed)
    trained = time.process_time() - started
    return {
        "task": task_name,
        "variant": variant.name,
        "question": variant.question,
        "seed": seed,
        "parameters": count(network),
        "loss": round(loss, 4),
        "training_cpu_seconds": round(trained, 1),
        **figures(average, task, o.segment),
    }


def train(network: Network, task: Task, o: CrtTraining, seed: int) -> tuple[Network, float]:
    """The averaged network, and the last epoch's loss."""
    average = copy.deepcopy(network).eval().requires_grad_(False)
    weights_C = class_weights(task.train, len(task.labels), o.balance)
    steps = o.epochs * (sum(1 for _ in epoch_of(task.train, o, seed, 0)) + 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=o.learning_rate, weight_decay=o.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, o.learning_rate, total_steps=steps, pct_start=0.1)
    scale = torch.from_numpy(np.concatenate([one.features for one in task.train]).std(0)) * o.feature_noise
    losses: list[float] = []
    for epoch in range(o.epochs):
        network.train()
        losses.clear()
        state = network.initial_state(o.lanes).detach()
        for chunk in epoch_of(task.train, o, seed, epoch):
            chunk.features_SBLF = chunk.features_SBLF + torch.randn_like(chunk.features_SBLF) * scale
            logits_SBC, logits_SBLC, state = network.unroll(chunk, state)
            loss = loss_of(logits_SBC, logits_SBLC, chunk, weights_C, o.label_smoothing)
            state = state.detach()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), o.clip_norm)
            optimizer.step()
            if schedule.last_epoch < steps - 1:
                schedule.step()
            losses.append(loss.item())
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - o.ema)
    return average, float(np.mean(losses))


def loss_of(logits_SBC: Tensor, logits_SBLC: Tensor, chunk: Chunk, weights_C: Tensor, smoothing: float) -> Tensor:
    """As train_crt.Unrolled has it: of segments and of their clips, each segment's weights summing to one."""
    total_S2, C = totals(chunk, weights_C), len(weights_C)
    whole_SB = torch.stack([segment_targets(targets_BL, C) for targets_BL in chunk.targets_SBL])
    by_segment_SB = _entropy(logits_SBC, whole_SB, weights_C, smoothing)
    by_clip_SBL = _entropy(logits_SBLC, chunk.targets_SBL, weights_C, 0.0)
    return (by_segment_SB.sum(1) / total_S2[:, 0] + by_clip_SBL.sum((1, 2)) / total_S2[:, 1]).mean()


def _entropy(logits: Tensor, targets: Tensor, weights_C: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(
        logits.flatten(0, -2),
        targets.flatten(),
        weights_C,
        ignore_index=IGNORE,
        reduction="none",
        label_smoothing=smoothing,
    ).view(targets.shape)


def whole_videos(data: Sequence[Example], segment: int) -> Iterator[tuple[Sequence[Example], Chunk]]:
    """The videos, alike in length and some at a time, from their first clips on."""
    order = sorted(range(len(data)), key=lambda n: len(data[n].targets))
    for at in range(0, len(order), TOGETHER):
        some = [data[n] for n in order[at : at + TOGETHER]]
        S, B = max(-(-len(one.targets) // segment) for one in some), len(some)
        features_BNF = np.zeros((B, S * segment, some[0].features.shape[1]), np.float32)
        mask_BN = np.zeros((B, S * segment), bool)
        for b, one in enumerate(some):
            features_BNF[b, : len(one.features)], mask_BN[b, : len(one.features)] = one.features, True
        fresh_SB = torch.zeros(S, B, dtype=torch.bool)
        fresh_SB[0] = True
        features_SBLF = torch.from_numpy(features_BNF).view(B, S, segment, -1).transpose(0, 1)
        mask_SBL = torch.from_numpy(mask_BN).view(B, S, segment).transpose(0, 1)
        nothing = torch.full(mask_SBL.shape, IGNORE)
        yield some, Chunk(features_SBLF, mask_SBL, nothing, fresh_SB, nothing, torch.ones(S, B))


@torch.inference_mode()
def answers(network: Network, data: Sequence[Example], segment: int) -> dict[str, np.ndarray]:
    """Probabilities float32[S, C] of each video's segments."""
    network.eval()
    found = {}
    for some, chunk in whole_videos(data, segment):
        logits_SBC, _, _ = network.unroll(chunk, network.initial_state(len(some)))
        for b, one in enumerate(some):
            found[one.name] = logits_SBC[: -(-len(one.targets) // segment), b].softmax(-1).numpy()
    return found


def figures(network: Network, task: Task, segment: int) -> dict[str, Any]:
    """Of the test split, from 0 to 1: sequences by mean class accuracy, clips of untrimmed days by share, and drinks' containers."""
    said = answers(network, task.test, segment)
    trimmed = [one for one in task.test if one.trimmed]
    lengths = [segment_lengths(one, segment) for one in trimmed]
    predicted = [
        task.labels[int(clip_scores(said[one.name], task.labels, n).argmax())]
        for one, n in zip(trimmed, lengths, strict=True)
    ]
    true = [task.labels[int(np.bincount(one.targets).argmax())] for one in trimmed]
    if task.videos:
        true = [str(video.label) for video in task.videos if video.label is not None]
    found: dict[str, Any] = {"sequences": round(mean_class_accuracy(true, predicted)[0], 4)}
    days = [one for one in task.test if not one.trimmed]
    if not days:
        return found
    right = [said[one.name].argmax(1).repeat(segment)[: len(one.targets)] == one.targets for one in days]
    points = drinks_by_gap(
        (_watched(video, said) for video in task.videos if video.label is None),
        task.labels,
        segment * task.clip_seconds,
    )
    late = [point for point in points if point.low >= 20]
    return found | {
        "clips": round(float(np.concatenate(right).mean()), 4),
        "containers": round(sum(p.right for p in points) / sum(p.drinks for p in points), 4),
        "containers_after_20_s": round(sum(p.right for p in late) / sum(p.drinks for p in late), 4),
        "containers_by_gap": [[p.low, p.high, p.drinks, p.right] for p in points],
    }


def _watched(video: Any, said: dict[str, np.ndarray]) -> Watched:
    nothing = np.zeros((0, 2))
    return Watched(video, said[video.name], nothing, nothing, np.zeros(0, int), ())


def segment_lengths(one: Example, segment: int) -> list[int]:
    """Clips in each of its segments."""
    return [min(segment, len(one.targets) - at) for at in range(0, len(one.targets), segment)]
