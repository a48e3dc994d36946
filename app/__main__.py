"""`python -m app`: the service on HOST and PORT (127.0.0.1 and 8000)."""

import os
import socket
import sys

import uvicorn
from fastapi import FastAPI

from app import logs
from app.door import StreamDoor, front_door, open_wide
from app.main import create_app
from app.settings import Settings
from models.errors import CrtError


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
    open_wide()
    config = uvicorn.Config(
        app, host=host, port=int(port), log_level=settings.log_level, log_config=None, timeout_graceful_shutdown=settings.drain_seconds,
        http=front_door(settings.upload_idle_seconds),
        # What one client may have in memory here, beside what waits in its stream's inbox.
        ws=StreamDoor, ws_max_size=settings.frame_bytes, ws_max_queue=2, ws_ping_interval=20, ws_ping_timeout=20, ws_per_message_deflate=False,
    )  # fmt: skip
    Service(config, app).run()
    return 0


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
