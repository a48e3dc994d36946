"""Pictures of a room and a person: a small ray caster, compiled by numba.

The room stands still, so it is cast once per camera, with its shadows; each frame then casts only the rays near what moves
against the depth already known. Single-threaded and without fast-math, so that a seed gives the same pictures anywhere.
Shapes: H x W pixels, S boxes, K capsules, N frames.
"""

import math

import numba
import numpy as np

from pipelines.homesim.camera import Camera
from pipelines.homesim.room import CLOTH, PICTURE, PLANKS, STRIPES, TILES, Box, Room

BOX_FIELDS = 18
"""centre 3, half size 3, cos and sin of the yaw, colour 3, second colour 3, texture, scale, glow, number."""
FAR = np.float32(1e9)


def pack(boxes: list[Box]) -> np.ndarray:
    """Boxes as the renderer reads them: float32[S, BOX_FIELDS]."""
    out = np.zeros((len(boxes), BOX_FIELDS), dtype=np.float32)
    for i, box in enumerate(boxes):
        out[i] = (
            *box.centre, *box.half, math.cos(box.yaw), math.sin(box.yaw), *box.colour, *box.second, box.texture, box.scale, box.glow, i,
        )  # fmt: skip
    return out


@numba.njit(cache=True)
def _hash(x: int, y: int) -> float:
    """A number of 0..1 for each cell of a grid."""
    n = (x * 374761393 + y * 668265263) & 0xFFFFFFFF
    n = ((n ^ (n >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((n ^ (n >> 16)) & 0xFFFF) / 65535.0


@numba.njit(cache=True)
def _box_hit(o0, o1, o2, d0, d1, d2, box):  # type: ignore[no-untyped-def]
    """Distance along the ray to a box (FAR if missed), and the axis (0, 1, 2) and sign of the face."""
    c, s = box[6], box[7]
    p0, p1, p2 = o0 - box[0], o1 - box[1], o2 - box[2]
    q0, q1 = c * p0 + s * p1, -s * p0 + c * p1
    e0, e1 = c * d0 + s * d1, -s * d0 + c * d1
    near, far, axis, sign = -1e9, 1e9, 0, 1.0
    for i in range(3):
        origin = q0 if i == 0 else (q1 if i == 1 else p2)
        direction = e0 if i == 0 else (e1 if i == 1 else d2)
        half = box[3 + i]
        if abs(direction) < 1e-9:
            if abs(origin) > half:
                return FAR, 0, 1.0
            continue
        a = (-half - origin) / direction
        b = (half - origin) / direction
        face = -1.0
        if a > b:
            a, b, face = b, a, 1.0
        if a > near:
            near, axis, sign = a, i, face
        far = min(far, b)
        if near > far:
            return FAR, 0, 1.0
    if near < 1e-4:
        return FAR, 0, 1.0
    return near, axis, sign


@numba.njit(cache=True)
def _capsule_hit(o0, o1, o2, d0, d1, d2, k):  # type: ignore[no-untyped-def]
    """Distance along a ray of any length to a capsule (FAR if missed). After Inigo Quilez, "capsule intersection"."""
    b0, b1, b2 = k[3] - k[0], k[4] - k[1], k[5] - k[2]
    a0, a1, a2 = o0 - k[0], o1 - k[1], o2 - k[2]
    r = k[6]
    dd = d0 * d0 + d1 * d1 + d2 * d2
    bb = b0 * b0 + b1 * b1 + b2 * b2
    bd = b0 * d0 + b1 * d1 + b2 * d2
    ba = b0 * a0 + b1 * a1 + b2 * a2
    ad = a0 * d0 + a1 * d1 + a2 * d2
    aa = a0 * a0 + a1 * a1 + a2 * a2
    if bb > 1e-8:
        a = bb * dd - bd * bd
        b = bb * ad - ba * bd
        c = bb * aa - ba * ba - r * r * bb
        h = b * b - a * c
        if h < 0.0:
            return FAR, 0.0
        if a > 1e-10:
            t = (-b - math.sqrt(h)) / a
            y = ba + t * bd
            if 0.0 < y < bb:
                return (t, y / bb) if t > 1e-4 else (FAR, 0.0)
            end = 0.0 if y <= 0.0 else 1.0
        else:
            end = 0.0 if bd > 0 else 1.0
    else:
        end = 0.0
    a0, a1, a2 = a0 - end * b0, a1 - end * b1, a2 - end * b2
    b = d0 * a0 + d1 * a1 + d2 * a2
    c = a0 * a0 + a1 * a1 + a2 * a2 - r * r
    h = b * b - dd * c
    if h < 0.0:
        return FAR, 0.0
    t = (-b - math.sqrt(h)) / dd
    return (t, end) if t > 1e-4 else (FAR, 0.0)


@numba.njit(cache=True)
def _texture(box, u, v):  # type: ignore[no-untyped-def]
    """Share of the second colour at (u, v) metres on a face."""
    kind, scale = int(box[14]), max(box[15], 0.01)
    if kind == PLANKS:
        row = math.floor(v / scale)
        column = math.floor(u / (scale * 7.0) + _hash(int(row), 7) * 5.0)
        grain = _hash(int(math.floor(u / 0.06)), int(math.floor(v / 0.012))) * 0.25
        return 0.75 * _hash(int(row), int(column)) + grain
    if kind == TILES:
        return float((int(math.floor(u / scale)) + int(math.floor(v / scale))) & 1)
    if kind == CLOTH:
        return _hash(int(math.floor(u / 0.02)), int(math.floor(v / 0.02)))
    if kind == STRIPES:
        return float(int(math.floor(u / scale)) & 1)
    if kind == PICTURE:
        return _hash(int(math.floor(u / 0.07)) + int(box[17]) * 31, int(math.floor(v / 0.07)))
    return 0.3 * _hash(int(math.floor(u / 0.5)), int(math.floor(v / 0.5)))


@numba.njit(cache=True)
def _dark(p0, p1, p2, l0, l1, l2, boxes):  # type: ignore[no-untyped-def]
    """Whether a box lies between a point and the light at the end of l."""
    for i in range(boxes.shape[0]):
        if boxes[i, 16] > 0.0:
            continue
        t, _, _ = _box_hit(p0, p1, p2, l0, l1, l2, boxes[i])
        if t < 0.98:
            return True
    return False


@numba.njit(cache=True)
def in_sight(points, origin, boxes):  # type: ignore[no-untyped-def]
    """Which of points float64[P, 3] can be seen from origin past the boxes: bool[P]."""
    out = np.ones(points.shape[0], np.bool_)
    for i in range(points.shape[0]):
        p = points[i]
        out[i] = not _dark(p[0], p[1], p[2], origin[0] - p[0], origin[1] - p[1], origin[2] - p[2], boxes)
    return out


@numba.njit(cache=True)
def _face(box, axis, sign):  # type: ignore[no-untyped-def]
    c, s = box[6], box[7]
    if axis == 0:
        return c * sign, s * sign, 0.0
    if axis == 1:
        return -s * sign, c * sign, 0.0
    return 0.0, 0.0, sign


@numba.njit(cache=True)
def cast_room(rays, origin, boxes, shadowing, lamp, sun, light):  # type: ignore[no-untyped-def]
    """The empty room: linear colour float32[H, W, 3] and depth float32[H, W] along the forward axis."""
    height, width = rays.shape[:2]
    colour = np.zeros((height, width, 3), np.float32)
    depth = np.full((height, width), FAR, np.float32)
    for row in range(height):
        for column in range(width):
            d0, d1, d2 = rays[row, column, 0], rays[row, column, 1], rays[row, column, 2]
            best, hit, axis, sign = FAR, -1, 0, 1.0
            for i in range(boxes.shape[0]):
                t, a, s = _box_hit(origin[0], origin[1], origin[2], d0, d1, d2, boxes[i])
                if t < best:
                    best, hit, axis, sign = t, i, a, s
            if hit < 0:
                continue
            box = boxes[hit]
            p0, p1, p2 = origin[0] + d0 * best, origin[1] + d1 * best, origin[2] + d2 * best
            n0, n1, n2 = _face(box, axis, sign)
            r0, r1 = p0 - box[0], p1 - box[1]
            q0, q1 = box[6] * r0 + box[7] * r1, -box[7] * r0 + box[6] * r1
            u = q1 if axis == 0 else q0
            v = q1 if axis == 2 else p2
            mix = _texture(box, u + 10.0, v + 10.0)
            e0, e1, e2 = p0 + n0 * 0.003, p1 + n1 * 0.003, p2 + n2 * 0.003
            strength = light[0] * (0.8 + 0.2 * n2 + 0.08 * n0)
            l0, l1, l2 = lamp[0] - e0, lamp[1] - e1, lamp[2] - e2
            square = l0 * l0 + l1 * l1 + l2 * l2
            facing = (n0 * l0 + n1 * l1 + n2 * l2) / math.sqrt(square)
            if facing > 0.0 and light[1] > 0.0 and not _dark(e0, e1, e2, l0, l1, l2, shadowing):
                strength += light[1] * facing * 4.0 / (2.0 + square)
            facing = (n0 * sun[0] + n1 * sun[1] + n2 * sun[2]) / math.sqrt(sun[0] ** 2 + sun[1] ** 2 + sun[2] ** 2)
            if facing > 0.0 and light[2] > 0.0 and not _dark(e0, e1, e2, sun[0] * 5, sun[1] * 5, sun[2] * 5, shadowing):
                strength += light[2] * facing
            for k in range(3):
                base = box[8 + k] * (1.0 - mix) + box[11 + k] * mix
                colour[row, column, k] = base * strength + base * box[16]
            depth[row, column] = best
    return colour, depth


@numba.njit(cache=True)
def _bounds(points, radius, origin, axes, focal, width, height):  # type: ignore[no-untyped-def]
    """The pixels that balls of `radius` about points can cover: row and column ranges (empty behind the camera)."""
    x0, x1, y0, y1 = 1e9, -1e9, 1e9, -1e9
    for i in range(points.shape[0]):
        a0, a1, a2 = points[i, 0] - origin[0], points[i, 1] - origin[1], points[i, 2] - origin[2]
        z = axes[2, 0] * a0 + axes[2, 1] * a1 + axes[2, 2] * a2
        if z < 0.15:
            z = 0.15
        x = (axes[0, 0] * a0 + axes[0, 1] * a1 + axes[0, 2] * a2) / z
        y = (axes[1, 0] * a0 + axes[1, 1] * a1 + axes[1, 2] * a2) / z
        r = 1.25 * radius / max(z - radius, 0.1)
        x0, x1, y0, y1 = min(x0, x - r), max(x1, x + r), min(y0, y - r), max(y1, y + r)
    half = width / 2.0
    return (
        max(0, int(y0 * focal * half + height / 2.0)), min(height, int(y1 * focal * half + height / 2.0) + 2),
        max(0, int(x0 * focal * half + half)), min(width, int(x1 * focal * half + half) + 2),
    )  # fmt: skip


@numba.njit(cache=True)
def draw_frame(  # type: ignore[no-untyped-def]
    room_colour, room_depth, rays, origin, axes, focal, capsules, capsule_colours, stripes, boxes, lamp, sun, light,
    gain, gamma_table, white, vignette, noise, noise_tile, offset, infrared, out, colour, depth,
):  # fmt: skip
    """One frame uint8[H, W, 3] into `out`: what moves (capsules, boxes) drawn into the room, then the camera's faults.

    `colour` and `depth` are work space of the room's shape. The light is diffuse, with the person's shadow on the room.
    """
    height, width = room_depth.shape
    colour[:] = room_colour
    depth[:] = room_depth
    sun_length = math.sqrt(sun[0] ** 2 + sun[1] ** 2 + sun[2] ** 2)
    ends = np.zeros((2, 3), np.float64)
    if capsules.shape[0] > 0:
        # The person's shadow under the lamp: rays from what the camera sees to the lamp, against a ball and then the limbs.
        c0, c1, c2 = 0.0, 0.0, 0.0
        for k in range(capsules.shape[0]):
            c0, c1, c2 = c0 + capsules[k, 0], c1 + capsules[k, 1], c2 + capsules[k, 2]
        c0, c1, c2 = c0 / capsules.shape[0], c1 / capsules.shape[0], c2 / capsules.shape[0]
        weight = light[1] / (light[0] + light[1] + 0.01)
        ends[0, 0], ends[0, 1], ends[0, 2] = c0, c1, c2
        ends[1, 0], ends[1, 1], ends[1, 2] = 2 * c0 - lamp[0], 2 * c1 - lamp[1], 0.0
        top, bottom, left, right = _bounds(ends, 1.2, origin, axes, focal, width, height)
        # One ray serves a block of two by two pixels: a shadow's edge is soft anyway.
        for row in range(top - top % 2, bottom, 2):
            for column in range(left - left % 2, right, 2):
                t = depth[row, column]
                p0, p1, p2 = (
                    origin[0] + rays[row, column, 0] * t,
                    origin[1] + rays[row, column, 1] * t,
                    origin[2] + rays[row, column, 2] * t,
                )
                l0, l1, l2 = lamp[0] - p0, lamp[1] - p1, lamp[2] - p2
                square = l0 * l0 + l1 * l1 + l2 * l2
                a0, a1, a2 = c0 - p0, c1 - p1, c2 - p2
                s = (a0 * l0 + a1 * l1 + a2 * l2) / square
                if s <= 0.0 or s >= 1.0:
                    continue
                e0, e1, e2 = a0 - s * l0, a1 - s * l1, a2 - s * l2
                if e0 * e0 + e1 * e1 + e2 * e2 > 1.1:
                    continue
                for k in range(capsules.shape[0]):
                    hit, _ = _capsule_hit(p0, p1, p2, l0, l1, l2, capsules[k])
                    if hit < 1.0:
                        shade = 1.0 - 0.75 * weight
                        for y in range(row, min(row + 2, height)):
                            for x in range(column, min(column + 2, width)):
                                for channel in range(3):
                                    colour[y, x, channel] *= shade
                        break
    for k in range(capsules.shape[0]):
        one = capsules[k]
        for i in range(3):
            ends[0, i], ends[1, i] = one[i], one[3 + i]
        top, bottom, left, right = _bounds(ends, one[6], origin, axes, focal, width, height)
        index = int(one[7])
        for row in range(top, bottom):
            for column in range(left, right):
                d0, d1, d2 = rays[row, column, 0], rays[row, column, 1], rays[row, column, 2]
                t, along = _capsule_hit(origin[0], origin[1], origin[2], d0, d1, d2, one)
                if t >= depth[row, column]:
                    continue
                depth[row, column] = t
                p0, p1, p2 = origin[0] + d0 * t, origin[1] + d1 * t, origin[2] + d2 * t
                n0 = (p0 - one[0] - along * (one[3] - one[0])) / one[6]
                n1 = (p1 - one[1] - along * (one[4] - one[1])) / one[6]
                n2 = (p2 - one[2] - along * (one[5] - one[2])) / one[6]
                l0, l1, l2 = lamp[0] - p0, lamp[1] - p1, lamp[2] - p2
                square = l0 * l0 + l1 * l1 + l2 * l2
                strength = light[0] * (0.75 + 0.25 * n2)
                strength += (
                    light[1]
                    * max((n0 * l0 + n1 * l1 + n2 * l2) / math.sqrt(square) * 0.7 + 0.3, 0.0)
                    * 4.0
                    / (2.0 + square)
                )
                strength += light[2] * max((n0 * sun[0] + n1 * sun[1] + n2 * sun[2]) / sun_length, 0.0) * 0.6
                which = index
                if index == 2 and stripes > 0.0 and int(math.floor(p2 * stripes * 2.0)) % 2 == 0:
                    which = 5
                cloth = 0.88 + 0.24 * _hash(int(math.floor(along * 9.0)) + k * 17, int(math.floor((n0 + 1.0) * 3.0)))
                for channel in range(3):
                    colour[row, column, channel] = capsule_colours[which, channel] * strength * cloth
    corner = np.zeros((8, 3), np.float64)
    for k in range(boxes.shape[0]):
        box = boxes[k]
        for i in range(8):
            x = box[3] if i & 1 else -box[3]
            y = box[4] if i & 2 else -box[4]
            z = box[5] if i & 4 else -box[5]
            corner[i, 0] = box[0] + box[6] * x - box[7] * y
            corner[i, 1] = box[1] + box[7] * x + box[6] * y
            corner[i, 2] = box[2] + z
        top, bottom, left, right = _bounds(corner, 0.01, origin, axes, focal, width, height)
        for row in range(top, bottom):
            for column in range(left, right):
                d0, d1, d2 = rays[row, column, 0], rays[row, column, 1], rays[row, column, 2]
                t, axis, sign = _box_hit(origin[0], origin[1], origin[2], d0, d1, d2, box)
                if t >= depth[row, column]:
                    continue
                depth[row, column] = t
                p0, p1, p2 = origin[0] + d0 * t, origin[1] + d1 * t, origin[2] + d2 * t
                n0, n1, n2 = _face(box, axis, sign)
                l0, l1, l2 = lamp[0] - p0, lamp[1] - p1, lamp[2] - p2
                square = l0 * l0 + l1 * l1 + l2 * l2
                strength = light[0] * (0.8 + 0.2 * n2)
                strength += (
                    light[1] * max((n0 * l0 + n1 * l1 + n2 * l2) / math.sqrt(square), 0.0) * 4.0 / (2.0 + square)
                )
                mix = _texture(box, p0 + p1 + 10.0, p2 + 10.0)
                for channel in range(3):
                    base = box[8 + channel] * (1.0 - mix) + box[11 + channel] * mix
                    colour[row, column, channel] = base * (strength + box[16])
    last = gamma_table.shape[0] - 1
    for row in range(height):
        y = (row + 0.5) / height * 2.0 - 1.0
        for column in range(width):
            x = (column + 0.5) / width * 2.0 - 1.0
            fade = gain * (1.0 - vignette * 0.5 * (x * x + y * y))
            if infrared:
                t = depth[row, column]
                grey = (colour[row, column, 0] + colour[row, column, 1] + colour[row, column, 2]) / 3.0
                lit = fade * grey * 7.0 / (1.5 + t * t)
                value = gamma_table[min(int(lit * 512.0), last)]
                for channel in range(3):
                    pixel = value + noise * noise_tile[offset + row * width + column]
                    out[row, column, channel] = np.uint8(min(max(pixel, 0.0), 255.0))
            else:
                for channel in range(3):
                    value = gamma_table[min(int(colour[row, column, channel] * fade * white[channel] * 512.0), last)]
                    pixel = value + noise * noise_tile[offset + (row * width + column) * 3 + channel]
                    out[row, column, channel] = np.uint8(min(max(pixel, 0.0), 255.0))


class Scene:
    """A room seen by one camera, ready to draw frames."""

    def __init__(self, room: Room, camera: Camera, width: int, height: int, rng: np.random.Generator) -> None:
        self.camera, self.room = camera, room
        self.rays = camera.rays(width, height)
        self.origin = camera.position.astype(np.float64)
        self.lamp, self.sun, self.light = (np.array(v, dtype=np.float64) for v in (room.lamp, room.sun, room.light))
        boxes = pack(room.boxes)
        # The room's shell casts no shadow, else the window's light would never come in.
        self.colour, self.depth = cast_room(self.rays, self.origin, boxes, boxes[6:], self.lamp, self.sun, self.light)
        # Noise is drawn once; each frame takes it from another place.
        self._noise = rng.standard_normal(width * height * 3 * 2).astype(np.float32)
        self._gamma = (255.0 * (np.arange(1024) / 512.0) ** camera.gamma).clip(0, 255).astype(np.float32)
        self._work = (np.empty_like(self.colour), np.empty_like(self.depth))
        self._rng = rng

    def draw(self, capsules: np.ndarray, colours: np.ndarray, stripes: float, boxes: np.ndarray) -> np.ndarray:
        """One frame uint8[H, W, 3] with capsules float32[K, 8] (in colours float32[., 3]) and boxes float32[S, BOX_FIELDS]."""
        out = np.empty(self.colour.shape, dtype=np.uint8)
        camera = self.camera
        draw_frame(
            self.colour, self.depth, self.rays, self.origin, camera.axes, camera.focal, capsules, colours, stripes, boxes,
            self.lamp, self.sun, self.light, camera.gain, self._gamma, camera.white, camera.vignette, camera.noise, self._noise,
            int(self._rng.integers(self.colour.size)), camera.infrared, out, *self._work,
        )  # fmt: skip
        return out
