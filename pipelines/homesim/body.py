"""An articulated person: pose vectors, forward kinematics, and the capsules that make the body visible.

Coordinates: the world has x and y on the floor and z up, in metres. A person has a root (x, y, yaw) on the floor and a pose
in the root's frame: x forward, y to the left, z up. A pose is one flat vector, so that poses blend by plain interpolation.
Shapes: N frames, J joints, K capsules.
"""

from dataclasses import dataclass

import numpy as np

# Where each part lies in a pose vector. Directions need not be of unit length: `joints` normalises them after blending.
PELVIS = slice(0, 3)  # position of the pelvis
SPINE = slice(3, 6)  # direction from pelvis to neck
LATERAL = slice(6, 9)  # direction to the person's left
HEAD = slice(9, 12)  # direction from neck to head, in the torso's frame
HAND_L = slice(12, 15)  # hand from its shoulder in the torso's frame (forward, left, up), in arm lengths
HAND_R = slice(15, 18)
FOOT_L = slice(18, 21)  # ankle position
FOOT_R = slice(21, 24)
KNEE = slice(24, 27)  # direction in which knees bend and toes point
POSE_SIZE = 27

JOINTS = (
    "pelvis", "chest", "neck", "head",
    "shoulder_l", "elbow_l", "hand_l", "shoulder_r", "elbow_r", "hand_r",
    "hip_l", "knee_l", "ankle_l", "toe_l", "hip_r", "knee_r", "ankle_r", "toe_r",
)  # fmt: skip
JOINT = {name: index for index, name in enumerate(JOINTS)}


@dataclass(frozen=True)
class Body:
    """Proportions and looks of one person; lengths in metres, colours as linear RGB in 0..1."""

    height: float
    girth: float
    """Factor on all radii: 0.85 thin, 1.25 stout."""
    pace: float
    """Factor on all speeds: 0.75 slow, 1.2 brisk."""
    left_handed: bool
    colours: np.ndarray
    """float[6, 3]: skin, hair, shirt, trousers, shoes, second shirt colour."""
    stripes: float
    """Stripes along the shirt: 0 for none, else their number per metre."""
    short_sleeves: bool
    skirt: bool
    long_hair: bool

    @property
    def leg(self) -> float:
        return 0.47 * self.height

    @property
    def arm(self) -> float:
        return 0.37 * self.height

    @property
    def torso(self) -> float:
        return 0.30 * self.height

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Body":
        """Draws a person. Cloth colours are drawn as grey level plus tint: strong colours are rarer than dull ones."""
        skin = rng.uniform(0.25, 1.0) * np.array([0.80, 0.58, 0.46]) + rng.uniform(-0.03, 0.03, 3)
        hair = rng.choice([0.04, 0.10, 0.25, 0.6]) * np.array([1.0, 0.85, 0.7]) + rng.uniform(0, 0.05)

        def cloth() -> np.ndarray:
            return np.clip(rng.uniform(0.04, 0.8) + rng.normal(0, rng.choice([0.04, 0.25]), 3), 0.02, 0.95)

        shirt = cloth()
        colours = np.stack(
            [skin, np.full(3, hair) if np.ndim(hair) == 0 else hair, shirt, cloth(), cloth() * 0.6, cloth()]
        )
        return cls(
            height=float(rng.uniform(1.50, 1.92)),
            girth=float(rng.uniform(0.85, 1.28)),
            pace=float(rng.uniform(0.75, 1.2)),
            left_handed=bool(rng.random() < 0.15),
            colours=np.clip(colours, 0.01, 1.0).astype(np.float32),
            stripes=float(rng.choice([0.0, 0.0, rng.uniform(4, 12)])),
            short_sleeves=bool(rng.random() < 0.4),
            skirt=bool(rng.random() < 0.15),
            long_hair=bool(rng.random() < 0.35),
        )


def pose(
    *,
    pelvis: tuple[float, float, float],
    spine: tuple[float, float, float] = (0.03, 0, 1),
    lateral: tuple[float, float, float] = (0, 1, 0),
    head: tuple[float, float, float] = (0.12, 0, 1),
    hand_l: tuple[float, float, float] = (0.10, 0.12, -0.93),
    hand_r: tuple[float, float, float] = (0.10, -0.12, -0.93),
    foot_l: tuple[float, float, float] = (0, 0.10, 0.07),
    foot_r: tuple[float, float, float] = (0, -0.10, 0.07),
    knee: tuple[float, float, float] = (1, 0, 0),
) -> np.ndarray:
    """One pose vector, float[POSE_SIZE]; the defaults are those of a person who stands."""
    return np.array([*pelvis, *spine, *lateral, *head, *hand_l, *hand_r, *foot_l, *foot_r, *knee], dtype=np.float64)


def stand(body: Body) -> np.ndarray:
    return pose(pelvis=(0, 0, body.leg * 0.985 + 0.05))


def sit(body: Body, seat: float, lean: float = -0.12) -> np.ndarray:
    """Sits on a seat of height `seat`, root under the pelvis, hands on the thighs; `lean` > 0 leans forward."""
    reach = 0.26 * body.height
    return pose(
        pelvis=(0, 0, seat + 0.11), spine=(lean, 0, 1),
        hand_l=(0.55, 0.0, -0.62), hand_r=(0.55, 0.0, -0.62),
        foot_l=(reach, 0.11, 0.07), foot_r=(reach, -0.11, 0.07), knee=(0.8, 0, 0.8),
    )  # fmt: skip


def lie(body: Body, height: float, *, side: str = "back", bend: float = 0.0, toward: float = np.pi) -> np.ndarray:
    """Lies at `height` with the head in direction `toward` (radians in the root's frame; pi is behind), root at the pelvis.

    `side` is which part is down: back, belly, left or right. `bend` of 0..1 draws the legs up.
    """
    u = np.array([np.cos(toward), np.sin(toward), 0.06])
    if side in ("left", "right"):
        # On the left side, the lateral direction points down.
        lateral = np.array([0, 0, -1.0 if side == "left" else 1.0])
        f = np.cross(lateral, u)
    else:
        f = np.array([0, 0, 1.0 if side == "back" else -1.0])
        lateral = np.cross(u, f)
    length = body.leg * (0.96 - 0.45 * bend)
    across = lateral * 0.09
    lift = f * body.leg * 0.25 * bend if side in ("left", "right") else np.zeros(3)
    base = np.array([0, 0, height + 0.10])
    foot = -u * length + lift + base
    feet = [foot + across, foot - across]
    for point in feet:
        point[2] = max(point[2], height + 0.06)
    knee = f if side != "belly" else np.array([u[0], u[1], -0.2])
    hands = {
        "back": ((0.2, 0.25, -0.85), (0.35, 0.1, -0.6)),
        "belly": ((0.05, 0.5, 0.5), (0.1, -0.55, -0.3)),
        "left": ((0.6, 0.1, -0.1), (0.5, -0.1, -0.5)),
        "right": ((0.5, 0.1, -0.5), (0.6, -0.1, -0.1)),
    }[side]
    return pose(
        pelvis=tuple(base), spine=tuple(u), lateral=tuple(lateral), head=(0.1, 0, 1),
        hand_l=hands[0], hand_r=hands[1], foot_l=tuple(feet[0]), foot_r=tuple(feet[1]), knee=tuple(knee),
    )  # fmt: skip


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)


def _two_bones(
    a: np.ndarray, target: np.ndarray, first: float, second: float, pole: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Inverse kinematics of a limb of two bones: positions [N, 3] of its middle joint and of its reachable end."""
    to = target - a
    distance = np.linalg.norm(to, axis=-1, keepdims=True)
    direction = to / np.maximum(distance, 1e-9)
    reach = np.clip(distance, abs(first - second) + 0.02, (first + second) * 0.995)
    along = (first**2 - second**2 + reach**2) / (2 * reach)
    out = np.sqrt(np.maximum(first**2 - along**2, 0))
    bend = _unit(pole - direction * np.sum(pole * direction, axis=-1, keepdims=True))
    return a + direction * along + bend * out, a + direction * reach


def joints(body: Body, root: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """World positions of all joints: root float[N, 3] (x, y, yaw) and poses float[N, POSE_SIZE] to float[N, J, 3]."""
    cos, sin = np.cos(root[:, 2]), np.sin(root[:, 2])

    def turn(v: np.ndarray) -> np.ndarray:
        return np.stack([cos * v[:, 0] - sin * v[:, 1], sin * v[:, 0] + cos * v[:, 1], v[:, 2]], axis=-1)

    ground = np.concatenate([root[:, :2], np.zeros((len(root), 1))], axis=1)
    u = _unit(turn(poses[:, SPINE]))
    lateral = turn(poses[:, LATERAL])
    lateral = _unit(lateral - u * np.sum(lateral * u, axis=-1, keepdims=True))
    front = np.cross(lateral, u)
    knee_pole = _unit(turn(poses[:, KNEE]))

    def torso(v: np.ndarray) -> np.ndarray:
        return front * v[:, :1] + lateral * v[:, 1:2] + u * v[:, 2:3]

    out = np.empty((len(root), len(JOINTS), 3))
    pelvis = ground + turn(poses[:, PELVIS])
    chest = pelvis + u * body.torso * 0.95
    neck = chest + u * 0.045 * body.height
    out[:, 0], out[:, 1], out[:, 2] = pelvis, chest, neck
    out[:, 3] = neck + _unit(torso(poses[:, HEAD])) * 0.075 * body.height
    for base, side, hand, foot in ((4, 1.0, HAND_L, FOOT_L), (7, -1.0, HAND_R, FOOT_R)):
        shoulder = chest + lateral * side * 0.108 * body.height
        pole = -u * 0.8 + lateral * side * 0.5 - front * 0.5
        elbow, end = _two_bones(
            shoulder, shoulder + torso(poses[:, hand]) * body.arm, body.arm * 0.52, body.arm * 0.48, pole
        )
        out[:, base], out[:, base + 1], out[:, base + 2] = shoulder, elbow, end
        hip = pelvis + lateral * side * 0.052 * body.height
        ankle_target = ground + turn(poses[:, foot])
        knee, ankle = _two_bones(hip, ankle_target, body.leg * 0.5, body.leg * 0.5, knee_pole + lateral * side * 0.15)
        toe_direction = knee_pole.copy()
        standing = ankle_target[:, 2] < 0.15
        toe_direction[standing, 2] = np.minimum(toe_direction[standing, 2], 0.0)
        leg = 10 if side > 0 else 14
        out[:, leg], out[:, leg + 1], out[:, leg + 2] = hip, knee, ankle
        out[:, leg + 3] = ankle + _unit(toe_direction) * 0.115 * body.height
    out[..., 2] = np.maximum(out[..., 2], 0.05)
    return out


# Capsules: two joints, radius in units of height, colour index; see `capsules` for those that need more than two joints.
_LIMBS = (
    ("shoulder_l", "elbow_l", 0.028, 2), ("elbow_l", "hand_l", 0.023, 2),
    ("shoulder_r", "elbow_r", 0.028, 2), ("elbow_r", "hand_r", 0.023, 2),
    ("hip_l", "knee_l", 0.047, 3), ("knee_l", "ankle_l", 0.032, 3), ("ankle_l", "toe_l", 0.026, 4),
    ("hip_r", "knee_r", 0.047, 3), ("knee_r", "ankle_r", 0.032, 3), ("ankle_r", "toe_r", 0.026, 4),
    ("shoulder_l", "shoulder_r", 0.040, 2), ("hip_l", "hip_r", 0.060, 3),
)  # fmt: skip


def capsules(body: Body, skeleton: np.ndarray) -> np.ndarray:
    """The body's surface: joints float[N, J, 3] to float32[N, K, 8] of (p0, p1, radius, colour index).

    Colour indices: 0 skin, 1 hair, 2 shirt, 3 trousers, 4 shoes (as in Body.colours).
    """
    j = {name: skeleton[:, index] for name, index in JOINT.items()}
    h, g = body.height, body.girth
    parts: list[tuple[np.ndarray, np.ndarray, float, int]] = []
    for a, b, radius, colour in _LIMBS:
        bare = body.short_sleeves and a.startswith("elbow")
        thick = 1.25 if body.skirt and a.startswith(("hip", "knee")) else 1.0
        parts.append((j[a], j[b], radius * h * (0.5 + 0.5 * g) * thick, 0 if bare else colour))
    for side in "lr":
        inner = j["chest"] * 0.45 + j[f"shoulder_{side}"] * 0.55
        parts.append((inner, j["pelvis"] * 0.45 + j[f"hip_{side}"] * 0.55, 0.058 * h * g, 2))
        parts.append((j[f"hand_{side}"], j[f"hand_{side}"] * 1.28 - j[f"elbow_{side}"] * 0.28, 0.024 * h, 0))
    parts.append(((j["chest"] + j["pelvis"]) / 2, j["pelvis"], 0.068 * h * g, 2))
    parts.append((j["chest"], j["neck"], 0.033 * h, 0))
    up = _unit(j["head"] - j["neck"])
    # The face side is where the chest faces: hair sits on the other side and on top.
    lateral = _unit(j["shoulder_l"] - j["shoulder_r"])
    face = _unit(np.cross(lateral, up))
    parts.append(
        (j["head"] - up * 0.012 * h + face * 0.008 * h, j["head"] + up * 0.015 * h + face * 0.008 * h, 0.050 * h, 0)
    )
    tail = -up * (0.07 if body.long_hair else 0.0) * h
    parts.append((j["head"] + up * 0.022 * h - face * 0.014 * h, j["head"] - face * 0.03 * h + tail, 0.050 * h, 1))
    out = np.empty((len(skeleton), len(parts), 8), dtype=np.float32)
    for index, (p0, p1, radius, colour) in enumerate(parts):
        out[:, index, 0:3], out[:, index, 3:6], out[:, index, 6], out[:, index, 7] = p0, p1, radius, colour
    return out
