"""Recordings from numbers: who, where, which take, seen by which camera. The same numbers give the same recording.

Names follow Toyota Smarthome, `Drink.Fromcup_p03_r00_v01_c05.mp4`: here p is the person, r the room, v the take and c the
camera's place (1 to 7, or 8 for the ceiling). People and rooms 0 to 1999 with cameras 1, 3, 4, 6 and 7 train; people and rooms
2000 to 2199 with camera 5 validate; people and rooms 2200 to 2999 with camera 2 test, so that a test shows a person, a room and
a view that training never had. The ceiling's camera may be in any of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipelines.homesim import activities as act
from pipelines.homesim import body as b
from pipelines.homesim.actor import Actor, Track
from pipelines.homesim.body import JOINT, Body
from pipelines.homesim.camera import CEILING, Camera
from pipelines.homesim.render import Scene, in_sight, pack
from pipelines.homesim.room import Room
from pipelines.homesim.stage import Stage

SPLITS = {"train": (0, 2000, (1, 3, 4, 6, 7)), "validation": (2000, 2200, (5,)), "test": (2200, 3000, (2,))}
"""For each split: first and last+1 number of people and of rooms, and the cameras."""
_FPS = (8.0, 10.0, 10.0, 10.0, 10.0, 12.5, 12.5)
POSE_JOINTS = ("head", "chest", "pelvis", "hand_l", "hand_r", "knee_l", "knee_r", "ankle_l", "ankle_r")
"""The joints whose places are written beside the videos."""
PAIRS = ((3, 4), (5, 6), (7, 8))
"""Left and right ones among them."""
POSE_RATE = 8.0
"""Poses a second."""
_PERSON, _ROOM, _TAKE, _CAMERA, _MIRROR = range(5)


@dataclass(frozen=True)
class Recording:
    """One video to be made. `label` is a class for a trimmed clip, None for an untrimmed day."""

    person: int
    room: int
    take: int
    camera: int
    label: str | None = None
    seconds: float = 240.0
    """Length of an untrimmed day; a trimmed clip is as long as its activity."""
    fps: float | None = None
    """Frames per second; drawn at random where None."""

    @property
    def name(self) -> str:
        if self.label is None:
            return f"P{self.person:02d}_R{self.room:02d}_V{self.take:02d}_C{self.camera:02d}"
        return f"{self.label}_p{self.person:02d}_r{self.room:02d}_v{self.take:02d}_c{self.camera:02d}"

    @property
    def split(self) -> str:
        for split, (low, high, cameras) in SPLITS.items():
            if low <= self.person < high and low <= self.room < high and self.camera in (*cameras, CEILING):
                return split
        raise ValueError(f"{self.name} mixes splits: person, room and camera must be of one split, see SPLITS")


def _rng(seed: int, *numbers: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, *numbers]))


class Performance:
    """A recording acted out and ready to be drawn."""

    def __init__(self, recording: Recording, *, width: int = 320, height: int = 240, seed: int = 0) -> None:
        self.recording = recording
        self.body = Body.random(_rng(seed, _PERSON, recording.person))
        self.room = Room.random(_rng(seed, _ROOM, recording.room))
        self.mirrored = bool(_rng(seed, _MIRROR, recording.room).random() < 0.5)
        """Every other room is built the other way round: acted out as all are, and seen in a mirror."""
        index = len(act.LABELS) if recording.label is None else act.LABELS.index(recording.label)
        rng = _rng(seed, _TAKE, recording.person, recording.room, recording.take, index)
        self.fps = recording.fps or float(rng.choice(_FPS))
        # A room's light changes from take to take, its furniture does not.
        ambient, lamp, sun = self.room.light
        self.room.light = (ambient * rng.uniform(0.7, 1.3), lamp * rng.uniform(0.6, 1.3), sun * rng.uniform(0.4, 1.3))
        actor = Actor(self.body, self.room, self.fps, rng)
        if recording.label is None:
            _day(actor, recording.seconds)
        else:
            _clip(actor, recording.label)
        self.track: Track = actor.track()
        self.stage = Stage(self.body, self.room, self.track, self.fps, rng)
        self.camera = self._aim(
            _rng(seed, _CAMERA, recording.room, recording.camera, recording.take, recording.person), width, height
        )
        self._size, self._rng = (width, height), rng

    @cached_property
    def scene(self) -> Scene:
        """Made at the first frame: who wants only labels and poses need not wait for it."""
        return Scene(self.room, self.camera, *self._size, self._rng)

    def __len__(self) -> int:
        return len(self.track.root)

    def frames(self) -> Iterator[np.ndarray]:
        """All frames, uint8[H, W, 3]."""
        for i in range(len(self)):
            yield self.frame(i)

    def frame(self, i: int) -> np.ndarray:
        capsules, boxes = self.stage.frame(i)
        pixels = self.scene.draw(capsules, self.stage.colours, self.body.stripes, boxes)
        return np.ascontiguousarray(pixels[:, ::-1]) if self.mirrored else pixels

    def spans(self, *, visible: bool = False) -> list[tuple[float, float, str]]:
        """(start, end, label) in seconds, in order of time."""
        spans = self.track.visible if visible else self.track.labels
        return sorted((s.start / self.fps, s.end / self.fps, s.label) for s in spans if s.end > s.start)

    def poses(self) -> np.ndarray:
        """Where the person's joints are, POSE_RATE times a second: float32[N, len(POSE_JOINTS), 3].

        x and y as shares of the picture's width and height, then the height above the floor in metres; NaN for a joint
        outside the picture. Joints behind furniture are there.
        """
        count = int(len(self) / self.fps * POSE_RATE)
        frames = np.minimum((np.arange(count) / POSE_RATE * self.fps).astype(int), len(self) - 1)
        points = self.stage.joints[frames][:, [JOINT[name] for name in POSE_JOINTS]]
        seen, depth = self.camera.project(points, self._size[0] / self._size[1])
        out = np.concatenate([(seen + 1) / 2, points[..., 2:]], axis=-1).astype(np.float32)
        there = (np.abs(seen) < 1).all(-1) & (depth > 0.2) & self.track.present[frames][:, None]
        out[~there] = np.nan
        if self.mirrored:
            out[..., 0] = 1 - out[..., 0]
            for left, right in PAIRS:
                out[:, [left, right]] = out[:, [right, left]]
        return out

    def _aim(self, rng: np.random.Generator, width: int, height: int) -> Camera:
        """The first of some cameras that has the person in view nearly always; else the best of them."""
        present = np.flatnonzero(self.track.present)
        some = present[np.linspace(0, len(present) - 1, 40).astype(int)] if len(present) else np.zeros(0, int)
        # Whoever hangs a camera makes sure that it sees the kitchen at work.
        taken = [
            np.linspace(s.start, s.end - 1, 4).astype(int) for s in self.track.visible if s.label.startswith("Take.")
        ]
        some = np.concatenate([some, *taken])
        points = self.stage.joints[some][
            :, [JOINT["head"], JOINT["pelvis"], JOINT["hand_l"], JOINT["hand_r"], JOINT["ankle_l"]]
        ]
        boxes = pack(self.room.boxes)[6:]
        centre = np.array([self.room.width / 2, self.room.depth / 2, 0.85])
        best: tuple[float, Camera] | None = None
        for attempt in range(80):
            share = rng.uniform(0.3, 0.9) if attempt else 0.5
            where = points.reshape(-1, 3)
            focus = centre if not len(where) else centre * (1 - share) + (where.min(0) + where.max(0)) / 2 * share
            camera = Camera.random(
                self.recording.camera, self.room, focus, rng, wide=self.recording.label is None, mirrored=self.mirrored
            )
            if not len(where):
                return camera
            seen, depth = camera.project(points, width / height)
            inside = (np.abs(seen) < 0.97).all(-1) & (depth > (0.4 if self.recording.camera == CEILING else 0.9))
            inside &= in_sight(where, camera.position, boxes).reshape(inside.shape)
            score = float((inside * [0.25, 0.2, 0.225, 0.225, 0.1]).sum(-1).mean())
            if best is None or score > best[0]:
                best = (score, camera)
            if score > 0.95:
                break
        assert best is not None
        return best[1]


_SEATS = ("sofa0", "sofa1", "desk")


def _seat(a: Actor, spot: str) -> None:
    """Puts the person on a seat before the recording begins."""
    at = a.room.spots[spot]
    a.place(at.seat_x, at.seat_y, at.yaw, b.sit(a.body, at.height, lean=a.rng.uniform(-0.2, 0.0)), "sit")
    a.spot = spot


def _before(a: Actor, spot: str) -> None:
    at = a.room.spots[spot]
    a.place(at.x, at.y, at.yaw + a.rng.uniform(-0.5, 0.5))
    a.spot = spot


def _anywhere(a: Actor) -> None:
    x0, y0, x1, y1 = a.room.floor_free
    x, y = a.rng.uniform((x0, y0), (x1, y1))
    a.place(float(x), float(y), float(a.rng.uniform(-np.pi, np.pi)))


def _clip(a: Actor, label: str) -> None:
    """A trimmed clip of 2 to 20 s."""
    rng = a.rng
    seconds = float(rng.uniform(3.0, 9.0))
    if label == "Walk":
        _anywhere(a)
        act.walk(a, float(rng.uniform(2.5, 8)))
    elif label == "Sitdown":
        spot = str(rng.choice((*_SEATS, "bed")))
        _before(a, spot)
        a.hold(rng.uniform(0.1, 0.5))
        act.sit_down(a, spot)
        a.hold(rng.uniform(0.0, 0.6))
    elif label == "Getup":
        kind = rng.random()
        if kind < 0.6:
            _seat(a, str(rng.choice(_SEATS)))
        elif kind < 0.85:
            spot = str(rng.choice(("bed", "sofa_bed")))
            at = a.room.spots[spot]
            side = str(rng.choice(("back", "left", "right")))
            a.place(
                at.seat_x, at.seat_y, at.yaw, b.lie(a.body, at.height, side=side, toward=at.head_yaw - at.yaw), "lie"
            )
            a.spot = spot
        else:
            _anywhere(a)
            a.pose = b.lie(a.body, 0.0, side=str(rng.choice(("back", "left", "right"))), bend=rng.uniform(0, 0.6))
            a.posture = "floor"
        a.hold(rng.uniform(0.2, 0.6))
        act.get_up(a)
        a.hold(rng.uniform(0.4, 0.9))
    elif label == "Laydown":
        spot = str(rng.choice(("bed", "bed", "sofa_bed")))
        _before(a, spot)
        act.lay_down(a, spot, float(rng.uniform(0.8, 7)))
    elif label == "Enter":
        act.enter(a)
    elif label == "Leave":
        door = a.room.spots["door"]
        x0, y0, x1, y1 = a.room.floor_free
        a.place(
            float(np.clip(door.x - rng.uniform(0.3, 0.9), x0, x1)),
            float(np.clip(door.y + rng.uniform(-0.3, 0.8), y0, y1)), float(rng.uniform(-np.pi, np.pi)),
        )  # fmt: skip
        a.hold(rng.uniform(0.2, 0.8))
        act.leave(a)
    elif label in ("Readbook", "Usetelephone"):
        if rng.random() < (0.8 if label == "Readbook" else 0.45):
            _seat(a, str(rng.choice(_SEATS)))
        else:
            _anywhere(a)
        act.SEATED[label](a, seconds)
    elif label == "WatchTV":
        _seat(a, str(rng.choice(("sofa0", "sofa1"))))
        act.watch_television(a, seconds)
    elif label == "Uselaptop":
        _seat(a, "desk")
        act.use_laptop(a, seconds)
    elif label == "Cook.Stir":
        _before(a, "stove")
        a.turn(np.pi / 2)
        act.cook_stir(a, seconds)
    elif label == "Cook.Cut":
        _before(a, "board")
        a.turn(np.pi / 2)
        act.cook_cut(a, seconds)
    elif label == "Fall":
        _anywhere(a)
        if rng.random() < 0.6:
            act.walk(a, 0.8)
        else:
            a.hold(rng.uniform(0.3, 1.2))
        act.fall(a, float(rng.uniform(1.5, 9)))
    elif label in act.DRINKS:
        container = act.CONTAINERS[label]
        place = a.room.spots[act.PLACE[container]]
        a.place(place.x + rng.uniform(-0.2, 0.2), place.y - 0.15, np.pi / 2)
        act.fetch(a, container)
        if rng.random() < 0.6:
            x0, y0, x1, y1 = a.room.floor_free
            x, y = rng.uniform((x0, y0), (x1, y1))
            a.walk(float(x), float(y))
            a.turn(float(rng.uniform(-np.pi, np.pi)))
        act.drink(a, label, float(rng.uniform(1.5, 5)))
    else:
        raise ValueError(f"no such class: {label}; known are {', '.join(act.LABELS)}")


def _stand_up(a: Actor) -> None:
    if a.posture != "stand":
        act.get_up(a)


def _something(a: Actor, seconds: float, *, drinking_next: bool = False) -> None:
    """One activity, with the way to it. With `drinking_next`, none that ends the story of what was fetched."""
    rng = a.rng
    names = ["Readbook", "Usetelephone", "WatchTV", "Uselaptop", "Walk", "idle", "Cook.Stir", "Cook.Cut", "Laydown"]
    weights = np.array([1.1, 1.0, 1.1, 1.0, 0.4, 0.6, 0.9, 0.9, 1.6])
    if drinking_next:
        weights[-1] = 0.0
    name = str(rng.choice(names, p=weights / weights.sum()))
    if name in ("Cook.Stir", "Cook.Cut"):
        _stand_up(a)
        a.go_to("stove" if name == "Cook.Stir" else "board")
        (act.cook_stir if name == "Cook.Stir" else act.cook_cut)(a, seconds)
    elif name == "Walk":
        _stand_up(a)
        act.walk(a, float(rng.uniform(3, 9)))
    elif name == "Laydown":
        spot = str(rng.choice(("bed", "bed", "sofa_bed")))
        _stand_up(a)
        a.go_to(spot)
        act.lay_down(a, spot, float(rng.uniform(4, 14)))
    elif name == "idle":
        if a.posture == "lie":
            act.get_up(a)
        act.idle(a, min(seconds, float(rng.uniform(3, 8))))
    else:
        seats = {"WatchTV": ("sofa0", "sofa1"), "Uselaptop": ("desk",)}.get(name, _SEATS)
        standing = name == "Usetelephone" and rng.random() < 0.5
        if standing:
            _stand_up(a)
        elif not (a.posture == "sit" and a.spot in seats):
            _stand_up(a)
            spot = str(rng.choice(seats))
            a.go_to(spot)
            act.sit_down(a, spot)
        {**act.SEATED, "Uselaptop": act.use_laptop}[name](a, seconds)


def _drink_story(a: Actor) -> None:
    """Fetches a container, does other things for 5 to 60 s, and drinks: the label depends on what is no longer seen."""
    rng = a.rng
    label = str(rng.choice(act.DRINKS))
    _stand_up(a)
    act.fetch(a, act.CONTAINERS[label])
    for _ in range(int(rng.choice([1, 1, 1, 2]))):
        drink_at = a.seconds + float(rng.uniform(3, 40))
        while a.seconds < drink_at - 4:
            _something(a, float(np.clip(drink_at - a.seconds - 6, 3, rng.uniform(6, 18))), drinking_next=True)
        if a.posture == "stand" and rng.random() < 0.4:
            spot = str(rng.choice(_SEATS))
            a.go_to(spot)
            act.sit_down(a, spot)
        act.drink(a, label, float(rng.uniform(3.5, 9)))


def _day(a: Actor, seconds: float) -> None:
    """An untrimmed recording of about `seconds`."""
    rng = a.rng
    if rng.random() < 0.5:
        act.away(a, float(rng.uniform(1, 6)))
        act.enter(a)
    else:
        _anywhere(a)
    while a.seconds < seconds:
        kind = rng.random()
        if kind < 0.42:
            _drink_story(a)
        elif kind < 0.80:
            _something(a, float(rng.uniform(6, 18)))
        elif kind < 0.90:
            _stand_up(a)
            if rng.random() < 0.5:
                act.walk(a, float(rng.uniform(1, 4)))
            elif a.spot is not None:
                x0, y0, x1, y1 = a.room.floor_free
                a.go(float(rng.uniform(x0, x1)), float(rng.uniform(y0, y1)))
            act.fall(a, float(rng.uniform(5, 16)))
            act.get_up(a)
        else:
            _stand_up(a)
            act.leave(a)
            act.away(a, float(rng.uniform(2, 10)))
            act.enter(a)


def plan(
    split: str, *, clips_per_class: int, days: int, day_seconds: float, seed: int = 0, ceiling: bool = False
) -> list[Recording]:
    """The recordings of one split: `clips_per_class` trimmed ones of each class, and `days` untrimmed ones; by its cameras or from the ceiling."""
    low, high, cameras = SPLITS[split]
    if ceiling:
        cameras = (CEILING,)
    rng = _rng(seed, 9, list(SPLITS).index(split))
    made: dict[str, Recording] = {}

    def draw(label: str | None) -> None:
        while True:
            person, room = (int(v) for v in rng.integers(low, high, 2))
            one = Recording(person, room, int(rng.integers(100)), int(rng.choice(cameras)), label, day_seconds)
            if one.name not in made:
                made[one.name] = one
                return

    for label in act.LABELS:
        for _ in range(clips_per_class):
            draw(label)
    for _ in range(days):
        draw(None)
    return list(made.values())
