"""Where the service's parts meet."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from app import problems
from app.engine import Engine
from app.routes import clips, ops
from app.settings import Settings


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service. Raises BadSetting; BadCheckpoint comes when it starts."""
    settings = settings or Settings.read()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, object]]:
        async with Engine(settings) as engine:
            yield {"engine": engine, "settings": settings}

    # The API's page with its scripts inside the package: a home service fetches nothing from outside.
    app = FastAPIOffline(
        title="crt-stream",
        version=_version(),
        summary="Video action recognition with a memory",
        description="Post a video, get what people do in it: labels, segments and events. Errors are RFC 9457 problem details.",
        lifespan=lifespan,
    )
    app.include_router(clips.router, tags=["videos"])
    app.include_router(ops.router, tags=["service"])
    problems.install(app)
    return app


def _version() -> str:
    try:
        return version("crt-stream")
    except PackageNotFoundError:  # run from the source tree
        return "0.1.0"
