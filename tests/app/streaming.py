"""A plain client of the protocol, for tests: no more than docs/protocol.md says, and nothing of the product's own client."""

import contextlib
import json
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from functools import cache

import cv2
import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

HEADER = struct.Struct("!Qd")


def picture(i: int, *, seed: int = 0) -> np.ndarray:
    """Frame i of a made-up scene, uint8[120, 160, 3], RGB."""
    image = np.full((120, 160, 3), ((i // 7 * 40 + seed * 60) % 256, (i * 3) % 256, 90), np.uint8)
    cv2.circle(image, (20 + (i * 5 + seed * 31) % 120, 40 + (i * 2) % 50), 14, (0, 255 - (i * 11) % 200, 200), -1)
    return image


@cache
def encoded(i: int, *, seed: int = 0) -> bytes:
    """Frame i as a lossless PNG. Kept: the same pictures are sent by hundreds of streams."""
    return cv2.imencode(".png", picture(i, seed=seed)[..., ::-1], (cv2.IMWRITE_PNG_COMPRESSION, 1))[1].tobytes()


def message(
    i: int, *, fps: float = 12.5, seed: int = 0, data: bytes | None = None, seconds: float | None = None
) -> bytes:
    """Frame i as a message."""
    return HEADER.pack(i, i / fps if seconds is None else seconds) + (encoded(i, seed=seed) if data is None else data)


@dataclass
class Told:
    """What a client was told, over any number of connections."""

    segments: dict[int, dict] = field(default_factory=dict)
    """Final ones by index. The same one said again must be the same."""
    events: list[tuple] = field(default_factory=list)
    provisional: list[dict] = field(default_factory=list)
    others: list[dict] = field(default_factory=list)
    acked: int = 0

    def take(self, one: dict) -> None:
        match one["type"]:
            case "segment" if one["final"]:
                kept = {name: one[name] for name in ("start", "end", "labels", "missing")}
                if one["index"] in self.segments:
                    assert self.segments[one["index"]] == kept
                self.segments[one["index"]] = kept
            case "segment":
                self.provisional.append(one)
            case "event":
                event = tuple(one[name] for name in ("segment", "state", "label", "start", "end", "confidence"))
                if event not in self.events:
                    self.events.append(event)
            case "ack":
                self.acked = max(self.acked, one["frame"])
            case _:
                self.others.append(one)

    def of(self, kind: str) -> list[dict]:
        return [one for one in self.others if one["type"] == kind]


class Camera:
    """One connection. Sends as credit allows; a thread reads what comes."""

    def __init__(
        self,
        url: str,
        id: str,
        told: Told | None = None,
        *,
        fps: float = 12.5,
        seed: int = 0,
        subprotocol: str = "crt.v1",
        **parameters: object,
    ) -> None:
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        self.told, self.fps, self.seed = told or Told(), fps, seed
        self._opened = connect(
            f"{url.replace('http', 'ws', 1)}/v1/streams/{id}/frames?{query}", subprotocols=[subprotocol], max_size=None,
            open_timeout=30, ping_interval=None, close_timeout=0.2,
        )  # fmt: skip
        self.socket: ClientConnection = self._opened.__enter__()
        self.closed = False
        self.ready: dict = {}
        self._credit = 0
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        with self._more:
            assert self._more.wait_for(lambda: self.ready or self.closed, 60)

    def _read(self) -> None:
        try:
            for text in self.socket:
                one = json.loads(text)
                with self._more:
                    if one["type"] == "ready":
                        self.ready, self._credit = one, one["credit"]
                    elif one["type"] == "credit":
                        self._credit += one["frames"]
                    else:
                        self.told.take(one)
                    self._more.notify_all()
        except (ConnectionClosed, OSError):
            pass
        finally:
            with self._more:
                self.closed = True
                self._more.notify_all()

    @property
    def credit(self) -> int:
        """Frames that may be sent."""
        return self._credit

    def send(self, first: int, end: int) -> bool:
        """Frames first..end-1, as credit allows; False if the connection was lost on the way."""
        return all(self.send_raw(message(i, fps=self.fps, seed=self.seed)) for i in range(first, end))

    def send_raw(self, data: bytes) -> bool:
        with self._more:
            if not self._more.wait_for(lambda: self._credit > 0 or self.closed, 60):
                raise TimeoutError("no credit for a minute")
            self._credit -= 1
        try:
            self.socket.send(data)
        except (ConnectionClosed, OSError):
            return False
        return not self.closed

    def wait(self, test, seconds: float = 60) -> None:
        """Until test(told) holds."""
        with self._more:
            if not self._more.wait_for(lambda: test(self.told) or self.closed, seconds) or not test(self.told):
                raise AssertionError(f"did not come: {self.told.others[-3:]} {self.closed}")

    def end(self) -> Told:
        """Ends the stream and waits for the last word."""
        self.socket.send('{"type": "end"}')
        self._reader.join(60)
        assert not self._reader.is_alive()
        return self.told

    def join(self, seconds: float = 30) -> int:
        """Waits until the connection is closed; the close code."""
        self._reader.join(seconds)
        assert not self._reader.is_alive()
        return self.code

    @property
    def code(self) -> int:
        received = self.socket.protocol.close_rcvd
        return 1006 if received is None else received.code

    def cut(self) -> None:
        """Ends the connection without a word."""
        with contextlib.suppress(OSError):
            self.socket.socket.shutdown(socket.SHUT_RDWR)
        self.socket.socket.close()
        self._reader.join(2)


def whole(url: str, id: str, frames: int, *, fps: float = 12.5, seed: int = 0, **parameters: object) -> Told:
    """A stream that is never cut off."""
    camera = Camera(url, id, fps=fps, seed=seed, **parameters)
    assert camera.ready["resume_from"] == 0
    assert camera.send(0, frames)
    return camera.end()


def going_on(
    url: str, id: str, told: Told, frames: int, *, seed: int = 0, patience: float = 60, **parameters: object
) -> Told:
    """Comes back until the stream is at its end, whatever happens to service and connections."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            camera = Camera(url, id, told, seed=seed, **parameters)
        except (OSError, InvalidHandshake):
            time.sleep(0.2)  # tens of these come back at once, and a service that starts needs the processor too
            continue
        if camera.ready and camera.send(camera.ready["resume_from"], frames):
            try:
                camera.end()
            except (ConnectionClosed, OSError):
                continue
            if any(one["reason"] == "end" for one in told.of("goodbye")):
                return told
        time.sleep(0.05)
    raise TimeoutError(f"the stream did not come to its end: {told.others[-4:]}")
