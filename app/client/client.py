"""Sends a stream's frames and hands out what is said of them, over as many connections as it takes. See docs/protocol.md.

Frames are kept until the service has acknowledged them, and sent again after a break from where it says. Final segments and
events come once each, in order; one that is missing is an error, not a silence.
"""

import asyncio
import contextlib
import json
import random
import struct
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.typing import Subprotocol

from app.client.sources import Encoded, Source
from models.errors import CrtError

_HEADER = struct.Struct("!Qd")
MOST_FRAMES = 4096
"""Frames that are kept until they are acknowledged."""
MOST_BYTES = 128 << 20
"""The same, in bytes."""
_AGAIN = {1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014, 4408}
"""Close codes after which to come back; 1000 as well, for one who has not ended the stream."""
_PAUSES = (0.05, 10.0)
"""Shortest and longest wait before another attempt, in seconds."""


class Refused(CrtError):  # noqa: N818 - named after what is wrong
    """The service will not have this stream from this client; `service_code` is its error's."""

    code = "stream_refused"

    def __init__(self, service_code: str, detail: str) -> None:
        super().__init__(f"{service_code}: {detail}")
        self.service_code = service_code


class Lost(CrtError):  # noqa: N818
    """Segments were made that this client was never told of, as another client had the stream meanwhile."""

    code = "segments_lost"


class StreamClient:
    """One stream. `async for message in client.messages(source)` gives the protocol's messages as dicts."""

    def __init__(
        self, servers: str | Sequence[str], stream: str, *, client: str | None = None, takeover: bool = False, end: bool = True,
        realtime: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        """servers: http:// addresses of services that share a store; the next one is tried when one fails.

        client: this client's token. end: whether the stream ends when the source does. realtime: send no frame before its time.
        options: those of a stream that is made by this, see docs/protocol.md.
        """
        self._servers = [servers] if isinstance(servers, str) else list(servers)
        self._stream, self._end, self._realtime = stream, end, realtime
        self._takeover = takeover
        self._parameters = {"client": client or f"{random.getrandbits(64):016x}"} | {
            name: str(value).lower() if isinstance(value, bool) else value for name, value in options.items() if value is not None
        }  # fmt: skip
        self._kept: deque[tuple[int, bytes]] = deque()
        self._bytes = self._sent = self._credit = 0
        self._exhausted = self._over = False
        self._changed = asyncio.Condition()
        self._next: int | None = None
        self._told: dict[int, set[str]] = {}
        self._error: BaseException | None = None
        self.connections = 0
        """Made so far."""
        self.lost = 0
        """Frames of a live source that were dropped here, before they were sent."""
        self.read = 0
        """Frames taken from the source."""
        self.acked = 0
        """Frames before this number are durable."""

    async def messages(self, source: Source) -> AsyncIterator[dict[str, Any]]:
        """What the service says, as it comes; ends with the stream. Raises Refused, Lost, BadSource.

        Leaving the loop early closes the connection; the stream can go on later.
        """
        reading: asyncio.Task[None] | None = None
        attempt = 0
        try:
            while True:
                server = self._servers[self.connections % len(self._servers)]
                try:
                    async with self._connect(server) as socket:
                        self.connections += 1
                        ready = json.loads(await socket.recv())
                        if ready["type"] == "ready":
                            attempt = 0
                            await self._resume(ready)
                            if reading is None:
                                reading = asyncio.create_task(self._read(source, ready["resume_from"]))
                            yield ready
                            async for message in self._talk(socket, source):
                                yield message
                            if self._over:
                                return
                        elif ready["type"] == "error":
                            self._refuse(ready)
                except (OSError, InvalidHandshake, ConnectionClosed, TimeoutError) as error:
                    self._last = str(error)
                    if attempt == 0:
                        yield {"type": "disconnected", "server": server, "detail": str(error) or type(error).__name__}
                    self.connections += isinstance(error, OSError | InvalidHandshake)
                except InvalidURI as error:
                    raise Refused("address_bad", f"{server} is no address of a service: {error}") from error
                attempt += 1
                if attempt >= len(self._servers):
                    pause = min(_PAUSES[1], _PAUSES[0] * 2 ** min(attempt, 20))
                    await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.wait([reading])

    def _connect(self, server: str) -> connect:
        parameters = self._parameters | ({"takeover": "true"} if self._takeover else {})
        address = f"{server.rstrip('/').replace('http', 'ws', 1)}/v1/streams/{quote(self._stream, safe='')}/frames?{urlencode(parameters)}"
        return connect(
            address,
            subprotocols=[Subprotocol("crt.v1")],
            max_size=None,
            compression=None,
            open_timeout=10,
            close_timeout=2,
        )

    async def _resume(self, ready: dict[str, Any]) -> None:
        self._takeover = False  # once is meant, not at every return
        if self._next is not None and ready["segment"] < self._next:
            raise Lost(
                f"the stream stands at segment {ready['segment']}, but {self._next} were told already: it was deleted or rewound"
            )
        async with self._changed:
            self._drop(ready["resume_from"])
            self._sent, self._credit = 0, ready["credit"]
            self._changed.notify_all()

    def _drop(self, before: int) -> None:
        """Frames before this number are durable."""
        self.acked = max(self.acked, before)
        while self._kept and self._kept[0][0] < before:
            self._bytes -= len(self._kept.popleft()[1])
            self._sent = max(0, self._sent - 1)

    async def _talk(self, socket: ClientConnection, source: Source) -> AsyncIterator[dict[str, Any]]:
        """Sends and receives until the connection ends. Raises ConnectionClosed if it is worth another one."""
        sending = asyncio.create_task(self._send(socket))
        try:
            async for text in socket:
                message = json.loads(text)
                match message["type"]:
                    case "credit":
                        async with self._changed:
                            self._credit += message["frames"]
                            self._changed.notify_all()
                        continue
                    case "ack":
                        async with self._changed:
                            self._drop(message["frame"])
                            self._changed.notify_all()
                    case "segment" | "event" if not self._is_new(message):
                        continue
                    case "error" if message["fatal"]:
                        yield message
                        self._refuse(message)
                        continue
                    case "goodbye":
                        self._over = message["reason"] == "end"
                yield message
            if self._error is not None:
                raise self._error
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else 1006
            if code not in _AGAIN:
                raise Refused(f"closed_{code}", closed.rcvd.reason if closed.rcvd else "") from closed
            raise
        finally:
            sending.cancel()
            await asyncio.wait([sending])

    def _is_new(self, message: dict[str, Any]) -> bool:
        """Whether a segment or event was not told before. Raises Lost when one between is missing."""
        if message["type"] == "segment":
            if not message["final"]:
                return self._next is None or message["index"] >= self._next
            index = message["index"]
            if self._next is not None and index < self._next:
                return False
            if self._next is not None and index > self._next:
                raise Lost(
                    f"segments {self._next} to {index - 1} were never told: another client had the stream meanwhile"
                )
            self._next = index + 1
            self._told[index] = set()
            self._told.pop(index - 64, None)
            return True
        told = self._told.setdefault(message["segment"], set())
        text = json.dumps(message, sort_keys=True)
        if text in told:
            return False
        told.add(text)
        return True

    @staticmethod
    def _refuse(error: dict[str, Any]) -> None:
        if error["code"] not in ("store_unavailable", "busy", "internal", "service_moves", "reader_slow"):
            raise Refused(error["code"], error["detail"])

    async def _send(self, socket: ClientConnection) -> None:
        """What is kept and not yet sent, as credit allows; `end` after the last."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                async with self._changed:
                    await self._changed.wait_for(self._may_send)
                    data = self._kept[self._sent][1] if self._sent < len(self._kept) else None
                    self._sent += data is not None
                    self._credit -= data is not None
                if data is not None:
                    await socket.send(data)
                elif self._end:
                    await socket.send('{"type":"end"}')
                    return
                else:
                    await asyncio.sleep(1.0)  # for the last provisional labels
                    self._over = True
                    await socket.close()
                    return

    def _may_send(self) -> bool:
        if self._sent < len(self._kept):
            return self._credit > 0
        return self._exhausted

    async def _read(self, source: Source, first: int) -> None:
        """Takes frames from the source into what is kept."""
        loop = asyncio.get_running_loop()
        frames: Iterator[Encoded] = iter(source.frames(first))
        began: float | None = None
        try:
            while (one := await asyncio.to_thread(next, frames, None)) is not None:
                number, seconds, picture = one
                if self._realtime and not source.live:
                    began = loop.time() - seconds if began is None else began
                    await asyncio.sleep(max(0.0, began + seconds - loop.time()))
                data = _HEADER.pack(number, seconds) + picture
                async with self._changed:
                    if source.live and self._full():
                        self._make_room()
                    else:
                        await self._changed.wait_for(lambda: not self._full())
                    self._kept.append((number, data))
                    self._bytes += len(data)
                    self.read = number + 1
                    self._changed.notify_all()
        except Exception as error:
            self._error = error
            raise
        finally:
            async with self._changed:
                self._exhausted = True
                self._changed.notify_all()

    def _full(self) -> bool:
        return len(self._kept) >= MOST_FRAMES or self._bytes >= MOST_BYTES

    def _make_room(self) -> None:
        """Drops the oldest frame that was not sent; the service sees by the numbers that it is missing."""
        at = min(self._sent, len(self._kept) - 1)
        self._bytes -= len(self._kept[at][1])
        del self._kept[at]
        self._sent = min(self._sent, at)
        self.lost += 1
