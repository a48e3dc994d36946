"""A furnished room: boxes to look at and spots to act at.

The kitchen stands along the far wall (y = depth), the sofa along the left one (x = 0), bed and desk along the near one (y = 0),
television and door along the right one. Everything else about a room is drawn at random. Lengths in metres, angles in radians.
"""

from dataclasses import dataclass, field

import numpy as np

PLAIN, PLANKS, TILES, CLOTH, STRIPES, PICTURE = range(6)
"""Textures of the renderer, by number."""


@dataclass(frozen=True)
class Box:
    """A box turned about the vertical axis."""

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    colour: np.ndarray
    """float[3], linear RGB."""
    second: np.ndarray
    """float[3]: the texture's other colour."""
    texture: int = PLAIN
    scale: float = 1.0
    """Size of the texture's pattern."""
    yaw: float = 0.0
    glow: float = 0.0
    """Light that the surface sends out by itself: windows, lamps, screens."""


@dataclass(frozen=True)
class Spot:
    """A place to act at: where to stand, where to face, and what is in reach."""

    x: float
    y: float
    yaw: float
    height: float = 0.0
    """Height of the seat, bed or work top."""
    seat_x: float = 0.0
    seat_y: float = 0.0
    """Where the pelvis comes to rest, for seats and beds."""
    head_yaw: float = 0.0
    """World direction of the head end, for beds and sofas."""


@dataclass
class Room:
    width: float
    depth: float
    height: float
    boxes: list[Box] = field(default_factory=list)
    spots: dict[str, Spot] = field(default_factory=dict)
    lamp: tuple[float, float, float] = (0.0, 0.0, 0.0)
    sun: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Direction to the window's light."""
    light: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Strength of ambient, lamp and window light."""
    floor_free: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """x0, y0, x1, y1 of the free floor in the middle."""
    door: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Hinge x, y and width of the door in the right wall."""
    door_colour: np.ndarray = field(default_factory=lambda: np.zeros(3))
    fridge: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Hinge x, y, width and height of the refrigerator's door."""
    fridge_colour: np.ndarray = field(default_factory=lambda: np.zeros(3))
    television: Box | None = None

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Room":
        return _furnish(rng)


def _tint(rng: np.random.Generator, low: float, high: float, spread: float = 0.06) -> np.ndarray:
    return np.clip(rng.uniform(low, high) + rng.normal(0, spread, 3), 0.02, 1.0)


def _wood(rng: np.random.Generator) -> np.ndarray:
    return np.clip(rng.uniform(0.12, 0.75) * np.array([1.0, 0.74, 0.5]) + rng.normal(0, 0.03, 3), 0.02, 1.0)


def _furnish(rng: np.random.Generator) -> Room:
    w, d, h = float(rng.uniform(4.0, 5.2)), float(rng.uniform(3.8, 4.8)), float(rng.uniform(2.4, 2.8))
    room = Room(w, d, h)
    add = room.boxes.append

    def box(
        x0: float, y0: float, z0: float, x1: float, y1: float, z1: float, colour: np.ndarray,
        *, texture: int = PLAIN, scale: float = 1.0, second: np.ndarray | None = None, glow: float = 0.0, yaw: float = 0.0,
    ) -> Box:  # fmt: skip
        made = Box(
            ((x0 + x1) / 2, (y0 + y1) / 2, (z0 + z1) / 2),
            (abs(x1 - x0) / 2, abs(y1 - y0) / 2, abs(z1 - z0) / 2),
            colour, colour * 0.7 if second is None else second, texture, scale, yaw, glow,
        )  # fmt: skip
        add(made)
        return made

    # Shell
    t = 0.1
    floor_texture = int(rng.choice([PLANKS, PLANKS, TILES, CLOTH]))
    floor = _wood(rng) if floor_texture == PLANKS else _tint(rng, 0.15, 0.7)
    box(
        -t,
        -t,
        -t,
        w + t,
        d + t,
        0,
        floor,
        texture=floor_texture,
        scale=rng.uniform(0.12, 0.5),
        second=floor * rng.uniform(0.6, 0.95),
    )
    box(-t, -t, h, w + t, d + t, h + t, _tint(rng, 0.7, 0.95, 0.02))
    walls = _tint(rng, 0.35, 0.95)
    accent = _tint(rng, 0.2, 0.9, 0.15) if rng.random() < 0.4 else walls
    wall_texture = int(rng.choice([PLAIN, PLAIN, CLOTH, STRIPES]))
    for x0, y0, x1, y1, colour in (
        (-t, -t, 0, d + t, accent), (w, -t, w + t, d + t, walls), (0, -t, w, 0, walls), (0, d, w, d + t, walls)
    ):  # fmt: skip
        box(
            x0,
            y0,
            0,
            x1,
            y1,
            h,
            colour,
            texture=wall_texture,
            scale=rng.uniform(0.1, 0.4),
            second=colour * rng.uniform(0.85, 1.0),
        )
    if rng.random() < 0.6:
        cx, cy, rx, ry = (
            w * rng.uniform(0.4, 0.6),
            d * rng.uniform(0.4, 0.55),
            rng.uniform(0.5, 1.0),
            rng.uniform(0.5, 0.8),
        )
        rug = _tint(rng, 0.1, 0.8, 0.15)
        box(cx - rx, cy - ry, 0, cx + rx, cy + ry, 0.012, rug, texture=int(rng.choice([CLOTH, STRIPES, TILES])), scale=rng.uniform(0.05, 0.3),
            second=_tint(rng, 0.1, 0.8, 0.15))  # fmt: skip

    # Kitchen along y = d: refrigerator, then machine, container rack, board and stove in any order; cupboards above
    fridge_w, fridge_h, deep = rng.uniform(0.58, 0.68), rng.uniform(1.45, 1.85), 0.6
    x = rng.uniform(0.10, 0.35)
    room.fridge_colour = _tint(rng, 0.55, 0.95, 0.02) if rng.random() < 0.8 else _tint(rng, 0.1, 0.9, 0.2)
    box(x, d - deep, 0, x + fridge_w, d, fridge_h, room.fridge_colour)
    room.fridge = (x, d - deep, fridge_w, fridge_h)
    room.spots["fridge"] = Spot(x + fridge_w / 2 + 0.05, d - deep - 0.62, np.pi / 2, 1.0)
    x += fridge_w + 0.02
    top = float(rng.uniform(0.86, 0.94))
    front, counter = _tint(rng, 0.2, 0.95), _tint(rng, 0.1, 0.8)
    run = min(w - 0.25 - x, rng.uniform(2.6, 3.2))
    box(x, d - deep, 0, x + run, d, top - 0.04, front, texture=STRIPES, scale=0.6, second=front * 0.85)
    box(x, d - deep - 0.03, top - 0.04, x + run, d, top, counter, texture=int(rng.choice([PLAIN, CLOTH])), scale=0.05)
    # Hanging cupboards stay shallow, so that the cook's head is free.
    box(x, d - 0.32, 1.50, x + run, d, 2.15, front, texture=STRIPES, scale=0.6, second=front * 0.85)
    units = np.array([0.14, 0.38, 0.63, 0.87]) * run + x
    machine, high, board, stove = units[rng.permutation(4)]
    for name, at in (("machine", machine), ("high", high), ("board", board), ("stove", stove)):
        room.spots[name] = Spot(float(at), d - deep - 0.36, np.pi / 2, top)
    room.spots["low"] = Spot(float(high) + 0.12, d - deep - 0.62, np.pi / 2, 0.35)
    box(machine - 0.13, d - 0.45, top, machine + 0.13, d - 0.2, top + 0.36, _tint(rng, 0.03, 0.5, 0.1))
    box(
        board - 0.2,
        d - deep + 0.06,
        top,
        board + 0.2,
        d - deep + 0.34,
        top + 0.025,
        _wood(rng),
        texture=PLANKS,
        scale=0.05,
    )
    food = np.array([0.2, 0.6, 0.12]) if rng.random() < 0.5 else np.array([0.75, 0.2, 0.08])
    box(board - 0.08, d - deep + 0.14, top + 0.02, board + 0.04, d - deep + 0.24, top + 0.07, food)
    box(stove - 0.28, d - deep, top, stove + 0.28, d - 0.05, top + 0.012, np.full(3, 0.03))
    pot = _tint(rng, 0.1, 0.7, 0.1)
    box(stove - 0.13, d - deep + 0.10, top, stove + 0.13, d - deep + 0.34, top + 0.15, pot)
    box(
        stove - 0.115,
        d - deep + 0.115,
        top + 0.145,
        stove + 0.115,
        d - deep + 0.325,
        top + 0.152,
        _tint(rng, 0.2, 0.8, 0.2),
    )
    box(stove - 0.29, d - deep - 0.035, 0.1, stove + 0.29, d - deep - 0.03, 0.7, np.full(3, rng.uniform(0.02, 0.3)))

    # Sofa along x = 0
    seat, sofa_l, sofa_d = float(rng.uniform(0.38, 0.46)), rng.uniform(1.7, 2.0), rng.uniform(0.75, 0.9)
    y = rng.uniform(0.9, max(0.95, d - deep - 0.75 - sofa_l))
    cloth = _tint(rng, 0.08, 0.75, 0.12)
    weave, thread = int(rng.choice([PLAIN, CLOTH, STRIPES])), float(rng.uniform(0.05, 0.2))
    box(0.02, y, 0, sofa_d, y + sofa_l, seat, cloth, texture=weave, scale=thread)
    box(0.02, y, 0, 0.24, y + sofa_l, seat + 0.42, cloth * 0.95, texture=weave, scale=thread)
    for end in (y - 0.14, y + sofa_l):
        box(0.02, end, 0, sofa_d, end + 0.14, seat + 0.2, cloth * 0.9, texture=weave, scale=thread)
    for index, share in enumerate((0.28, 0.72)):
        at = y + sofa_l * share
        room.spots[f"sofa{index}"] = Spot(sofa_d + 0.32, at, 0.0, seat, sofa_d - 0.28, at)
    middle = y + sofa_l / 2
    room.spots["sofa_bed"] = Spot(
        sofa_d + 0.32, middle, 0.0, seat, sofa_d * 0.62, middle + 0.05, np.pi / 2 if rng.random() < 0.5 else -np.pi / 2
    )

    # Bed along y = 0, lengthwise, and the desk beside it
    bed_l, bed_w, bed_h = rng.uniform(1.95, 2.1), rng.uniform(0.85, 1.15), float(rng.uniform(0.40, 0.52))
    head_left = rng.random() < 0.5
    bx = 0.08
    sheet = _tint(rng, 0.2, 0.95, 0.12)
    box(bx, 0.03, 0, bx + bed_l, bed_w, bed_h - 0.16, _wood(rng))
    box(bx, 0.03, bed_h - 0.16, bx + bed_l, bed_w, bed_h, sheet, texture=int(rng.choice([PLAIN, CLOTH, STRIPES, TILES])),
        scale=rng.uniform(0.1, 0.4), second=_tint(rng, 0.2, 0.95, 0.12))  # fmt: skip
    pillow = (bx + 0.05, bx + 0.45) if head_left else (bx + bed_l - 0.45, bx + bed_l - 0.05)
    box(pillow[0], 0.12, bed_h, pillow[1], bed_w - 0.12, bed_h + 0.10, _tint(rng, 0.6, 1.0, 0.05))
    head_yaw = np.pi if head_left else 0.0
    room.spots["bed"] = Spot(
        bx + bed_l / 2,
        bed_w + 0.33,
        np.pi / 2,
        bed_h,
        bx + bed_l / 2 + (0.08 if head_left else -0.08),
        bed_w * 0.55,
        head_yaw,
    )
    desk_w, desk_h = rng.uniform(0.95, 1.25), float(rng.uniform(0.70, 0.76))
    dx = min(max(bx + bed_l + 0.25, w - desk_w - rng.uniform(0.25, 0.6)), w - desk_w - 0.1)
    wood = _wood(rng)
    box(dx, 0.05, desk_h - 0.04, dx + desk_w, 0.62, desk_h, wood, texture=PLANKS, scale=0.1)
    for leg in (dx + 0.03, dx + desk_w - 0.07):
        box(leg, 0.08, 0, leg + 0.05, 0.58, desk_h - 0.04, wood * 0.8)
    lx, laptop = dx + desk_w / 2, np.full(3, rng.uniform(0.05, 0.6))
    box(lx - 0.17, 0.30, desk_h, lx + 0.17, 0.53, desk_h + 0.018, laptop)
    box(lx - 0.17, 0.24, desk_h + 0.01, lx + 0.17, 0.27, desk_h + 0.25, np.array([0.45, 0.55, 0.75]), glow=0.55)
    chair, cy = _tint(rng, 0.05, 0.7, 0.12), 0.98
    box(lx - 0.21, cy - 0.19, 0.41, lx + 0.21, cy + 0.21, 0.46, chair)
    box(lx - 0.20, cy + 0.18, 0.46, lx + 0.20, cy + 0.22, 0.88, chair * 0.9)
    for ox in (-0.18, 0.16):
        for oy in (-0.17, 0.17):
            box(lx + ox, cy + oy, 0, lx + ox + 0.03, cy + oy + 0.03, 0.42, chair * 0.6)
    room.spots["desk"] = Spot(lx + (0.5 if lx < w - 0.85 else -0.5), cy + 0.05, -np.pi / 2, 0.46, lx, cy)
    room.spots["desk_side"] = Spot(lx, 1.5, -np.pi / 2)

    # Television on a stand at x = w, opposite the sofa; the door further down the same wall
    stand_w, tv_w = rng.uniform(1.0, 1.3), rng.uniform(0.75, 1.05)
    ty = float(np.clip(middle, 1.95 + stand_w / 2, d - deep - 0.35 - stand_w / 2))
    box(w - 0.42, ty - stand_w / 2, 0, w - 0.02, ty + stand_w / 2, 0.48, _wood(rng), texture=PLANKS, scale=0.1)
    room.television = box(w - 0.25, ty - tv_w / 2, 0.55, w - 0.20, ty + tv_w / 2, 0.55 + tv_w * 0.58, np.full(3, 0.02))
    door_w = float(rng.uniform(0.78, 0.9))
    door_y = float(np.clip(ty - stand_w / 2 - door_w - 0.12, 0.72, d))
    room.door = (w, door_y, door_w)
    room.door_colour = _tint(rng, 0.15, 0.95, 0.08)
    frame = _tint(rng, 0.3, 0.98, 0.03)
    for y0, y1 in ((door_y - 0.07, door_y), (door_y + door_w, door_y + door_w + 0.07)):
        box(w - 0.03, y0, 0, w, y1, 2.05, frame)
    box(w - 0.03, door_y - 0.07, 2.0, w, door_y + door_w + 0.07, 2.08, frame)
    # Behind the open door lies a dim corridor: a dark pane in the wall, covered by the door's leaf while that is shut.
    box(w - 0.008, door_y, 0, w, door_y + door_w, 2.0, np.full(3, rng.uniform(0.02, 0.12)))
    room.spots["door"] = Spot(w - 0.75, door_y + door_w / 2, np.pi)

    # Window, pictures, shelf, plants, clutter
    bright = rng.uniform(0.5, 1.6)
    if rng.random() < 0.75:
        wx = rng.uniform(0.3, w - 1.7)
        box(wx, 0, 1.0, wx + rng.uniform(0.9, 1.4), 0.015, 2.0, np.array([0.8, 0.9, 1.0]), glow=bright)
    for _ in range(int(rng.integers(0, 4))):
        px, pz, pw, ph = (
            rng.uniform(0.4, d - 1.2),
            rng.uniform(1.2, 1.6),
            rng.uniform(0.25, 0.7),
            rng.uniform(0.25, 0.5),
        )
        if rng.random() < 0.5:
            box(
                0,
                px,
                pz,
                0.02,
                px + pw,
                pz + ph,
                _tint(rng, 0.1, 0.9, 0.2),
                texture=PICTURE,
                scale=0.2,
                second=_tint(rng, 0.1, 0.9, 0.2),
            )
        else:
            box(
                px,
                0,
                pz,
                px + pw,
                0.02,
                pz + ph,
                _tint(rng, 0.1, 0.9, 0.2),
                texture=PICTURE,
                scale=0.2,
                second=_tint(rng, 0.1, 0.9, 0.2),
            )
    for _ in range(int(rng.integers(1, 6))):
        size, tall = rng.uniform(0.06, 0.16), rng.uniform(0.1, 0.5)
        where = [(w - 0.25, d - 0.25), (0.25, y - 0.4), (0.25, d - 0.3), (w - 0.3, d - deep - 0.25)][
            int(rng.integers(4))
        ]
        cx, cy2 = where[0] + rng.normal(0, 0.08), where[1] + rng.normal(0, 0.08)
        if cy2 > bed_w + 0.2 or cx > bx + bed_l:
            box(cx - size, cy2 - size, 0, cx + size, cy2 + size, tall, _tint(rng, 0.05, 0.9, 0.2), yaw=rng.uniform(0, 1.5),
                texture=int(rng.integers(6)), scale=rng.uniform(0.05, 0.3))  # fmt: skip
    for _ in range(int(rng.integers(0, 5))):
        cx, size = x + rng.uniform(0.05, 0.95) * run, rng.uniform(0.03, 0.07)
        box(cx - size, d - 0.16, top, cx + size, d - 0.05, top + rng.uniform(0.08, 0.3), _tint(rng, 0.05, 0.9, 0.25))
    for _ in range(int(rng.integers(0, 3))):
        cx, size = dx + rng.choice([0.12, desk_w - 0.12]), rng.uniform(0.03, 0.08)
        box(cx - size, 0.12, desk_h, cx + size, 0.26, desk_h + rng.uniform(0.05, 0.3), _tint(rng, 0.05, 0.9, 0.25))

    room.lamp = (w / 2 + rng.normal(0, 0.5), d / 2 + rng.normal(0, 0.5), h - 0.12)
    side = rng.uniform(-0.7, 0.7)
    room.sun = (side, -0.8, rng.uniform(0.4, 1.0))
    day = rng.random() < 0.6
    room.light = (
        float(rng.uniform(0.25, 0.55)), float(rng.uniform(0.1, 0.5) if day else rng.uniform(0.5, 0.9)),
        float(rng.uniform(0.2, 0.6) if day else 0.0),
    )  # fmt: skip
    room.floor_free = (sofa_d + 0.55, bed_w + 0.75, w - 0.85, d - deep - 0.8)
    return room
