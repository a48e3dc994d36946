"""What people do at home: each activity appends its movements and labels to an actor's timeline.

Labels are Toyota Smarthome's class names, and `Fall`, which covers the lying on the floor after it.
"""

from collections.abc import Callable

import numpy as np

from pipelines.homesim import body as b
from pipelines.homesim.actor import BOOK, BOTTLE, CAN, CUP, GLASS, KNIFE, NOTHING, PHONE, REMOTE, SPOON, Actor

DRINKS = ("Drink.Frombottle", "Drink.Fromcan", "Drink.Fromcup", "Drink.Fromglass")
LABELS = (
    "Cook.Cut", "Cook.Stir", *DRINKS, "Enter", "Fall", "Getup", "Laydown", "Leave", "Readbook", "Sitdown",
    "Uselaptop", "Usetelephone", "Walk", "WatchTV",
)  # fmt: skip
CONTAINERS = {"Drink.Frombottle": BOTTLE, "Drink.Fromcan": CAN, "Drink.Fromcup": CUP, "Drink.Fromglass": GLASS}
TAKE = {BOTTLE: "Take.Bottle", CAN: "Take.Can", CUP: "Take.Cup", GLASS: "Take.Glass"}
"""Visible labels of fetching a container."""
PLACE = {BOTTLE: "fridge", CAN: "low", CUP: "machine", GLASS: "high"}
"""Where each container is fetched from: the room's spots."""
DRINK = "Drink"
"""Visible label of drinking: the hand hides from what."""


def enter(a: Actor) -> None:
    """Comes in by the door. The actor must be away."""
    hinge_x, door_y, door_w = a.room.door
    a.present = False
    a.place(hinge_x + 0.4, door_y + door_w / 2, np.pi)
    with a.label("Enter"):
        a.move(0.5, door=0.6)
        a.present = True
        # In the doorway first: what is behind the wall cannot be seen.
        a.place(hinge_x - 0.12, door_y + door_w / 2, np.pi)
        a.move(0.4, door=1.0)
        spot = a.room.spots["door"]
        a.walk(spot.x - a.rng.uniform(0.0, 0.2), spot.y)
        if a.rng.random() < 0.6:
            a.move(0.6, door=0.0)
        x0, y0, x1, y1 = a.room.floor_free
        a.walk(
            float(np.clip(spot.x - a.rng.uniform(0.4, 0.9), x0, x1)),
            float(np.clip(spot.y + a.rng.uniform(0, 0.7), y0, y1)),
        )
    a.move(0.4, door=0.0)
    a.spot = None


def leave(a: Actor) -> None:
    """Goes to the door and out."""
    hinge_x, door_y, door_w = a.room.door
    spot = a.room.spots["door"]
    # The way to the door is a walk; it is the last metre that tells where it leads.
    here = a.root[:2] - (spot.x, spot.y)
    if (far := float(np.hypot(*here))) > 1.2:
        near = here / far
        a.go(spot.x + 0.9 * float(near[0]), spot.y + 0.9 * float(near[1]))
    with a.label("Leave"):
        a.go(spot.x, spot.y, 0.0)
        a.move(0.6, a.with_hands((0.7, 0.0, -0.25)), door=1.0)
        a.walk(hinge_x - 0.1, door_y + door_w / 2)
        a.present = False
        a.move(0.7, door=0.0)
    a.spot = None


def walk(a: Actor, seconds: float | None = None) -> None:
    """Walks about on the free floor."""
    end = a.seconds + (a.rng.uniform(2.5, 8) if seconds is None else seconds)
    x0, y0, x1, y1 = a.room.floor_free
    with a.label("Walk"):
        while a.seconds < end:
            target = a.rng.uniform((x0, y0), (x1, y1))
            if np.hypot(*(target - a.root[:2])) > 0.8:
                a.walk(float(target[0]), float(target[1]))
    a.spot = None


def _seat_pose(a: Actor, spot: str) -> np.ndarray:
    at = a.room.spots[spot]
    return b.sit(
        a.body, at.height, lean=a.rng.uniform(-0.25, -0.1) if spot.startswith("sofa") else a.rng.uniform(-0.1, 0.05)
    )


def sit_down(a: Actor, spot: str) -> None:
    """Sits down at `spot` (sofa0, sofa1, desk, bed), standing before it."""
    at = a.room.spots[spot]
    seated = _seat_pose(a, spot)
    with a.label("Sitdown"):
        a.turn(at.yaw)
        if spot == "desk":
            a.move(0.7, root=(at.seat_x + np.sign(at.x - at.seat_x) * 0.05, at.seat_y + 0.12, at.yaw))
        bent = b.sit(a.body, at.height + 0.22, lean=0.65)
        bent[b.HAND_L], bent[b.HAND_R] = (0.5, 0.05, -0.6), (0.5, -0.05, -0.6)
        seat_x, seat_y = (at.seat_x, at.seat_y) if spot != "bed" else (at.seat_x, at.y - 0.45)
        half = ((a.root[0] + seat_x) / 2, (a.root[1] + seat_y) / 2, at.yaw)
        a.move(0.8, bent, root=half)
        a.move(0.8, seated, root=(seat_x, seat_y, at.yaw))
        a.hold(a.rng.uniform(0.2, 0.8))
    a.posture, a.spot = "sit", spot


def get_up(a: Actor) -> None:
    """Gets up from a seat, a bed or the floor."""
    with a.label("Getup"):
        if a.posture == "lie":
            assert a.spot is not None
            at = a.room.spots[a.spot]
            edge = (at.seat_x, at.y - 0.45, at.yaw) if a.spot == "bed" else (at.seat_x + 0.1, at.seat_y, at.yaw)
            half = b.sit(a.body, at.height, lean=-0.5)
            a.move(1.1, half, root=((a.root[0] + edge[0]) / 2, (a.root[1] + edge[1]) / 2, at.yaw))
            a.move(0.8, b.sit(a.body, at.height, lean=0.1), root=edge)
            a.hold(a.rng.uniform(0.2, 0.8))
            a.posture = "sit"
        if a.posture == "floor":
            crouched = b.stand(a.body)
            crouched[b.PELVIS] = (-0.1, 0, 0.38)
            crouched[b.SPINE] = (0.6, 0, 0.8)
            crouched[b.HAND_L], crouched[b.HAND_R] = (0.6, 0.1, -0.75), (0.6, -0.1, -0.75)
            sitting = b.sit(a.body, 0.02, lean=-0.1)
            sitting[b.HAND_L] = (-0.3, 0.3, -0.8)
            a.move(1.3, sitting)
            a.move(1.1, crouched)
            a.hold(a.rng.uniform(0.1, 0.8))
            a.move(1.0, b.stand(a.body))
        else:
            assert a.spot is not None
            at = a.room.spots[a.spot]
            seat = at.height
            bent = b.sit(a.body, seat + 0.2, lean=0.7)
            x, y = (at.x, at.y) if a.spot != "desk" else (at.seat_x, at.seat_y + 0.22)
            a.move(0.7, bent, root=(a.root[0] * 0.6 + x * 0.4, a.root[1] * 0.6 + y * 0.4, at.yaw))
            a.move(0.7, b.stand(a.body), root=(x, y, at.yaw))
            if a.spot == "desk":
                a.move(0.6, root=(at.x, at.y + 0.2, at.yaw))
    a.posture = "stand"


def lay_down(a: Actor, spot: str, rest: float | None = None) -> None:
    """Lies down on the bed or the sofa and rests there."""
    at = a.room.spots[spot]
    with a.label("Laydown"):
        if a.posture == "stand":
            a.turn(at.yaw)
            edge = (at.seat_x, at.y - 0.45, at.yaw) if spot == "bed" else (at.seat_x + 0.1, at.seat_y, at.yaw)
            a.move(
                0.7,
                b.sit(a.body, at.height + 0.2, lean=0.5),
                root=((a.root[0] + edge[0]) / 2, (a.root[1] + edge[1]) / 2, at.yaw),
            )
            a.move(0.6, b.sit(a.body, at.height, lean=-0.1), root=edge)
            if a.rng.random() < 0.5:
                a.hold(a.rng.uniform(0.2, 0.8))
        side = str(a.rng.choice(["back", "back", "left", "right"]))
        lying = b.lie(a.body, at.height, side=side, bend=a.rng.uniform(0, 0.7), toward=at.head_yaw - at.yaw)
        half = b.sit(a.body, at.height, lean=-0.6)
        a.move(0.7, half, root=((a.root[0] + at.seat_x) / 2, (a.root[1] + at.seat_y) / 2, at.yaw))
        a.move(1.0, lying, root=(at.seat_x, at.seat_y, at.yaw))
        a.hold(a.rng.uniform(1.5, 7) if rest is None else rest)
    a.posture, a.spot = "lie", spot


def read_book(a: Actor, seconds: float) -> None:
    """Reads, seated or standing."""
    before = a.pose
    with a.label("Readbook"):
        a.held = BOOK
        down = (a.rng.uniform(0.35, 0.6), 0.0, 1.0)
        a.move(0.6, a.with_hands((0.55, 0.22, -0.22), (0.55, 0.22, -0.22), head=down))
        end = a.seconds + seconds
        hand, side = a.working
        while a.seconds < end:
            a.hold(a.rng.uniform(1.5, 4.5))
            reading = a.pose
            turned = reading.copy()
            turned[hand] = reading[hand] + (0.02, -side * 0.25, 0.06)
            a.move(0.4, turned)
            a.move(0.4, reading)
    a.held = NOTHING
    a.move(0.5, before)


def use_telephone(a: Actor, seconds: float) -> None:
    """Speaks on the telephone, seated or standing, with some gestures."""
    before = a.pose
    with a.label("Usetelephone"):
        a.held = PHONE
        tilt = (0.08, a.rng.uniform(-0.12, 0.12), 1.0)
        a.move(0.7, a.with_hands((0.16, 0.05, 0.30), head=tilt))
        end = a.seconds + seconds
        while a.seconds < end:
            calling = a.pose
            if a.rng.random() < 0.4:
                a.move(0.5, a.with_hands(other=(0.5, a.rng.uniform(-0.2, 0.2), a.rng.uniform(-0.5, -0.1))))
                a.hold(a.rng.uniform(0.3, 1.2))
                a.move(0.5, calling)
            elif a.posture == "stand" and a.rng.random() < 0.5:
                x0, y0, x1, y1 = a.room.floor_free
                if x0 <= a.root[0] <= x1 and y0 <= a.root[1] <= y1:
                    step = np.clip(a.root[:2] + a.rng.uniform(-0.8, 0.8, 2), (x0, y0), (x1, y1))
                    a.walk(float(step[0]), float(step[1]))
            a.hold(a.rng.uniform(0.8, 2.5))
    a.held = NOTHING
    a.move(0.6, before)


def use_laptop(a: Actor, seconds: float) -> None:
    """Types on the laptop, seated at the desk."""
    before = a.pose
    with a.label("Uselaptop"):
        a.move(
            0.6,
            a.with_hands(
                (0.72, 0.16, -0.42), (0.72, 0.16, -0.42), head=(0.3, 0, 1), spine=(a.rng.uniform(0.1, 0.25), 0, 1)
            ),
        )
        end = a.seconds + seconds
        while a.seconds < end:
            typing = a.both(
                a.wave(b.HAND_L, 2, 0.03, a.rng.uniform(2, 4)), a.wave(b.HAND_R, 2, 0.03, a.rng.uniform(2, 4), 1.0),
                a.wave(b.HAND_R, 1, 0.03, a.rng.uniform(0.5, 1.5)),
            )  # fmt: skip
            a.hold(a.rng.uniform(1.0, 3.0), typing)
            if a.rng.random() < 0.3:
                a.hold(a.rng.uniform(0.5, 1.5))
    a.move(0.5, before)


def watch_television(a: Actor, seconds: float) -> None:
    """Sits on the sofa before the running television."""
    with a.label("WatchTV"):
        if not a.television:
            a.held = REMOTE
            before = a.pose
            a.move(0.5, a.with_hands((0.75, 0.1, -0.2)))
            a.hold(0.4)
            a.television = True
            a.move(0.5, before)
            a.held = NOTHING
        end = a.seconds + seconds
        relaxed = a.with_hands(
            (0.45, a.rng.uniform(-0.1, 0.3), -0.6), (0.45, a.rng.uniform(-0.1, 0.3), -0.6), head=(0.1, 0, 1)
        )
        a.move(0.7, relaxed)
        while a.seconds < end:
            a.hold(a.rng.uniform(1.5, 5))
            if a.rng.random() < 0.25:
                shifted = a.pose.copy()
                shifted[b.FOOT_L] += a.rng.uniform(-0.06, 0.06, 3) * (1, 1, 0)
                a.move(0.6, shifted)


def cook_stir(a: Actor, seconds: float) -> None:
    """Stirs the pot on the stove with one hand; the other hangs down or rests on the hip."""
    hand, _ = a.working
    idle_hand = (0.12, -0.12, -0.95) if a.rng.random() < 0.5 else (0.05, -0.35, -0.55)
    with a.label("Cook.Stir"):
        a.held = SPOON
        a.move(0.6, a.with_hands((0.80, 0.12, -0.22), idle_hand, spine=(0.14, 0, 1), head=(0.4, 0, 1)))
        end = a.seconds + seconds
        while a.seconds < end:
            f, size = a.rng.uniform(0.8, 1.5), a.rng.uniform(0.12, 0.2)
            a.hold(
                a.rng.uniform(2, 4),
                a.both(a.wave(hand, 0, size, f), a.wave(hand, 1, size, f, np.pi / 2), a.wave(b.SPINE, 1, 0.02, f)),
            )
            if a.rng.random() < 0.3:
                a.hold(a.rng.uniform(0.3, 0.8))
    a.held = NOTHING
    a.move(0.5, b.stand(a.body))


def cook_cut(a: Actor, seconds: float) -> None:
    """Cuts food on the board."""
    hand, _ = a.working
    with a.label("Cook.Cut"):
        a.held = KNIFE
        a.move(0.6, a.with_hands((0.72, 0.2, -0.42), (0.72, 0.25, -0.48), spine=(0.22, 0, 1), head=(0.6, 0, 1)))
        end = a.seconds + seconds
        while a.seconds < end:
            f = a.rng.uniform(2.0, 3.2)
            chop = a.both(
                a.wave(hand, 2, a.rng.uniform(0.07, 0.13), f), a.wave(hand, 1, 0.06, 0.25), a.wave(b.SPINE, 0, 0.008, f)
            )
            a.hold(a.rng.uniform(2, 4), chop)
            if a.rng.random() < 0.3:
                a.hold(a.rng.uniform(0.3, 0.7))
    a.held = NOTHING
    a.move(0.5, b.stand(a.body))


def fetch(a: Actor, container: int) -> None:
    """Takes a container out of its place in the kitchen and looks at it; afterwards the closed hand hides it.

    Bottles are in the refrigerator, cans in the cupboard below, glasses in the one above, cups at the coffee machine.
    """
    a.go_to(PLACE[container])
    standing = b.stand(a.body)
    with a.seen_as(TAKE[container]):
        if container == BOTTLE:
            a.move(0.6, a.with_hands((0.75, 0.0, -0.1)))
            a.move(0.7, a.with_hands((0.55, -0.5, -0.1)), fridge=1.0)
            a.move(0.6, a.with_hands((0.9, 0.1, -0.3), spine=(0.3, 0, 1)))
            a.hold(a.rng.uniform(0.2, 0.8))
            a.held = container
            a.move(0.6, a.with_hands((0.5, 0.1, -0.15), base=standing))
            a.move(0.6, fridge=0.0)
        elif container == CAN:
            crouched = standing.copy()
            crouched[b.PELVIS] = (-0.15, 0, 0.42)
            crouched[b.SPINE] = (0.55, 0, 0.85)
            a.move(0.9, a.with_hands((0.9, 0.1, -0.3), (0.4, 0, -0.7), base=crouched))
            a.hold(a.rng.uniform(0.4, 1.2))
            a.held = container
            a.move(0.9, a.with_hands((0.5, 0.1, -0.15), base=standing))
        elif container == CUP:
            a.move(0.6, a.with_hands((0.85, 0.1, -0.05), (0.7, 0.1, -0.35), base=standing))
            hand, _ = a.working
            a.hold(a.rng.uniform(1.2, 2.4), a.wave(hand, 2, 0.05, 0.9))
            a.held = container
            a.move(0.6, a.with_hands((0.5, 0.1, -0.15), base=standing))
        else:
            a.move(0.7, a.with_hands((0.62, 0.05, 0.72), head=(-0.15, 0, 1), base=standing))
            a.hold(a.rng.uniform(0.5, 1.2))
            a.held = container
            a.move(0.7, a.with_hands((0.5, 0.1, -0.15), base=standing))
        # Turning to the room, the person looks at what it is.
        a.move(
            0.8,
            a.with_hands((0.62, 0.1, 0.05), base=standing),
            root=(a.root[0], a.root[1] - 0.12, -np.pi / 2 + a.rng.uniform(-0.6, 0.6)),
        )
        a.hold(a.rng.uniform(0.8, 1.6))
    a.held = NOTHING
    a.move(0.4, standing)


def drink(a: Actor, label: str, seconds: float) -> None:
    """Drinks, seated or standing; the hand hides from what."""
    before = a.pose
    with a.label(label, visible=DRINK):
        end = a.seconds + seconds
        while True:
            a.move(0.7, a.with_hands((0.36, 0.33, 0.16), head=(0.05, 0, 1), base=before))
            a.move(0.3, a.with_hands((0.38, 0.33, 0.26), head=(-0.22, 0, 1), base=before))
            a.hold(a.rng.uniform(0.7, 1.8))
            a.move(0.6, a.with_hands((0.42, 0.25, -0.30), head=(0.1, 0, 1), base=before))
            if a.seconds >= end:
                break
            a.hold(a.rng.uniform(0.3, 1.0))
    a.move(0.5, before)


def fall(a: Actor, lying: float) -> None:
    """Loses balance, falls to the floor in a random direction and stays there."""
    rng = a.rng
    way = str(rng.choice(["front", "back", "left", "right", "collapse"]))
    quick = rng.uniform(0.7, 1.3)
    start = b.stand(a.body)
    with a.label("Fall"):
        stagger = start.copy()
        stagger[b.SPINE] = (rng.uniform(-0.15, 0.25), rng.uniform(-0.2, 0.2), 1)
        stagger[b.HAND_L], stagger[b.HAND_R] = (0.3, 0.5, -0.3), (0.3, -0.5, -0.3)
        a.move(0.35 * quick, stagger, keep=False)
        middle = start.copy()
        x, y = {"front": (1, 0), "back": (-1, 0), "left": (0, 1), "right": (0, -1), "collapse": (0, 0)}[way]
        middle[b.PELVIS] = (0.28 * x, 0.28 * y, 0.50)
        middle[b.SPINE] = (0.75 * x + (0.35 if way == "collapse" else 0), 0.75 * y, 0.75)
        middle[b.HAND_L] = (0.8, 0.3, 0.1) if way == "front" else (0.1, 0.7, -0.2)
        middle[b.HAND_R] = (0.8, -0.3, 0.1) if way == "front" else (0.1, -0.7, -0.2)
        a.move(0.38 * quick, middle, keep=False, progress=lambda n: (np.arange(1, n + 1) / n) ** 1.5)
        if way == "collapse":
            way = str(rng.choice(["left", "right", "front"]))
        side = {"front": "belly", "back": "back", "left": "left", "right": "right"}[way]
        toward = {"front": 0.0, "back": np.pi, "left": np.pi / 2, "right": -np.pi / 2}[way] + rng.uniform(-0.4, 0.4)
        down = b.lie(a.body, 0.0, side=side, bend=rng.uniform(0, 0.6), toward=toward)
        shift = 0.40 * a.body.height * np.array([np.cos(toward), np.sin(toward)])
        down[[b.PELVIS.start, b.FOOT_L.start, b.FOOT_R.start]] += shift[0]
        down[[b.PELVIS.start + 1, b.FOOT_L.start + 1, b.FOOT_R.start + 1]] += shift[1]
        down[b.HAND_L] += rng.uniform(-0.2, 0.2, 3)
        down[b.HAND_R] += rng.uniform(-0.2, 0.2, 3)
        a.move(0.42 * quick, down, keep=False, progress=lambda n: (np.arange(1, n + 1) / n) ** 1.3)
        end = a.seconds + lying
        while a.seconds < end:
            a.hold(min(rng.uniform(0.8, 3), max(end - a.seconds, 0.2)))
            if rng.random() < 0.3 and end - a.seconds > 1.2:
                moved = down.copy()
                moved[b.HAND_R] += rng.uniform(-0.3, 0.3, 3)
                moved[b.HEAD] += rng.uniform(-0.2, 0.2, 3)
                a.move(0.8, moved)
    a.posture = "floor"


def idle(a: Actor, seconds: float) -> None:
    """Nothing that has a name: standing or sitting about, scratching, stretching, looking round."""
    end = a.seconds + seconds
    before = a.pose
    while a.seconds < end:
        kind = int(a.rng.integers(5))
        if kind == 0:
            a.move(0.6, a.with_hands((0.3, 0.2, -0.1 + a.rng.uniform(-0.3, 0.1)), base=before))
            a.hold(a.rng.uniform(0.3, 1.0))
            a.move(0.6, before)
        elif kind == 1:
            a.move(0.7, a.with_hands(head=(0.1, a.rng.uniform(-0.6, 0.6), 1), base=before))
            a.hold(a.rng.uniform(0.3, 1.0))
        elif kind == 2 and a.posture == "stand":
            a.move(0.8, a.with_hands((0.2, -0.2, 0.9), (0.2, -0.2, 0.9), base=before))
            a.hold(a.rng.uniform(0.3, 0.8))
            a.move(0.8, before)
        elif kind == 3 and a.posture == "stand":
            a.turn(float(a.root[2] + a.rng.uniform(-1.2, 1.2)))
        else:
            a.hold(a.rng.uniform(0.8, 2.5))
    a.move(0.4, before)


def away(a: Actor, seconds: float) -> None:
    """Nobody is in the room."""
    a.present = False
    a.hold(seconds)


SEATED: dict[str, Callable[[Actor, float], None]] = {
    "Readbook": read_book, "Usetelephone": use_telephone, "WatchTV": watch_television,
}  # fmt: skip
