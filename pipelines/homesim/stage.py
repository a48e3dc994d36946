"""What else moves: doors, the running television, and the things in a person's hand, as boxes and capsules for each frame."""

import numpy as np

from pipelines.homesim import activities as act
from pipelines.homesim import actor as ac
from pipelines.homesim import body as b
from pipelines.homesim.actor import Track
from pipelines.homesim.render import BOX_FIELDS, pack
from pipelines.homesim.room import PICTURE, PLAIN, Box, Room

_EXTRA = 6  # capsule colours of things follow the body's six
_CONTAINERS = {ac.BOTTLE: (0.30, 0.045), ac.CAN: (0.11, 0.042), ac.CUP: (0.07, 0.062), ac.GLASS: (0.14, 0.04)}
"""Height and radius in metres, generous as seen from across a room."""


class Stage:
    """The moving parts of one recording: `frame(i)` gives what to draw."""

    def __init__(self, body: b.Body, room: Room, track: Track, fps: float, rng: np.random.Generator) -> None:
        self.body, self.room, self.track = body, room, track
        self.joints = b.joints(body, track.root, track.poses)
        self.capsules = b.capsules(body, self.joints)
        bottle = np.array([[0.08, 0.3, 0.12], [0.15, 0.3, 0.6], [0.45, 0.2, 0.06]])[rng.integers(3)]
        can = np.array([[0.7, 0.05, 0.05], [0.75, 0.75, 0.78], [0.1, 0.2, 0.65]])[rng.integers(3)]
        cup = np.array([[0.95, 0.95, 0.93], [0.85, 0.55, 0.1], [0.9, 0.85, 0.6]])[rng.integers(3)]
        self.colours = np.concatenate(
            [body.colours, [bottle, can, cup, [0.65, 0.85, 0.9], [0.5, 0.5, 0.52], rng.uniform(0.1, 0.6, 3) * [1, 0.75, 0.5]]]
        ).astype(np.float32)  # fmt: skip
        self._book = rng.uniform(0.05, 0.8, 3)
        n = len(track.root)
        # A running television shows shot after shot, each with its colours.
        shots = np.cumsum(rng.random(n) < 1 / (1.6 * fps))
        self._shot = rng.uniform(0.02, 0.9, (shots[-1] + 1, 2, 3))[shots]
        self._flicker = 1 + 0.1 * rng.standard_normal(n)

    def frame(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Capsules float32[K, 8] and boxes float32[S, BOX_FIELDS] of frame i."""
        track, boxes, capsules = self.track, [self._door(i)], []
        if track.fridge[i] > 0.01:
            boxes.append(self._fridge(i))
        if track.television[i]:
            boxes.append(self._screen(i))
        if track.present[i]:
            capsules.append(self.capsules[i])
            more, held = self._held(i)
            boxes += more
            capsules += held
        packed = pack(boxes) if boxes else np.zeros((0, BOX_FIELDS), np.float32)
        return (np.concatenate(capsules) if capsules else np.zeros((0, 8), np.float32)), packed

    def _leaf(
        self,
        hinge: tuple[float, float],
        direction: np.ndarray,
        length: float,
        low: float,
        high: float,
        colour: np.ndarray,
    ) -> Box:
        centre = np.array(hinge) + direction * length / 2
        return Box(
            (float(centre[0]), float(centre[1]), (low + high) / 2), (length / 2, 0.02, (high - low) / 2),
            colour, colour * 0.85, PLAIN, 1.0, float(np.arctan2(direction[1], direction[0])),
        )  # fmt: skip

    def _door(self, i: int) -> Box:
        x, y, width = self.room.door
        angle = self.track.door[i] * 1.45
        return self._leaf(
            (x - 0.03, y), np.array([-np.sin(angle), np.cos(angle)]), width, 0.01, 2.0, self.room.door_colour
        )

    def _fridge(self, i: int) -> Box:
        x, y, width, height = self.room.fridge
        angle = self.track.fridge[i] * 1.5
        return self._leaf(
            (x, y - 0.02), np.array([np.cos(angle), -np.sin(angle)]), width, 0.05, height, self.room.fridge_colour
        )

    def _screen(self, i: int) -> Box:
        tv = self.room.television
        assert tv is not None
        first, second = self._shot[i] * self._flicker[i]
        centre = (tv.centre[0] - tv.half[0] - 0.006, tv.centre[1], tv.centre[2])
        return Box(centre, (0.004, tv.half[1] * 0.95, tv.half[2] * 0.92), first, second, PICTURE, 0.1, 0.0, 0.9)

    def _held(self, i: int) -> tuple[list[Box], list[np.ndarray]]:
        kind = int(self.track.held[i])
        if kind == ac.NOTHING:
            return [], []
        side = "l" if self.body.left_handed else "r"
        j = self.joints[i]
        hand, elbow = j[b.JOINT[f"hand_{side}"]], j[b.JOINT[f"elbow_{side}"]]
        yaw = float(self.track.root[i, 2])
        forward = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        grip = hand + (hand - elbow) * 0.25

        def capsule(p0: np.ndarray, p1: np.ndarray, radius: float, colour: int) -> np.ndarray:
            return np.array([[*p0, *p1, radius, colour]], dtype=np.float32)

        if kind in _CONTAINERS:
            height, radius = _CONTAINERS[kind]
            low = grip + forward * 0.02 + (0, 0, -0.02)
            return [], [capsule(low, low + np.array([0, 0, height]), radius, _EXTRA + list(_CONTAINERS).index(kind))]
        if kind == ac.KNIFE:
            return [], [capsule(grip, grip + forward * 0.14 + (0, 0, -0.06), 0.012, _EXTRA + 4)]
        if kind == ac.SPOON:
            return [], [capsule(grip, grip + forward * 0.05 + (0, 0, -0.24), 0.012, _EXTRA + 5)]
        dark = np.full(3, 0.03)
        if kind == ac.PHONE:
            return [Box((*(grip + np.array([0, 0, 0.04])),), (0.03, 0.018, 0.075), dark, dark, PLAIN, 1.0, yaw)], []
        if kind == ac.REMOTE:
            return [Box((*(grip + forward * 0.05),), (0.09, 0.022, 0.015), dark, dark, PLAIN, 1.0, yaw)], []
        middle = (j[b.JOINT["hand_l"]] + j[b.JOINT["hand_r"]]) / 2 + forward * 0.05 + (0, 0, 0.06)
        pages = np.full(3, 0.85)
        return [
            Box((*middle,), (0.010, 0.17, 0.125), self._book, self._book * 0.9, PLAIN, 1.0, yaw),
            Box((*(middle - forward * 0.016),), (0.008, 0.16, 0.118), pages, pages * 0.8, PICTURE, 0.02, yaw),
        ], []


assert set(_CONTAINERS) == set(act.TAKE)
