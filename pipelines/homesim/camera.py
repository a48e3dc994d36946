"""Cameras: where they are, and the ray of each pixel. Seven stretches of wall, named c01 to c07 as in Toyota Smarthome; and c08, the ceiling."""

from dataclasses import dataclass

import numpy as np

from pipelines.homesim.room import Room

MOUNTS = 7
CEILING = 8
"""A camera that looks straight down and knows no up."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without lens distortion."""

    position: np.ndarray
    """float[3]."""
    axes: np.ndarray
    """float[3, 3]: rows right, down, forward."""
    focal: float
    """In units of half the picture's width."""
    gain: float
    gamma: float
    white: np.ndarray
    """float[3]: colour balance."""
    noise: float
    """Standard deviation, in grey levels of 0..255."""
    vignette: float
    infrared: bool
    """Night picture: grey, lit from the camera."""

    def rays(self, width: int, height: int) -> np.ndarray:
        """float32[height, width, 3]: each pixel's ray, with a length of 1 along the forward axis."""
        x = (np.arange(width) + 0.5) / width * 2 - 1
        y = ((np.arange(height) + 0.5) / height * 2 - 1) * height / width
        grid = np.empty((height, width, 3))
        grid[...] = self.axes[2]
        grid += self.axes[0] * (x / self.focal)[None, :, None]
        grid += self.axes[1] * (y / self.focal)[:, None, None]
        return grid.astype(np.float32)

    def project(self, points: np.ndarray, aspect: float) -> tuple[np.ndarray, np.ndarray]:
        """World points [..., 3] to picture coordinates [..., 2] in -1..1 (both axes) and their depth [...]."""
        local = (points - self.position) @ self.axes.T
        depth = np.maximum(local[..., 2], 1e-6)
        return np.stack(
            [local[..., 0] / depth * self.focal, local[..., 1] / depth * self.focal * aspect], axis=-1
        ), local[..., 2]

    @classmethod
    def random(
        cls,
        mount: int,
        room: Room,
        focus: np.ndarray,
        rng: np.random.Generator,
        *,
        wide: bool = False,
        mirrored: bool = False,
    ) -> "Camera":
        """Puts a camera somewhere on stretch `mount` (1 to 7) of the walls and points it at `focus` (float[3]), roughly; 8 is the ceiling above it.

        Most hang above people's heads; some stand on a shelf or a cupboard, at 0.9 to 1.5 m. A `wide` one has the whole room in
        view. A `mirrored` one hangs at the opposite wall, so that its picture, flipped, is that of a mirrored room.
        """
        if mount == CEILING:
            above = np.array([*(focus[:2] + rng.normal(0, 0.25, 2)), room.height - rng.uniform(0.02, 0.15)])
            turn = rng.uniform(0, 2 * np.pi)
            return cls._made(above, focus - above, np.array([np.cos(turn), np.sin(turn), 0.0]), (84, 108), rng)
        w, d, h = room.width, room.depth, room.height
        # Once round the room but for the kitchen's wall: the left wall toward the door's side, then the near and the right one.
        (x0, y0), (x1, y1) = {
            1: ((0.12, 0.30 * d), (0.12, 0.12)),
            2: ((w - 0.12, 0.72 * d), (w - 0.12, d - 0.66)),
            3: ((0.12, d - 0.66), (0.12, 0.66 * d)),
            4: ((0.72 * w, 0.12), (w - 0.12, 0.12)),
            5: ((0.40 * w, 0.12), (0.60 * w, 0.12)),
            6: ((w - 0.12, 0.25 * d), (w - 0.12, 0.62 * d)),
            7: ((0.12, 0.62 * d), (0.12, 0.34 * d)),
        }[mount]
        along, off = rng.uniform(), rng.uniform(0, 0.25)
        height = rng.uniform(1.5, min(2.4, h - 0.1)) if rng.random() < 0.65 else rng.uniform(0.9, 1.5)
        position = np.array([x0 + (x1 - x0) * along, y0 + (y1 - y0) * along, height])
        inward = np.array([w / 2, d / 2]) - position[:2]
        position[:2] += inward / np.linalg.norm(inward) * off
        if mirrored:
            position[0] = w - position[0]
        forward = focus + rng.normal(0, (0.12, 0.12, 0.08)) - position
        return cls._made(position, forward, np.array([0.0, 0.0, 1.0]), (76, 98) if wide else (60, 90), rng)

    @classmethod
    def _made(
        cls,
        position: np.ndarray,
        forward: np.ndarray,
        up: np.ndarray,
        angles: tuple[float, float],
        rng: np.random.Generator,
    ) -> "Camera":
        """Looks from `position` along `forward`, a picture's width being so many degrees; the rest is chance."""
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, up)
        right /= np.linalg.norm(right)
        roll = rng.normal(0, 0.025)
        down = np.cross(forward, right)
        axes = np.stack(
            [right * np.cos(roll) + down * np.sin(roll), down * np.cos(roll) - right * np.sin(roll), forward]
        )
        return cls(
            position=position, axes=axes, focal=float(1 / np.tan(np.radians(rng.uniform(*angles)) / 2)),
            gain=float(rng.uniform(0.75, 1.3)), gamma=float(rng.uniform(0.42, 0.6)),
            white=np.clip(rng.normal(1, 0.07, 3), 0.8, 1.2), noise=float(rng.choice([1.0, 2.5, 5.0, 8.0])),
            vignette=float(rng.uniform(0, 0.35)), infrared=bool(rng.random() < 0.08),
        )  # fmt: skip
