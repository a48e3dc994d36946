"""A service as small as can be, that breaks off wherever it is told to: what the client is tested against."""

import contextlib
import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

LENGTH = 5
"""Frames in a segment of the small service, a second."""


@dataclass
class Stored:
    """A stream of the small service: all that is durable."""

    frames: list[tuple[int, float, bytes]] = field(default_factory=list)
    steps: list[tuple[dict, list[dict]]] = field(default_factory=list)
    """Segments with their events."""
    open: bool = False
    """Whether an event goes on."""


@dataclass
class Plan:
    """What becomes of a connection."""

    dies_after: int | None = None
    """Messages that are told before it is cut."""
    deaf_after: int | None = None
    """Frames after which it is cut."""
    mute: bool = False
    """Works, but tells nothing after `ready`, and is cut in the end."""
    leaves_after: int | None = None
    """Frames after which the service says that it moves."""
    slow: float = 0.0
    """Seconds that it works on each frame."""
    at_the_end: Callable[[], None] = lambda: None
    """Done before it is cut."""
    refuses: tuple[int, str] | None = None
    """Close code and error."""


class Fake:
    """The protocol as docs/protocol.md has it, with labels that depend on every byte of every frame."""

    def __init__(self, plans=(), *, store=None, credit=8, frame_bytes=1 << 20) -> None:
        self.plans, self.credit, self.frame_bytes = list(plans), credit, frame_bytes
        self.store: dict[str, Stored] = {} if store is None else store
        self.queries: list[dict[str, str]] = []
        self.received: list[list[int]] = []
        """Numbers of the frames of each connection."""
        self.texts: list[dict] = []
        self.told = 0
        """Messages, on all connections."""
        self.broken: list[str] = []
        """What the client did against the protocol."""

    def __enter__(self) -> "Fake":
        self._server: Server = serve(
            self._talk, "127.0.0.1", 0, subprotocols=["crt.v1"], compression=None, close_timeout=0.2
        )
        self.url = f"http://127.0.0.1:{self._server.socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._thread.join()
        assert not self.broken

    def _talk(self, connection: ServerConnection) -> None:
        address = urlsplit(connection.request.path)
        self.queries.append({name: values[0] for name, values in parse_qs(address.query).items()})
        plan = self.plans.pop(0) if self.plans else Plan()
        stream = self.store.setdefault(address.path.split("/")[3], Stored())
        with contextlib.suppress(ConnectionClosed, OSError):
            Talk(self, connection, plan, stream).run()


class Talk:
    """One connection."""

    def __init__(self, fake: Fake, connection: ServerConnection, plan: Plan, stream: Stored) -> None:
        self._fake, self._connection, self._plan, self._stream = fake, connection, plan, stream
        self._numbers: list[int] = []
        fake.received.append(self._numbers)
        self._filling: list[tuple[int, float, bytes]] = []
        self._told = self._owed = self._on_the_way = 0

    def run(self) -> None:
        stream, plan = self._stream, self._plan
        if plan.refuses is not None:
            close, code = plan.refuses
            if code:
                self._tell(type="error", code=code, detail=f"this is {code}", fatal=True)
                self._tell(type="goodbye", reason="error", reconnect=False)
            self._connection.close(close, code or "why not")
            return
        self._tell(
            type="ready", stream="s", model={"name": "fake", "digest": "0"}, resume_from=len(stream.frames), segment=len(stream.steps),
            rate=5.0, frame_size={"width": 32, "height": 24}, segment_frames=LENGTH, credit=self._fake.credit,
            frame_bytes=self._fake.frame_bytes, expires=None, options={"top_k": 5, "policy": "complete", "provisional": True},
        )  # fmt: skip
        for segment, events in stream.steps[-4:]:
            self._tell(**segment | {"latency": None})
            for event in events:
                self._tell(**event)
        while True:
            try:
                data = self._connection.recv(timeout=0.3 if plan.mute else None)
            except TimeoutError:
                self._cut()
            if isinstance(data, bytes):
                self._frame(data)
            else:
                self._fake.texts.append(json.loads(data))
                if self._fake.texts[-1]["type"] == "end":
                    self._end()
                    return

    def _cut(self) -> None:
        self._plan.at_the_end()
        self._connection.socket.shutdown(socket.SHUT_RDWR)
        raise OSError

    def _tell(self, **message) -> None:
        if self._plan.mute and message["type"] != "ready":
            return
        if self._told == self._plan.dies_after:
            self._cut()
        self._told += 1
        self._fake.told += 1
        self._connection.send(json.dumps(message))

    def _frame(self, data: bytes) -> None:
        stream, plan = self._stream, self._plan
        self._on_the_way += 1
        if self._on_the_way > self._fake.credit:
            self._fake.broken.append("sent more than there was credit for")
        number, seconds = struct.unpack_from("!Qd", data)
        self._numbers.append(number)
        time.sleep(plan.slow)
        if plan.deaf_after == len(self._numbers):
            self._cut()
        if plan.leaves_after == len(self._numbers):
            self._tell(type="goodbye", reason="shutdown", reconnect=True)
            self._connection.close(1012, "service_moves")
            raise OSError
        due = len(stream.frames) + len(self._filling)
        if number > due:
            self._tell(type="dropped", frames=number - due, reason="gap", detail=f"frames {due} to {number - 1}")
            self._filling += [(n, seconds, b"") for n in range(due, number)]
        if number >= due:
            self._filling.append((number, seconds, data[16:]))
            self._tell(**self._segment(self._filling, final=False), latency=0.01)
            while len(self._filling) >= LENGTH:
                self._finish(self._filling[:LENGTH])
        self._owed += 1
        if self._owed == max(1, self._fake.credit // 4):
            self._on_the_way -= self._owed
            self._tell(type="credit", frames=self._owed)
            self._owed = 0

    def _segment(self, frames, *, final: bool) -> dict:
        shown = hashlib.sha256(repr(frames).encode()).hexdigest()[:12]
        return {
            "type": "segment", "index": len(self._stream.steps), "start": frames[0][1], "end": frames[-1][1],
            "labels": [{"label": shown, "score": 0.5}], "final": final, "missing": sum(not data for *_, data in frames),
        }  # fmt: skip

    def _event(self, state: str, label: str = "walk") -> dict:
        index = len(self._stream.steps)
        return {
            "type": "event", "state": state, "label": label, "start": float(index // 4), "end": float(index), "confidence": 0.5, "segment": index
        }  # fmt: skip

    def _finish(self, frames) -> None:
        """Durable first, then told."""
        stream = self._stream
        index, segment = len(stream.steps), self._segment(frames, final=True)
        walk = ["started", "updated", "ended", None][index % 4]
        events = [self._event(walk)] if walk else [self._event(state, "fall") for state in ("started", "ended")]
        stream.open = index % 4 < 2
        stream.frames += frames
        stream.steps.append((segment, events))
        del self._filling[: len(frames)]
        self._tell(**segment, latency=0.02)
        for event in events:
            self._tell(**event)
        self._ack()

    def _ack(self) -> None:
        self._tell(type="ack", frame=len(self._stream.frames), segment=len(self._stream.steps), expires=None)

    def _end(self) -> None:
        stream = self._stream
        if self._filling:
            self._finish(self._filling)
        if stream.open:
            segment, events = stream.steps[-1]
            closing = {**self._event("ended"), "segment": segment["index"]}
            stream.steps[-1] = segment, [*events, closing]
            stream.open = False
            self._tell(**closing)
        self._ack()
        self._tell(type="goodbye", reason="end", reconnect=False)
        self._connection.close()
