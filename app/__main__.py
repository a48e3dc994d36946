"""`python -m app`: the service on HOST and PORT (127.0.0.1 and 8000)."""

import logging
import os
import sys

import uvicorn

from app.main import create_app
from app.settings import Settings
from models import checkpoint
from models.errors import CrtError


def main() -> int:
    host, port = os.environ.get("HOST", "127.0.0.1"), os.environ.get("PORT", "8000")
    if not port.isdigit() or not 0 <= int(port) <= 65535:
        print(f"PORT={port!r} is no port: give a number of 0 to 65535", file=sys.stderr)
        return 2
    try:
        settings = Settings.read()
        checkpoint.load(settings.model)
    except CrtError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    print(f"crt-stream: http://{host}:{port}/docs")
    uvicorn.run(
        create_app(settings), host=host, port=int(port), log_level=settings.log_level, timeout_graceful_shutdown=10
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
