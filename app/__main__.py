"""`python -m app`: the service on HOST and PORT (127.0.0.1 and 8000)."""

import os
import socket
import sys

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app import logs
from app.main import create_app
from app.settings import Settings
from models.errors import CrtError

CLOSING = 2.0
"""Seconds in which a client has to take in what it was sent last."""


def main() -> int:
    host, port = os.environ.get("HOST", "127.0.0.1"), os.environ.get("PORT", "8000")
    if not port.isdigit() or not 0 <= int(port) <= 65535:
        print(f"PORT={port!r} is no port: give a number of 0 to 65535", file=sys.stderr)
        return 2
    try:
        settings = Settings.read()
        app = create_app(settings)
    except CrtError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 2
    logs.install(settings.log_level, settings.log_format)
    print(f"crt-stream: http://{host}:{port}/")
    config = uvicorn.Config(
        app, host=host, port=int(port), log_level=settings.log_level, log_config=None, timeout_graceful_shutdown=settings.drain_seconds,
        # What one client may have in memory here, beside what waits in its stream's inbox.
        ws=Door, ws_max_size=settings.frame_bytes, ws_max_queue=2, ws_ping_interval=20, ws_ping_timeout=20, ws_per_message_deflate=False,
    )  # fmt: skip
    Service(config, app).run()
    return 0


class Door(WebSocketsSansIOProtocol):
    """A client that reads nothing cannot keep its connection after it has been closed."""

    async def run_asgi(self) -> None:
        try:
            await super().run_asgi()
        finally:
            # Closing waits until all is sent; to one who does not read, that is for ever.
            self.loop.call_later(CLOSING, self.transport.abort)


class Service(uvicorn.Server):
    """Tells those who stream to go on elsewhere before it closes their connections."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._app.state.streams.move()
        await super().shutdown(sockets)


if __name__ == "__main__":
    sys.exit(main())
