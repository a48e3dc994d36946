"""Cameras: where they hang, and the ray of each pixel. Seven ways of mounting, named c01 to c07 as in Toyota Smarthome."""

from dataclasses import dataclass

import numpy as np

from pipelines.homesim.room import Room

MOUNTS = 7


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
    def random(cls, mount: int, room: Room, focus: np.ndarray, rng: np.random.Generator) -> "Camera":
        """Hangs camera `mount` (1 to 7) in the room and points it at `focus` (float[3]), roughly."""
        w, d, h = room.width, room.depth, room.height
        x, y, low, high = {
            1: (0.15, 0.15, 1.9, 2.35),
            2: (w - 0.15, d - 0.75, 1.7, 2.3),
            3: (0.15, d - 0.80, 1.9, 2.35),
            4: (w - 0.15, 0.15, 1.5, 2.3),
            5: (w * 0.5, 0.12, 1.4, 2.2),
            6: (w - 0.30, d * 0.5, 1.25, 1.75),
            7: (0.15, d * 0.5, 1.5, 2.3),
        }[mount]
        position = np.array(
            [x + rng.uniform(-0.05, 0.05), y + rng.uniform(-0.05, 0.05), rng.uniform(low, min(high, h - 0.1))]
        )
        position[:2] = np.clip(position[:2], 0.08, (w - 0.08, d - 0.08))
        forward = focus + rng.normal(0, (0.12, 0.12, 0.08)) - position
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, (0, 0, 1))
        right /= np.linalg.norm(right)
        roll = rng.normal(0, 0.025)
        down = np.cross(forward, right)
        axes = np.stack(
            [right * np.cos(roll) + down * np.sin(roll), down * np.cos(roll) - right * np.sin(roll), forward]
        )
        return cls(
            position=position, axes=axes, focal=float(1 / np.tan(np.radians(rng.uniform(62, 84)) / 2)),
            gain=float(rng.uniform(0.75, 1.3)), gamma=float(rng.uniform(0.42, 0.6)),
            white=np.clip(rng.normal(1, 0.07, 3), 0.8, 1.2), noise=float(rng.choice([1.0, 2.5, 5.0, 8.0])),
            vignette=float(rng.uniform(0, 0.35)), infrared=bool(rng.random() < 0.08),
        )  # fmt: skip
