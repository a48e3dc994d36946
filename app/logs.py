"""Log lines that say whose they are: each carries the id of the request and of the stream that it is about, as text or as JSON.

A request's id is the client's X-Request-ID, or one made here; the answer has it, too.
"""

import logging
import re
import uuid
from contextvars import ContextVar
from typing import Literal

from pythonjsonlogger.json import JsonFormatter
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-ID"
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
stream_id: ContextVar[str | None] = ContextVar("stream_id", default=None)
_STREAM = re.compile(r"/v1/streams/([^/]+)")
_STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")


def nameless(path: str) -> str:
    """A request's path with {id} in place of a stream's."""
    return _STREAM.sub("/v1/streams/{id}", path)


def install(level: str, form: Literal["text", "json"]) -> None:
    """Sends all log lines, the server's own included, to standard error in one form."""
    handler = logging.StreamHandler()
    handler.addFilter(_add_ids)
    handler.setFormatter(
        JsonFormatter(
            ["levelname", "name", "message", "request_id", "stream_id"], timestamp=True,
            rename_fields={"levelname": "level", "name": "logger"},
        )
        if form == "json"
        else _Text("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )  # fmt: skip
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _add_ids(record: logging.LogRecord) -> bool:
    record.request_id, record.stream_id = request_id.get(), stream_id.get()
    return True


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        ids = [f"{name}={value}" for name in ("request_id", "stream_id") if (value := getattr(record, name))]
        return f"{super().format(record)} [{' '.join(ids)}]" if ids else super().format(record)


class Identified:
    """ASGI middleware: gives each request its ids. They hold for its task, which is the request's alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        own = given if re.fullmatch(r"[\w.:-]{1,128}", given, re.ASCII) else uuid.uuid4().hex
        request_id.set(own)
        if found := _STREAM.match(scope["path"]):
            stream_id.set(found[1][:128])

        async def named(message: Message) -> None:
            if message["type"] in _STARTS:
                message.setdefault("headers", [])
                MutableHeaders(scope=message)[HEADER] = own
            await send(message)

        await self._app(scope, receive, named)
