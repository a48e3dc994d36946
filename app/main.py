"""Where the service's parts meet."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fastapi import FastAPI

from app import problems
from app.batching import Batches
from app.capacity import Capacity, cost_of_a_clip
from app.engine import Engine
from app.hardening import Hardened
from app.logs import Identified
from app.metrics import Metrics
from app.routes import clips, features, following, frames, ops, pages, pieces, streams
from app.sealing import own_key
from app.security import Guarded
from app.sessions import open_store
from app.settings import Settings
from app.streams import Streams
from app.traces import Traced, collecting
from models import checkpoint
from pipelines.device import pick
from pipelines.recognizer import Recognizer

log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service. Raises BadSetting, DeviceMissing and BadCheckpoint; BadStoreUrl comes when it starts."""
    settings = settings or Settings.read()
    recognizer = _recognizer(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, object]]:
        metrics = Metrics()
        async with (
            collecting(settings.traces) as traces,
            open_store(settings.sessions) as store,
            Engine(settings, metrics, recognizer) as engine,
            Batches(engine.recognizer, metrics, threads=settings.threads, streams=settings.streams) as batches,
            Capacity(
                metrics,
                cores=settings.streams_share * settings.threads,
                most=settings.streams,
                behind=batches.behind,
                rate=1 / engine.recognizer.spec.clip_seconds,
                cost=await asyncio.to_thread(cost_of_a_clip, engine.recognizer),
            ) as capacity,
            Streams(
                store, engine.recognizer, metrics, patience=settings.store_seconds, followers=settings.followers
            ) as held,
        ):
            app.state.streams = held
            yield {
                "engine": engine, "settings": settings, "metrics": metrics, "batches": batches, "streams": held,
                "capacity": capacity, "traces": traces, "state_keys": _state_keys(settings),
            }  # fmt: skip

    app = FastAPI(
        title="crt-stream",
        version=_version(),
        summary="Video action recognition with a memory",
        description="Post a video, get what people do in it: labels, segments and events. Errors are RFC 9457 problem details.",
        lifespan=lifespan,
        docs_url=None,  # routes/pages.py has it: a home service fetches nothing from outside
        redoc_url=None,
    )
    app.include_router(clips.router, tags=["videos"])
    app.include_router(streams.router, tags=["streams"])
    app.include_router(pieces.router, tags=["streams"])
    app.include_router(features.router, tags=["streams"])
    app.include_router(following.router, tags=["streams"])
    app.include_router(frames.router)
    app.include_router(ops.router, tags=["service"])
    pages.install(app)
    problems.install(app)
    if settings.api_keys:
        app.add_middleware(Guarded, keys=settings.api_keys)
    app.add_middleware(Hardened)
    app.add_middleware(Traced)
    app.add_middleware(Identified)
    return app


def _recognizer(settings: Settings) -> Recognizer:
    """One whose networks are here, or one whose networks are elsewhere; nothing above knows the difference."""
    model = checkpoint.read(settings.model)
    kind, _, address = settings.engine.partition(":")
    if kind == "ray":
        from pipelines.ray_side import RayRecognizer

        return RayRecognizer(model, address, patience=settings.engine_seconds)
    return Recognizer(model, threads=settings.threads, device=pick(settings.device))


def _state_keys(settings: Settings) -> list[bytes]:
    """What signs exported states: as set, or this service's own, which lives as long as its sessions do."""
    if settings.state_keys:
        return settings.state_keys
    url = urlsplit(settings.sessions)
    if url.scheme == "sqlite":
        return [own_key(Path(unquote(url.path)[1:]).with_name("state.key"))]
    log.info("CRT_STATE_KEY is not set: exported states are good at this process only")
    return [secrets.token_bytes(32)]


def _version() -> str:
    try:
        return version("crt-stream")
    except PackageNotFoundError:  # run from the source tree
        return "0.1.0"
