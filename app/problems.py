"""Errors as problem details (RFC 9457): one table of statuses, one shape for all.

    {"type": "about:blank", "title": "Unsupported Media Type", "status": 415, "detail": "...", "code": "video_not_a_video"}

`code` is stable and meant for programs, `detail` for people; `errors` lists what is wrong with a request's parameters.
"""

import logging
import uuid
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from models.errors import CrtError

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"


class RequestError(CrtError):
    """Something is wrong with the request itself."""

    code = "request_bad"


class ParameterError(RequestError):
    """A parameter has an impossible value."""

    code = "parameter_bad"


class UploadMissing(RequestError):  # noqa: N818 - named after what is wrong, as all below
    """There is no video in the request."""

    code = "upload_missing"


class UploadMalformed(RequestError):  # noqa: N818
    """A multipart body cannot be taken apart."""

    code = "upload_malformed"


class UploadTooLarge(RequestError):  # noqa: N818
    """The upload has more bytes than the service takes."""

    code = "upload_too_large"


class UnsupportedUpload(RequestError):  # noqa: N818
    """The body's Content-Type is none that can hold a video."""

    code = "upload_unsupported"


class NotAcceptable(RequestError):  # noqa: N818
    """The answer cannot be given in any form that the client accepts."""

    code = "not_acceptable"


class Busy(RequestError):  # noqa: N818
    """All places are taken, those in the queue as well."""

    code = "busy"
    retry_after = 5
    """Seconds."""


STATUS: dict[str, int] = {
    "internal": 500,
    "request_bad": 400,
    "parameter_bad": 422,
    "upload_missing": 400,
    "upload_malformed": 400,
    "upload_too_large": 413,
    "upload_unsupported": 415,
    "not_acceptable": 406,
    "not_found": 404,
    "method_not_allowed": 405,
    "busy": 503,
    "decoder_unavailable": 503,
    "video_error": 422,
    "video_unreadable": 400,
    "video_empty": 400,
    "video_not_a_video": 415,
    "video_unsupported": 415,
    "video_no_video_stream": 422,
    "video_corrupt": 422,
    "video_decoder_died": 422,
    "video_over_budget": 413,
    "video_too_long": 413,
    "video_too_many_frames": 413,
    "video_too_large": 413,
    "video_timeout": 413,
    "video_out_of_memory": 413,
}
"""The status of each code; a code that is not here is the service's own fault and answers 500."""

_FRAMEWORK = {404: "not_found", 405: "method_not_allowed"}


def problem(code: str, detail: str, status: int | None = None, **more: Any) -> dict[str, Any]:
    """The body of a problem."""
    status = STATUS.get(code, 500) if status is None else status
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        **more,
    }


def problem_of(error: BaseException) -> dict[str, Any]:
    """An error's problem. What was not foreseen is logged under a number that the client can quote, and not told."""
    if isinstance(error, CrtError) and STATUS.get(error.code, 500) < 500:
        return problem(error.code, str(error))
    if isinstance(error, CrtError) and error.code in STATUS and error.code != "internal":
        return problem(error.code, str(error))
    number = uuid.uuid4().hex[:12]
    log.error("internal error %s", number, exc_info=error)
    return problem("internal", f"Something went wrong in the service. The log has it under {number}.")


def _answer(body: dict[str, Any], headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(body, status_code=body["status"], media_type=MEDIA_TYPE, headers=headers)


def install(app: FastAPI) -> None:
    """Gives every error of the app this shape."""

    async def of_ours(request: Request, error: Exception) -> JSONResponse:
        headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Busy) else None
        return _answer(problem_of(error), headers)

    async def of_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        errors = [
            {"parameter": ".".join(str(part) for part in e["loc"][1:]), "problem": e["msg"]} for e in error.errors()
        ]
        detail = "; ".join(f"{e['parameter']}: {e['problem']}" for e in errors)
        return _answer(problem("parameter_bad", detail, errors=errors))

    async def of_framework(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = _FRAMEWORK.get(error.status_code, "request_bad" if error.status_code < 500 else "internal")
        details = {
            404: f"There is nothing at {request.url.path}. See /docs.",
            405: f"{request.method} is not possible at {request.url.path}. See /docs.",
        }
        headers = dict(error.headers) if error.headers else None
        return _answer(problem(code, details.get(error.status_code, str(error.detail)), error.status_code), headers)

    app.add_exception_handler(CrtError, of_ours)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(HTTPException, of_framework)
    app.add_exception_handler(Exception, of_ours)
