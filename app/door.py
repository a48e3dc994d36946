"""Connections as they come in, before any route sees them: what one client can hold here is bounded, whatever it sends or leaves unsent."""

import asyncio
import contextlib
import resource

import h11
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

CLOSING = 2.0
"""Seconds in which a client has to take in what it was sent last."""

FRAGMENTS = 4096
"""Of a message, at most: its largest may come in pieces of a kilobyte."""


class FrontDoor(H11Protocol):
    """A connection on which no request comes, or only a part of its head, is closed after a while."""

    patience = 30.0
    """Seconds."""
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait_for_head()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._stop_waiting()
        super().handle_websocket_upgrade(event)

    def _wait_for_head(self) -> None:
        """A head counts from its beginning: what trickles in does not prolong it."""
        if self.conn.their_state is not h11.IDLE or self.transport.get_protocol() is not self:
            self._stop_waiting()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(self.patience, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class StreamDoor(WebSocketsSansIOProtocol):
    """A WebSocket whose client may read nothing, ping without end, or send a message in crumbs."""

    _pong: bytes | None = None
    """The answer to the latest pings, which waits until the client reads."""

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            # A refusal completes the handshake, too. The base forgets that, and logs each as a fault of the service.
            self.handshake_complete = True

    async def run_asgi(self) -> None:
        try:
            await super().run_asgi()
        finally:
            # Closing waits until all is sent; to one who does not read, that is for ever.
            self.loop.call_later(CLOSING, self.transport.abort)

    def handle_ping(self) -> None:
        """Of several pings only the latest needs an answer (RFC 6455, section 5.5.3): to one who does not read, they would pile up."""
        pong = b"".join(self.conn.data_to_send())
        if self.writable.is_set():
            self.transport.write(pong)
        elif pong:
            self._pong = pong

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._pong is not None and not self.transport.is_closing():
            pong, self._pong = self._pong, None
            self.transport.write(pong)

    def handle_cont(self, event: Frame) -> None:
        """A picture in crumbs costs many times its size, and empty ones never make a message."""
        if len(self.frames) >= FRAGMENTS:
            self.conn.fail(1009, f"a message in more than {FRAGMENTS} fragments")
            self.handle_parser_exception()
        elif not self.close_sent:
            super().handle_cont(event)


def front_door(patience: float) -> type[FrontDoor]:
    """For connections that have so many seconds for a request's head."""
    return type("FrontDoor", (FrontDoor,), {"patience": patience})


def open_wide() -> None:
    """As many connections as the system allows: each is an open file, of which a process has 1,024 by default."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
