"""What a browser may do with the service's answers, and that no other site's page uses its WebSockets.

Browsers let any page talk to this machine. What another site's page gets by HTTP it cannot read; to a WebSocket it could, so one that such
a page opens is refused, keys or not.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems import answer
from models.errors import CrtError

_OWN = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'; font-src 'self'; "
_POLICIES = {
    "/": _OWN + "script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; worker-src 'self'",
    "/docs": _OWN + "script-src 'self'; style-src 'self'; img-src 'self' data:",
    # Redoc makes its styles and its worker for searching as it runs.
    "/redoc": _OWN + "script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; worker-src blob:; child-src blob:",
}  # fmt: skip
_NOTHING = "default-src 'none'; frame-ancestors 'none'"
"""For answers that are no pages."""


class OriginForeign(CrtError):  # noqa: N818 - named after what is wrong
    """Another site's page has opened a WebSocket."""

    code = "origin_foreign"


class Hardened:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and (wrong := _foreign(Headers(scope=scope))) is not None:
            for metric in (scope["state"]["metrics"].errors, scope["state"]["metrics"].refused):
                metric.labels(wrong.code).inc()
            await receive()  # websocket.connect
            await answer(wrong)(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        policy = _POLICIES.get(scope["path"], _NOTHING)

        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = policy
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                if policy is not _NOTHING:
                    headers["Cross-Origin-Opener-Policy"] = "same-origin"
                    headers["Permissions-Policy"] = "camera=(self), microphone=(), geolocation=()"
            await send(message)

        await self._app(scope, receive, hardened)


def _foreign(headers: Headers) -> OriginForeign | None:
    """Only browsers send an Origin, and there no page can change it."""
    origin = headers.get("origin")
    ours = {headers.get("host", "").lower(), headers.get("x-forwarded-host", "").lower()}
    if origin is None or urlsplit(origin).netloc.lower() in ours:
        return None
    return OriginForeign(
        f"A page of {origin} may not open this service's WebSocket. Use the service's own page; a proxy before it has to hand on the Host header."
    )
