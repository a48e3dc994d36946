"""Errors as problem details (RFC 9457): one table of statuses, one shape for all.

    {"type": "about:blank", "title": "Unsupported Media Type", "status": 415, "detail": "...", "code": "video_not_a_video"}

`code` is stable and meant for programs, `detail` for people; `errors` lists what is wrong with a request's parameters.
"""

import asyncio
import contextlib
import logging
import uuid
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from app import schemas
from models.errors import CrtError

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
LINGER = 2.0
"""Seconds."""


class RequestError(CrtError):
    """Something is wrong with the request itself."""

    code = "request_bad"


class ParameterError(RequestError):
    """A parameter has an impossible value."""

    code = "parameter_bad"


class Unauthorized(RequestError):  # noqa: N818 - named after what is wrong, as all below
    """The service asks for a key, and the request carries none of its keys."""

    code = "unauthorized"


class UploadMissing(RequestError):  # noqa: N818
    """There is no video in the request."""

    code = "upload_missing"


class UploadMalformed(RequestError):  # noqa: N818
    """A multipart body cannot be taken apart."""

    code = "upload_malformed"


class UploadTooLarge(RequestError):  # noqa: N818
    """The upload has more bytes than the service takes."""

    code = "upload_too_large"


class UploadStalled(RequestError):  # noqa: N818
    """The client stopped sending."""

    code = "upload_stalled"


class NoSpace(RequestError):  # noqa: N818
    """The service's disk is full."""

    code = "upload_no_space"


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
    "unauthorized": 401,
    "parameter_bad": 422,
    "upload_missing": 400,
    "upload_malformed": 400,
    "upload_too_large": 413,
    "upload_unsupported": 415,
    "upload_stalled": 408,
    "upload_no_space": 507,
    "not_acceptable": 406,
    "origin_foreign": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "busy": 503,
    "decoder_unavailable": 503,
    "store_unavailable": 503,
    "engine_unavailable": 503,
    "service_moves": 503,
    "session_unknown": 404,
    "session_expired": 410,
    "session_exists": 409,
    "session_conflict": 409,
    "session_too_large": 413,
    "stream_owned": 409,
    "stream_gap": 409,
    "stream_rewound": 409,
    "features_bad": 422,
    "model_changed": 409,
    "checkpoint_unknown": 404,
    "state_bad": 422,
    "state_signature": 422,
    "idempotency_conflict": 409,
    "frame_malformed": 400,
    "frame_undecodable": 422,
    "message_malformed": 400,
    "reader_slow": 408,
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


def documented(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """How the API's documentation shows the problems whose codes start so: by status, with an example of each code."""
    codes: dict[int | str, list[str]] = {}
    for code in STATUS:
        if code.startswith(kinds):
            codes.setdefault(STATUS[code], []).append(code)
    return {
        status: {
            "description": ", ".join(f"`{code}`" for code in names),
            "content": {
                MEDIA_TYPE: {
                    "schema": schemas.Problem.model_json_schema(),
                    "examples": {
                        code: {"value": problem(code, "What was wrong and what would be right.")} for code in names
                    },
                }
            },
        }
        for status, names in codes.items()
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


_RETRY_AFTER = {Busy.code: Busy.retry_after, "store_unavailable": 5, "service_moves": 1}
"""Seconds after which it is worth trying again, by code."""


def _headers(error: BaseException) -> dict[str, str] | None:
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": 'Bearer realm="crt-stream"'}
    seconds = _RETRY_AFTER.get(getattr(error, "code", ""))
    return None if seconds is None else {"Retry-After": str(seconds)}


def answer(error: CrtError, request: Request | None = None) -> JSONResponse:
    """The answer to a request that fails so; of `request` there may be a body that is still being sent."""
    body, headers = problem_of(error), _headers(error)
    if request is None:
        return _answer(body, headers)
    lingering = _Lingering(body, status_code=body["status"], media_type=MEDIA_TYPE, headers=headers)
    lingering.request = request
    return lingering


class _Lingering(JSONResponse):
    """An answer to a client that may still be sending: takes in what comes for a moment before the connection is closed.

    Closing with unread bytes would reset the connection, and the client would never see the answer.
    """

    request: Request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        # RuntimeError: the body had been read to its end.
        with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
            async with asyncio.timeout(LINGER):
                async for _ in self.request.stream():
                    pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def install(app: FastAPI) -> None:
    """Gives every error of the app this shape."""

    def counted(request: Request, body: dict[str, Any]) -> dict[str, Any]:
        request.state.metrics.errors.labels(body["code"]).inc()
        return body

    async def of_ours(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, RequestError):
            request.state.metrics.errors.labels(error.code).inc()
            return answer(error, request)
        return _answer(counted(request, problem_of(error)), _headers(error))

    async def of_gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it; nginx's number for a client that went away

    async def of_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        errors = [
            {
                "parameter": ".".join(str(part) for part in e["loc"][1:] if e["type"] != "json_invalid") or "body",
                "problem": e["msg"],
            }
            for e in error.errors()
        ]
        detail = "; ".join(f"{e['parameter']}: {e['problem']}" for e in errors)
        return _answer(counted(request, problem("parameter_bad", detail, errors=errors)))

    async def of_framework(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = _FRAMEWORK.get(error.status_code, "request_bad" if error.status_code < 500 else "internal")
        details = {
            404: f"There is nothing at {request.url.path}. See /docs.",
            405: f"{request.method} is not possible at {request.url.path}. See /docs.",
        }
        headers = dict(error.headers) if error.headers else None
        body = problem(code, details.get(error.status_code, str(error.detail)), error.status_code)
        return _answer(counted(request, body), headers)

    app.add_exception_handler(CrtError, of_ours)
    app.add_exception_handler(ClientDisconnect, of_gone)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(HTTPException, of_framework)
    app.add_exception_handler(Exception, of_ours)
