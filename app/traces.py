"""Traces by OpenTelemetry, when a collector is configured: CRT_TRACES=http://collector:4318 sends spans there by OTLP over HTTP.

A span for each request to the end of its answer, but none for a WebSocket, which lasts for days; instead one for each clip and
each segment of a stream, with the ids of the stream and of the request, so that a late label can be told apart by stage.
A client's `traceparent` is taken up (W3C Trace Context). Without the setting nothing of OpenTelemetry is loaded.
"""

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app import logs

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Value = str | int | float | bool


class Traces(Protocol):
    """Where spans begin."""

    def span(self, name: str, **attributes: Value) -> AbstractContextManager[None]:
        """What is done within it belongs to it; an error that leaves it is part of it."""

    def request(self, name: str, headers: Mapping[str, str], **attributes: Value) -> AbstractContextManager[None]:
        """A span that continues what the headers say."""


class NoTraces:
    """Without a collector."""

    def span(self, name: str, **attributes: Value) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def request(self, name: str, headers: Mapping[str, str], **attributes: Value) -> AbstractContextManager[None]:
        return contextlib.nullcontext()


class Collected:
    """Spans that go to a collector."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = provider.get_tracer("crt-stream")
        self._propagator = TraceContextTextMapPropagator()

    @contextlib.contextmanager
    def span(self, name: str, **attributes: Value) -> Iterator[None]:
        ids = {"request_id": logs.request_id.get(), "stream_id": logs.stream_id.get()}
        known = {key: value for key, value in ids.items() if value is not None}
        with self._tracer.start_as_current_span(name, attributes={**known, **attributes}):
            yield

    @contextlib.contextmanager
    def request(self, name: str, headers: Mapping[str, str], **attributes: Value) -> Iterator[None]:
        from opentelemetry import context

        token = context.attach(self._propagator.extract(headers))
        try:
            with self.span(name, **attributes):
                yield
        finally:
            context.detach(token)


@contextlib.asynccontextmanager
async def collecting(url: str | None) -> AsyncIterator[Traces]:
    """Traces that go to the collector at this address, the last ones at the end."""
    if url is None:
        yield NoTraces()
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "crt-stream"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url.rstrip('/')}/v1/traces", timeout=5)))
    try:
        yield Collected(provider)
    finally:
        provider.shutdown()


class Traced:
    """ASGI middleware: a span for each HTTP request, by method and path, without the stream's id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        traces: Traces | None = scope.get("state", {}).get("traces") if scope["type"] == "http" else None
        if traces is None:
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        with traces.request(
            f"{method} {logs.nameless(path)}", Headers(scope=scope), **{"http.request.method": method, "url.path": path}
        ):
            await self._app(scope, receive, send)
