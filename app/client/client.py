"""Sends a stream's frames and hands out what is said of them, over as many connections as it takes. See docs/protocol.md.

Frames are kept until the service says that they are durable, or read again, and sent again after a break from where it says.
Final segments and events come once each, in order; one that is missing is an error, not a silence.
"""

import asyncio
import contextlib
import json
import random
import re
import secrets
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from app.client.bookkeeping import Backlog, Flow, Message, Told
from app.client.errors import AGAIN, BadAddress, BadKey, FrameTooLarge, Refused, RequestRefused, Unreachable, refusal
from app.client.feed import Feed
from app.client.sources import Encoded, Given, Source

_HEADER = struct.Struct("!Qd")
"""Before each picture: number and capture time."""
_CHANGEABLE = ("top_k", "policy", "provisional", "memory")
"""Options that a stream which is there already can be told."""
_GREETING = 30.0
"""Seconds that a service has to say `ready`, or why not."""
_LAST = 2.0
"""Seconds that a service has to close the connection after its goodbye; the close code says more."""
_STALL = 10.0
"""Seconds without a word after which more segments may be on the way than are said again after a break."""
_QUIET = 1.0
"""Seconds without a word after which a stream that is left open is left."""
_STEADY = 10.0
"""Seconds; a connection that lasted longer was no failed attempt."""


@dataclass(slots=True)
class _Ending:
    """How a connection ended."""

    close: int | None = None
    """The service's close code."""
    detail: str = "the connection was lost"
    code: str | None = None
    """Of the error that ended it."""
    reconnect: bool | None = None
    """Whether the service wants us back, if it said so."""
    done: bool = False
    """Whether there is nothing left to do."""
    after: float = 0.0
    """Seconds before which the service does not want to be asked again."""

    def closed(self, closed: ConnectionClosed) -> None:
        if closed.rcvd is None:
            return
        self.close = closed.rcvd.code
        if self.code is None and closed.rcvd.reason:
            self.detail = closed.rcvd.reason
            self.code = closed.rcvd.reason if re.fullmatch("[a-z_]+", closed.rcvd.reason) else None

    def refusal(self) -> Refused | None:
        """What the user is told; None if it is worth another connection."""
        if self.reconnect:
            return None
        refused = refusal(self.close, self.code, self.detail)
        if refused is None and self.reconnect is False and self.code not in AGAIN:
            return Refused(self.code or "stream_refused", self.detail, self.close)
        return refused


class StreamClient:
    """One stream, once: `async for message in client.messages(source)`. An async context manager; leaving it disconnects."""

    def __init__(
        self, servers: str | Sequence[str], stream: str, *, client: str | None = None, takeover: bool = False, end: bool = True,
        realtime: bool = False, patience: float | None = None, pauses: tuple[float, float] = (0.1, 10.0),
        buffer_frames: int = 2048, buffer_bytes: int = 64 << 20, key: str | None = None, **options: Any,
    ) -> None:  # fmt: skip
        """servers: http:// or https:// addresses of services that share a store; the next one is tried when one fails.

        client: this client's token; who comes with the same may come back at once after its connection was lost. takeover: close
        whoever else writes to the stream. end: whether the stream ends when the source does. realtime: send no frame before its
        time. patience: seconds without success until Unreachable is raised, by default never. pauses: shortest and longest
        wait before another attempt, in seconds. buffer_frames, buffer_bytes: frames that are kept until they are durable; while
        there is no connection, so much of a live source. key: for services that ask for one.
        options: those of a stream, see docs/protocol.md; of a stream that is there already only top_k, policy, provisional and memory
        are changed. Raises BadAddress, BadKey.
        """
        self._servers = [servers] if isinstance(servers, str) else list(servers)
        for server in self._servers:
            if not re.match(r"https?://[^/\s]", server):
                raise BadAddress(f"{server!r} is no address of a service; give one like http://127.0.0.1:8000")
        self._stream, self._takeover, self._end, self._realtime = stream, takeover, end, realtime
        self._patience, self._pauses = patience, pauses
        self._options = {name: value for name, value in options.items() if value is not None}
        self._client = client or secrets.token_hex(8)
        if key and not re.fullmatch(r"[!-~]+", key):  # nor is it told: it is a secret
            raise BadKey("the key is none that a request can carry: it has to be one word of ASCII characters")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._backlog = Backlog(buffer_frames, buffer_bytes)
        self._feed: Feed | None = None
        self._flow = Flow(0, 1.0)
        self._told = Told()
        self._running: AsyncGenerator[Message, None] | None = None
        self._failure: Exception | None = None
        self._turn = self._attempt = 0
        self._frame_bytes = 0
        self._since = self._heard = 0.0
        self.connections = 0
        """Made so far."""
        self.acked = 0
        """Frames before this number are durable."""

    @property
    def read(self) -> int:
        """Number of the next frame of the source."""
        return self._feed.read if self._feed else 0

    @property
    def lost(self) -> int:
        """Frames that were dropped here: of a live source that was too fast, or, after a break, that were no longer kept."""
        return self._feed.lost if self._feed else 0

    @property
    def credit(self) -> int:
        """Frames that may be sent now."""
        return self._flow.credit

    @property
    def waiting(self) -> int:
        """Frames that are kept: on the way, not durable, or not sent yet."""
        return len(self._backlog)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._running is not None:
            await self._running.aclose()

    def messages(
        self, frames: Source | Iterable[Encoded] | AsyncIterable[Encoded], *, live: bool = False
    ) -> AsyncGenerator[Message, None]:
        """The service's messages, as they come; ends with the stream, or with the source if the stream is left open.

        Not given are `credit` and what was given before. Between two connections there is `{"type": "disconnected"}` with
        `server`, `code` (the close code or null), `detail` and `pause` (seconds until the next attempt), once for each reason.
        frames: a Source, or (number, capture time in seconds, encoded picture); of the latter, `live` says whether the oldest
        are dropped when they cannot be sent in time, otherwise they have to wait. What an iterable gives twice is gone.

        Raises ClientError, and what the source raises. Leaving the loop early leaves the stream as it is; it can go on later.
        """
        if self._running is not None:
            raise RuntimeError("a StreamClient streams once; make another")
        self._running = self._messages(frames if isinstance(frames, Source) else Given(frames, live=live))
        return self._running

    async def _messages(self, source: Source) -> AsyncGenerator[Message, None]:
        self._feed = feed = Feed(source, self._backlog, realtime=self._realtime)
        self._since = time.monotonic()
        said = ""
        try:
            while True:
                server = self._servers[self._turn % len(self._servers)]
                ending, began, before = _Ending(), time.monotonic(), self.connections
                try:
                    async with (
                        self._connect(server) as socket,
                        contextlib.aclosing(self._talk(socket, feed, ending)) as talk,
                    ):
                        async for message in talk:
                            yield message
                    ending.close = socket.close_code
                except ConnectionClosed as closed:
                    ending.closed(closed)
                except InvalidStatus as error:
                    status = error.response.status_code
                    ending.detail = f"it answers {status}"
                    after = error.response.headers.get("Retry-After", "")
                    ending.after = float(after) if re.fullmatch("[0-9]{1,4}", after) else 0.0
                    if status == 401:
                        why = (
                            "asks for a key (--key-file, $CRT_CLIENT_KEY)"
                            if not self._headers
                            else "does not accept this key"
                        )
                        raise RequestRefused("unauthorized", f"{server} {why}") from error
                    if 400 <= status < 500 and status not in (408, 425, 429):
                        raise BadAddress(f"{server} answers {status}, as no service with streams does") from error
                except InvalidURI as error:
                    raise BadAddress(f"{server} is no address of a service: {error}") from error
                except (OSError, InvalidHandshake, TimeoutError, EOFError) as error:
                    ending.detail = str(error) or "no answer in time"
                if ending.done:
                    return
                if (final := self._failure or ending.refusal()) is not None:
                    raise final
                if self.connections > before:
                    said = ""
                    if time.monotonic() - began > _STEADY:
                        self._succeeded()
                pause = max(self._next_pause(server, ending), ending.after if len(self._servers) == 1 else 0.0)
                if said != ending.detail:
                    said = ending.detail
                    yield {
                        "type": "disconnected",
                        "server": server,
                        "code": ending.close,
                        "detail": said,
                        "pause": round(pause, 3),
                    }
                await asyncio.sleep(pause)
        finally:
            await feed.close()

    def _succeeded(self) -> None:
        self._attempt, self._since = 0, time.monotonic()

    def _next_pause(self, server: str, ending: _Ending) -> float:
        """Moves on to the next server; seconds to wait before it is tried. Raises Unreachable."""
        self._attempt += 1
        self._turn += 1
        if self._patience is not None and time.monotonic() - self._since > self._patience:
            raise Unreachable(f"{server}: {ending.detail}; given up after {self._patience:g} s")
        shortest, longest = self._pauses
        rounds = (self._attempt - 1) // len(self._servers)
        # Jittered: of a thousand cameras that lose a service at once, each comes back at another moment.
        return min(longest, shortest * 2.0 ** min(rounds, 30)) * random.uniform(0.5, 1.0)

    def _connect(self, server: str) -> connect:
        parameters = {"client": self._client} | {
            name: str(value).lower() if isinstance(value, bool) else value for name, value in self._options.items()
        }
        if self._takeover:
            parameters["takeover"] = "true"
        address = f"{server.rstrip('/').replace('http', 'ws', 1)}/v1/streams/{quote(self._stream, safe='')}/frames?{urlencode(parameters)}"
        return connect(
            address, additional_headers=self._headers, subprotocols=[Subprotocol("crt.v1")], compression=None, max_size=16 << 20, open_timeout=10,
            # A service whose inbox is full does not see a ping until it has worked on what came before it.
            ping_interval=10, ping_timeout=30, close_timeout=2,
        )  # fmt: skip

    async def _talk(self, socket: ClientConnection, feed: Feed, ending: _Ending) -> AsyncGenerator[Message, None]:
        """One connection, until its last word. Raises ConnectionClosed, Lost."""
        sending: asyncio.Task[None] | None = None
        try:
            while True:
                async with asyncio.timeout(_GREETING if sending is None else None):
                    message = _parse(await socket.recv())
                self._heard = time.monotonic()
                match message["type"]:
                    case "ready":
                        await self._begin(message, feed)
                        sending = asyncio.create_task(self._send(socket, feed, message, ending), name="send")
                    case "credit":
                        async with feed.changed:
                            self._flow.credit += message["frames"]
                            feed.changed.notify_all()
                        continue
                    case "ack":
                        await self._release(message, feed)
                    case "segment" | "event":
                        if not await self._take(message, feed):
                            continue
                    case "error" if message["fatal"]:
                        ending.code, ending.detail = message["code"], message["detail"]
                    case "goodbye":
                        ending.done = message["reason"] == "end"
                        ending.reconnect = message["reconnect"]
                        if ending.code is None:
                            ending.detail = f"the service said goodbye: {message['reason']}"
                yield message
                if message["type"] == "goodbye":
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LAST):
                            await socket.wait_closed()
                    return
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.wait([sending])

    async def _begin(self, ready: Message, feed: Feed) -> None:
        self.connections += 1
        self._takeover = False  # once is meant, not at every return
        self._told.begin(ready["segment"])
        self._frame_bytes = ready["frame_bytes"]
        self._flow = Flow(ready["credit"], ready["segment_frames"] / ready["rate"])
        self._flow.unheard = self._told.unheard
        self.acked = max(self.acked, ready["resume_from"])
        size = ready["frame_size"]
        await feed.go_on(ready["resume_from"], (size["width"], size["height"]))

    async def _take(self, message: Message, feed: Feed) -> bool:
        """Whether a segment or an event is to be told."""
        is_new = self._told.is_new(message)
        if self._flow.unheard != self._told.unheard:
            async with feed.changed:
                self._flow.unheard = self._told.unheard
                feed.changed.notify_all()
        return is_new

    async def _release(self, ack: Message, feed: Feed) -> None:
        """Frames are durable."""
        self._told.check(ack["segment"])
        async with feed.changed:
            if ack["frame"] > self.acked:
                self._succeeded()
                self.acked = ack["frame"]
            self._backlog.release(ack["frame"])
            self._flow.release(ack["frame"])
            feed.changed.notify_all()

    async def _send(self, socket: ClientConnection, feed: Feed, ready: Message, ending: _Ending) -> None:
        """All frames, as they may be sent, and `end`. Whatever is wrong closes the connection."""
        try:
            changes = {
                name: self._options[name]
                for name in _CHANGEABLE
                if name in self._options and self._options[name] != ready["options"].get(name)
            }
            if changes:
                await socket.send(json.dumps({"type": "options", **changes}))
            while (frame := await self._due(feed)) is not None:
                number, seconds, picture = frame
                if (size := _HEADER.size + len(picture)) > self._frame_bytes:
                    raise FrameTooLarge(
                        "frame_too_large", f"frame {number} has {size} bytes, but the service takes {self._frame_bytes}; send smaller pictures"
                    )  # fmt: skip
                await socket.send(_HEADER.pack(number, seconds) + picture)
            if self._end and feed.error is None:
                await socket.send('{"type": "end"}')
            else:
                await self._linger()
                # A source's error waits until all that came before it has been worked on.
                ending.done, self._failure = feed.error is None, feed.error
                await socket.close()
        except ConnectionClosed:
            pass  # whoever receives learns why
        except Exception as error:  # raised by whoever receives
            self._failure = error
            await socket.close()

    async def _due(self, feed: Feed) -> Encoded | None:
        """Waits for the next frame that may be sent; None after the last."""
        while True:
            async with feed.changed:
                frame = self._backlog.next
                if frame is None and feed.exhausted:
                    return None
                stalled = time.monotonic() - self._heard > _STALL
                if frame is not None and self._flow.may_send(frame, stalled=stalled):
                    self._backlog.sent()
                    self._flow.sent(frame)
                    feed.changed.notify_all()
                    return frame
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_STALL):
                        await feed.changed.wait()

    async def _linger(self) -> None:
        """Waits for what is still said of the last frames. What is not durable will be sent again by who goes on."""
        while not (self._flow.is_worked_off and time.monotonic() - self._heard > _QUIET):
            await asyncio.sleep(_QUIET / 10)


def _parse(text: str | bytes) -> Message:
    """Raises BadAddress for what no service of ours says."""
    try:
        message = json.loads(text)
        if isinstance(message["type"], str):
            return dict(message)
    except (ValueError, TypeError, KeyError):
        pass
    raise BadAddress(f"what answers there speaks another protocol: {text[:60]!r}")
