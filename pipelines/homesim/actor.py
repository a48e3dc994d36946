"""One person's timeline: movements are appended one after the other, each with its labels and the things it moves.

An Actor knows how to get from pose to pose; what to do, and what it is called, is in `activities`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from pipelines.homesim import body as b
from pipelines.homesim.room import Room

NOTHING, BOTTLE, CAN, CUP, GLASS, BOOK, PHONE, KNIFE, SPOON, REMOTE = range(10)
"""What the working hand holds, as in Track.held. A container in the closed hand is NOTHING: the hand hides it."""

Overlay = Callable[[np.ndarray, np.ndarray], None]
"""Changes poses float[n, POSE_SIZE] in place, given the seconds float[n] since the movement began."""


@dataclass(frozen=True)
class Span:
    """A label over frames start <= i < end."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Track:
    """Everything that moves in a scene, N frames."""

    root: np.ndarray
    """float[N, 3]: x, y, yaw."""
    poses: np.ndarray
    """float[N, POSE_SIZE]."""
    present: np.ndarray
    """bool[N]: the person is in the room."""
    held: np.ndarray
    """int[N]: what the working hand holds."""
    door: np.ndarray
    """float[N]: 0 shut, 1 open."""
    fridge: np.ndarray
    """float[N]: 0 shut, 1 open."""
    television: np.ndarray
    """bool[N]: on."""
    labels: tuple[Span, ...]
    """What a person would call it; frames without a label are background."""
    visible: tuple[Span, ...]
    """What can be seen at each moment without knowing the past: fetching is seen, what is in a closed hand is not."""


def _ease(n: int) -> np.ndarray:
    """Minimum-jerk progress, float[n], the last one 1 (Flash and Hogan, 1985)."""
    s = np.arange(1, n + 1) / n
    return s**3 * (10 - 15 * s + 6 * s**2)


def _wrap(angle: float) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)


class Actor:
    """Builds a Track. Durations in seconds are those of a person of pace 1."""

    def __init__(self, body: b.Body, room: Room, fps: float, rng: np.random.Generator) -> None:
        self.body, self.room, self.fps, self.rng = body, room, fps, rng
        self.pose = b.stand(body)
        self.root = np.array([room.width / 2, room.depth / 2, 0.0])
        self.posture = "stand"
        """stand, sit, lie or floor."""
        self.spot: str | None = None
        self.present = True
        self.held = NOTHING
        self.door = 0.0
        self.fridge = 0.0
        self.television = bool(rng.random() < 0.3)
        self._chunks: list[dict[str, np.ndarray]] = []
        self._frames = 0
        self._labels: list[Span] = []
        self._visible: list[Span] = []
        self._named = 0
        """How many labels are open at this moment."""

    # -- time and labels ------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        return self._frames / self.fps

    @contextmanager
    def label(self, label: str, visible: str | None = None) -> Iterator[None]:
        """All that happens inside is `label`; `visible` is its visible label where that is another."""
        start = self._frames
        self._named += 1
        yield
        self._named -= 1
        self._labels.append(Span(start, self._frames, label))
        self._visible.append(Span(start, self._frames, visible or label))

    @contextmanager
    def seen_as(self, visible: str) -> Iterator[None]:
        """Background for people, but something to see."""
        start = self._frames
        self._named += 1
        yield
        self._named -= 1
        self._visible.append(Span(start, self._frames, visible))

    @contextmanager
    def walking(self, distance: float) -> Iterator[None]:
        """A way of more than a step is a Walk, wherever it leads, unless it is part of something that has a name."""
        if self._named or distance < 0.7:
            yield
        else:
            with self.label("Walk"):
                yield

    def track(self) -> Track:
        """The timeline so far, with the small restless motion that no living body is without."""
        joined = {key: np.concatenate([chunk[key] for chunk in self._chunks]) for key in self._chunks[0]}
        t = np.arange(self._frames) / self.fps
        poses = joined["poses"]
        for part, size in ((b.SPINE, 0.012), (b.HEAD, 0.06), (b.HAND_L, 0.025), (b.HAND_R, 0.025)):
            for axis in range(part.start, part.stop):
                for _ in range(2):
                    frequency, phase = self.rng.uniform(0.08, 0.7), self.rng.uniform(0, 2 * np.pi)
                    poses[:, axis] += size * 0.6 * np.sin(2 * np.pi * frequency * t + phase)
        return Track(**joined, labels=tuple(self._labels), visible=tuple(self._visible))

    # -- the one place where frames are made ----------------------------------------------------------------------

    def move(
        self,
        seconds: float,
        pose: np.ndarray | None = None,
        *,
        root: tuple[float, float, float] | None = None,
        overlay: Overlay | None = None,
        door: float | None = None,
        fridge: float | None = None,
        progress: Callable[[int], np.ndarray] = _ease,
        keep: bool = True,
    ) -> None:
        """Goes to `pose` and `root` within `seconds`; `overlay` adds motion on top, which does not stay."""
        n = max(round((seconds / self.body.pace if keep else seconds) * self.fps), 1)
        s = progress(n)[:, None]
        target = self.pose if pose is None else pose
        poses = self.pose + (target - self.pose) * s
        goal = self.root if root is None else np.array([root[0], root[1], self.root[2] + _wrap(root[2] - self.root[2])])
        roots = self.root + (goal - self.root) * s
        if overlay is not None:
            overlay(np.arange(n) / self.fps, poses)
        doors = self.door + ((self.door if door is None else door) - self.door) * s[:, 0]
        fridges = self.fridge + ((self.fridge if fridge is None else fridge) - self.fridge) * s[:, 0]
        self._append(roots, poses, doors, fridges)
        self.pose, self.root = target.copy(), goal.copy()

    def _append(self, roots: np.ndarray, poses: np.ndarray, doors: np.ndarray, fridges: np.ndarray) -> None:
        n = len(roots)
        self._chunks.append(
            {
                "root": roots, "poses": poses, "present": np.full(n, self.present), "held": np.full(n, self.held),
                "door": doors, "fridge": fridges, "television": np.full(n, self.television),
            }
        )  # fmt: skip
        self._frames += n
        self.door, self.fridge = float(doors[-1]), float(fridges[-1])

    def hold(self, seconds: float, overlay: Overlay | None = None) -> None:
        """Stays as is for exactly `seconds`."""
        self.move(seconds, overlay=overlay, keep=False)

    def place(self, x: float, y: float, yaw: float, pose: np.ndarray | None = None, posture: str = "stand") -> None:
        """Puts the person there without a movement: before the first frame, or while away."""
        self.root = np.array([x, y, yaw])
        self.pose = b.stand(self.body) if pose is None else pose
        self.posture = posture

    # -- hands ----------------------------------------------------------------------------------------------------

    @property
    def working(self) -> tuple[slice, float]:
        """The working hand's slice of the pose vector, and the sign of its side (+1 left)."""
        return (b.HAND_L, 1.0) if self.body.left_handed else (b.HAND_R, -1.0)

    def with_hands(
        self,
        working: tuple[float, float, float] | None = None,
        other: tuple[float, float, float] | None = None,
        *,
        spine: tuple[float, float, float] | None = None,
        head: tuple[float, float, float] | None = None,
        base: np.ndarray | None = None,
    ) -> np.ndarray:
        """The present pose (or `base`) with hands placed: (forward, inward, up) from each shoulder, in arm lengths."""
        made = (self.pose if base is None else base).copy()
        hand, side = self.working
        second = b.HAND_R if hand is b.HAND_L else b.HAND_L
        if working is not None:
            made[hand] = (working[0], -side * working[1], working[2])
        if other is not None:
            made[second] = (other[0], side * other[1], other[2])
        if spine is not None:
            made[b.SPINE] = spine
        if head is not None:
            made[b.HEAD] = head
        return made

    def wave(self, part: slice, axis: int, size: float, frequency: float, phase: float = 0.0) -> Overlay:
        """A sine on one coordinate of a part, faded in and out over a quarter of a second."""
        index = part.start + axis

        def overlay(t: np.ndarray, poses: np.ndarray) -> None:
            fade = np.clip(np.minimum(t, t[-1] - t) / 0.25, 0, 1)
            poses[:, index] += fade * size * np.sin(2 * np.pi * frequency * t + phase)

        return overlay

    @staticmethod
    def both(*overlays: Overlay) -> Overlay:
        def overlay(t: np.ndarray, poses: np.ndarray) -> None:
            for one in overlays:
                one(t, poses)

        return overlay

    # -- locomotion -----------------------------------------------------------------------------------------------

    def turn(self, yaw: float) -> None:
        """Turns on the spot with small steps."""
        angle = abs(_wrap(yaw - self.root[2]))
        if angle > 0.15:
            steps = self.both(self.wave(b.FOOT_L, 2, 0.04, 2.0), self.wave(b.FOOT_R, 2, 0.04, 2.0, np.pi))
            self.move(0.25 + angle * 0.35, b.stand(self.body), root=(self.root[0], self.root[1], yaw), overlay=steps)

    def walk(self, x: float, y: float) -> None:
        """Walks straight to (x, y)."""
        distance = float(np.hypot(x - self.root[0], y - self.root[1]))
        if distance >= 0.12:
            with self.walking(distance):
                self._walk(x, y, distance)

    def _walk(self, x: float, y: float, distance: float) -> None:
        dx, dy = x - self.root[0], y - self.root[1]
        self.turn(float(np.arctan2(dy, dx)))
        speed = 0.62 * self.body.height * self.rng.uniform(0.75, 1.15)
        stride = self.rng.uniform(0.62, 0.78) * self.body.height
        sway, swing = self.rng.uniform(0.01, 0.03), self.rng.uniform(0.15, 0.4)
        lean = self.rng.uniform(0.02, 0.12)

        def gait(t: np.ndarray, poses: np.ndarray) -> None:
            s = np.linspace(0, 1, len(t)) * distance
            phase = 2 * np.pi * s / stride
            fade = np.clip(np.minimum(s, distance - s) / 0.2, 0.15, 1)
            sin, cos = np.sin(phase), np.cos(phase)
            for foot, sign in ((b.FOOT_L, 1.0), (b.FOOT_R, -1.0)):
                poses[:, foot.start] += fade * sign * sin * stride / 4
                poses[:, foot.start + 2] += fade * np.maximum(sign * cos, 0) * 0.11
            poses[:, b.PELVIS.start + 2] -= fade * np.abs(sin) * 0.035 + 0.01
            poses[:, b.PELVIS.start + 1] += fade * cos * sway
            poses[:, b.SPINE.start] += lean * fade
            hand, _ = self.working
            for part, sign in ((b.HAND_L, -1.0), (b.HAND_R, 1.0)):
                if self.held == NOTHING or part is not hand:
                    poses[:, part.start] += fade * sign * sin * swing
                    poses[:, part.start + 2] += fade * np.abs(sin) * 0.05

        pose = b.stand(self.body) if self.held == NOTHING else self.pose
        yaw = float(np.arctan2(dy, dx))
        self.move(
            max(distance / speed, 0.4), pose, root=(x, y, yaw), overlay=gait, progress=lambda n: np.arange(1, n + 1) / n
        )
        self.posture = "stand"

    def go(self, x: float, y: float, yaw: float | None = None) -> None:
        """Walks to (x, y), around the furniture by way of the free floor, and turns to `yaw`."""
        with self.walking(float(np.hypot(x - self.root[0], y - self.root[1]))):
            self._go(x, y, yaw)

    def _go(self, x: float, y: float, yaw: float | None) -> None:
        x0, y0, x1, y1 = self.room.floor_free
        here = self.root[:2]
        inside_here = x0 - 0.1 <= here[0] <= x1 + 0.1 and y0 - 0.1 <= here[1] <= y1 + 0.1
        inside_there = x0 - 0.1 <= x <= x1 + 0.1 and y0 - 0.1 <= y <= y1 + 0.1
        if not inside_here and not inside_there and np.hypot(x - here[0], y - here[1]) > 0.9:
            near = np.clip(here, (x0, y0), (x1, y1))
            far = np.clip((x, y), (x0, y0), (x1, y1))
            self.walk(float(near[0]), float(near[1]))
            if np.hypot(*(far - near)) > 0.5:
                self.walk(float(far[0]), float(far[1]))
        self.walk(x, y)
        if yaw is not None:
            self.turn(yaw)

    def go_to(self, spot: str) -> None:
        at = self.room.spots[spot]
        with self.walking(float(np.hypot(at.x - self.root[0], at.y - self.root[1]))):
            self._go_to(spot)
        self.spot = spot

    def _go_to(self, spot: str) -> None:
        at = self.room.spots[spot]
        if spot == "desk":
            side = self.room.spots["desk_side"]
            self.go(side.x + (0.25 if at.x > at.seat_x else -0.25), side.y)
            self.walk(at.x, at.y + 0.1)
            self.turn(at.yaw)
        else:
            self.go(at.x, at.y, at.yaw)
