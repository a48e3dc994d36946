"""What people see: the live page at `/`, its files, the bundled example, and the API's documentation; nothing is fetched from outside."""

from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, FastAPI, HTTPException
from fastapi.responses import FileResponse
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

ROOT = Path(__file__).parents[2]
WEB = ROOT / "app" / "web"
_DOCS = Path(fastapi_offline.__file__).parent / "static"
_CHECKED = {"Cache-Control": "no-cache"}
"""Browsers ask each time whether it is still the same, so that a new version of the service is a new page at once."""

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> FileResponse:
    """The live page."""
    return FileResponse(WEB / "index.html", headers=_CHECKED)


@router.get("/docs")
async def docs() -> FileResponse:
    """The API's documentation, to try things out."""
    return FileResponse(WEB / "docs" / "swagger.html", headers=_CHECKED)


@router.get("/redoc")
async def redoc() -> FileResponse:
    """The API's documentation, to read."""
    return FileResponse(WEB / "docs" / "redoc.html", headers=_CHECKED)


@router.get("/favicon.ico")
async def icon() -> FileResponse:
    """For browsers that ask for it by this name."""
    return FileResponse(WEB / "icon.svg", headers=_CHECKED)


@router.get("/example.mp4")
async def example() -> FileResponse:
    """The bundled video."""
    return _found(ROOT / "examples" / "kitchen.mp4", "video/mp4")


@router.get("/protocol.md")
async def protocol() -> FileResponse:
    """The streams' protocol."""
    return _found(ROOT / "docs" / "protocol.md", "text/plain; charset=utf-8")


def _found(file: Path, media_type: str) -> FileResponse:
    """A file that an image of the service may have left out."""
    if not file.is_file():
        raise HTTPException(404)
    return FileResponse(file, media_type=media_type, headers=_CHECKED)


class _Checked(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers.update(_CHECKED)
        return answer


def install(app: FastAPI) -> None:
    """The page and its files."""
    app.include_router(router)
    for place, folder in (("/web", WEB), ("/static-offline-docs", _DOCS)):
        app.router.routes.append(Mount(place, GZipMiddleware(_Checked(directory=folder), minimum_size=1000)))
