"""Who may ask: with CRT_API_KEYS set, each request to /v1 carries one of these keys. Anybody may ask whether the service lives, and for /metrics.

    Authorization: Bearer KEY                 programs
    X-API-Key: KEY                            programs that cannot set the first
    Sec-WebSocket-Protocol: crt.v1, crt.key.KEY   browsers, whose WebSockets can carry nothing else

Several keys are valid at the same time, so that one can be replaced while clients still use the other. Not covered: who may see which
stream; whoever has a key has all of them. A key is only as secret as the connection: put TLS in front (docker/).
"""

import hmac

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.metrics import Metrics
from app.problems import Unauthorized, answer

KEY = "crt.key."
"""Begins the subprotocol that carries a key."""
_GUARDED = "/v1"


class Guarded:
    """ASGI middleware: lets through who has a key."""

    def __init__(self, app: ASGIApp, keys: str) -> None:
        """keys: a line each."""
        self._app = app
        self._keys = [line.strip().encode() for line in keys.splitlines() if line.strip()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not self._guards(scope["path"]) or self._knows(given(scope)):
            await self._app(scope, receive, send)
            return
        metrics: Metrics = scope["state"]["metrics"]
        error = Unauthorized(
            "This service asks for a key: send it as `Authorization: Bearer KEY`."
            if given(scope) is None
            else "The key is none of this service's."
        )
        metrics.errors.labels(error.code).inc()
        response = answer(error, Request(scope, receive) if scope["type"] == "http" else None)
        if scope["type"] == "websocket":
            metrics.refused.labels(error.code).inc()
            await receive()  # websocket.connect
        await response(scope, receive, send)

    @staticmethod
    def _guards(path: str) -> bool:
        return path == _GUARDED or path.startswith(f"{_GUARDED}/")

    def _knows(self, key: str | None) -> bool:
        # All are compared, so that the time tells nothing of which one comes near.
        return key is not None and any([hmac.compare_digest(one, key.encode()) for one in self._keys])


def given(scope: Scope) -> str | None:
    """The key that a request carries."""
    headers = Headers(scope=scope)
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token.strip():
        return token.strip()
    if key := headers.get("x-api-key"):
        return key
    return next((one[len(KEY) :] for one in scope.get("subprotocols", ()) if one.startswith(KEY)), None)
