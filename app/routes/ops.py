"""What the service is and how it is."""

import math

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from app import schemas
from app.engine import Engine
from app.metrics import CONTENT_TYPE, Metrics
from app.problems import documented
from app.sessions.base import StoreUnavailable
from app.streams import Streams
from pipelines.workers import workers

router = APIRouter()


@router.get("/v1/model", summary="The model's card")
async def model(request: Request) -> schemas.ModelCard:
    """Labels, rate, frame size, segment length, data and measured accuracy."""
    engine: Engine = request.state.engine
    model, spec = engine.recognizer.model, engine.recognizer.spec
    return schemas.ModelCard(
        name=model.name, digest=model.digest, labels=list(model.labels), background=model.background,
        several=engine.recognizer.several, rate=spec.rate, frame_size=schemas.Size(width=spec.width, height=spec.height),
        clip_frames=spec.frames, segment_clips=model.segment, segment_seconds=model.segment * spec.clip_seconds,
        memory_bytes=model.memory * 4, card=model.card,
    )  # fmt: skip


@router.get(
    "/metrics",
    summary="Counts and times, for Prometheus",
    response_class=Response,
    responses={200: {"content": {CONTENT_TYPE: {}}, "description": "docs/metrics.md says what each is."}},
)
async def metrics(request: Request) -> Response:
    """While the store is away, what it would say of itself is not a number."""
    metrics: Metrics = request.state.metrics
    streams: Streams = request.state.streams
    metrics.live_streams.set(streams.held)
    try:
        metrics.sessions.set(await streams.store.count())
        metrics.store_bytes.set(await streams.store.size())
    except StoreUnavailable:
        metrics.sessions.set(math.nan)
        metrics.store_bytes.set(math.nan)
    return Response(metrics.text(), media_type=CONTENT_TYPE)


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> schemas.Health:
    return schemas.Health(status="ok")


@router.get("/readyz", summary="Can it label videos?", responses=documented("decoder", "store", "service"))
async def readyz(request: Request) -> schemas.Health:
    """Answers 503 when no video can be decoded, the store of sessions is away, or the service goes down.

    The model is there: without it nothing starts.
    """
    streams: Streams = request.state.streams
    streams.check_stays()
    await run_in_threadpool(workers.start)
    await streams.store.count()
    return schemas.Health(status="ready")
