"""POST /v1/streams/{id}/features: for cameras that run the backbone themselves, so that no picture leaves them, only 1 KB a clip.

The backbone for them is what pipelines.export writes. A request holds whole segments and counts as a whole or not at all; by the
number of its first clip, one that is sent again changes nothing.
"""

import json
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from app import schemas
from app.batching import Batches
from app.problems import UnsupportedUpload, documented
from app.protocol import Options
from app.routes.streams import StreamId
from app.settings import Settings
from app.streams import StreamGap, Streams
from app.uploads import body_of
from models.errors import CrtError
from pipelines.label import describe_segment
from pipelines.streaming import Segment, Step, Stream, StreamState

router = APIRouter()
MOST_CLIPS = 1024
"""In a request."""
_BODY = {
    "requestBody": {
        "required": True,
        "description": "float32, little-endian: the features of one clip after the other.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class BadFeatures(CrtError):  # noqa: N818 - named after what is wrong
    """The body is no features of this model."""

    code = "features_bad"


@router.post(
    "/v1/streams/{id}/features",
    response_model=schemas.FeaturesAnswer,
    responses=documented(
        "request", "parameter", "upload", "features", "session_unknown", "session_expired", "stream", "model_changed", "store",
        "service_moves", "internal",
    ),
    openapi_extra=_BODY,
    summary="Label features that were made elsewhere",
)  # fmt: skip
async def label_features(
    request: Request,
    id: StreamId,
    clip: Annotated[int, Query(ge=0, description="Number of the first clip: how many the stream has had before.")],
    end: Annotated[bool, Query(description="The stream ends; only then the last segment may be shorter.")] = False,
    top_k: Annotated[int | None, Query(ge=1, le=1000, description="Labels to give; default: the stream's.")] = None,
) -> Response:
    """The labels of their segments, in the light of all before. What the stream had already is passed over."""
    settings: Settings = request.state.settings
    streams: Streams = request.state.streams
    batches: Batches = request.state.batches
    recognizer = streams.recognizer
    if (kind := request.headers.get("content-type", "")).partition(";")[0].strip() != "application/octet-stream":
        raise UnsupportedUpload(
            f"The Content-Type is {kind or 'none'}. Send float32 numbers as application/octet-stream."
        )
    width = recognizer.spec.feature_width
    body = await body_of(
        request, most=4 * width * MOST_CLIPS, patience=settings.upload_idle_seconds, rate=settings.upload_rate
    )
    features_NF = _checked(body, width, recognizer.segment, end=end)

    answer = await label(streams, batches, id, features_NF, clip, end=end, top_k=top_k)
    return Response(json.dumps(answer), media_type="application/json")  # schemas.FeaturesAnswer


async def label(
    streams: Streams,
    batches: Batches,
    id: str,
    features_NF: np.ndarray,
    clip: int,
    *,
    end: bool = False,
    top_k: int | None = None,
) -> dict[str, Any]:
    """Features float32[N, F], the first of them that of clip number `clip`, in the light of all before.

    Raises BadFeatures, StreamGap, and what Streams.revise raises.
    """
    recognizer = streams.recognizer

    async def work(stream: Stream, options: Options, passed: list[StreamState]) -> dict[str, Any]:
        before = stream.state()
        had = _had(id, stream, clip, features_NF, recognizer.segment, end=end)
        steps = _again(before, clip)
        for first in range(had - clip, len(features_NF), recognizer.segment):
            if (segment := stream.give(features_NF[first : first + recognizer.segment])) is not None:
                steps.append(await advance(stream, segment, passed))
        if end:
            if (segment := stream.rest()) is not None:
                steps.append(await advance(stream, segment, passed))
            if stream.close():
                steps[-1:] = [stream.state().recent[-1]]  # with the event that ended
        return _answer(id, stream.state(), steps, recognizer.labels, top_k or options.top_k)

    async def advance(stream: Stream, segment: Segment, passed: list[StreamState]) -> Step:
        scores_C, scores_LC, memory_M = await batches.advance(
            segment.features_LF, segment.memory_M, segment.mask_L, at_once=True
        )
        if not (np.isfinite(scores_LC).all() and np.isfinite(memory_M).all()):
            # Kept, it would spoil all that comes after.
            raise BadFeatures(
                f"The features of segment {segment.index} are so large that the model gives no numbers for them."
            )
        step = stream.advance(segment, scores_C, scores_LC, memory_M)
        passed.append(stream.state())
        return step

    return await streams.revise(id, work)


def _checked(body: bytes, width: int, segment: int, *, end: bool) -> np.ndarray:
    """float32[N, F]. Raises BadFeatures."""
    if len(body) % (4 * width) or not (body or end):
        raise BadFeatures(f"{len(body)} bytes are no features: each has {width} float32 numbers, {4 * width} bytes.")
    features_NF = np.frombuffer(body, "<f4").reshape(-1, width)
    if not np.isfinite(features_NF).all():
        raise BadFeatures("Some of the numbers are not finite.")
    if len(features_NF) % segment and not end:
        raise BadFeatures(
            f"{len(features_NF)} features are no whole segments of {segment}. Send whole ones; the stream's last, with end=true, may be shorter."
        )
    return features_NF


def _had(id: str, stream: Stream, clip: int, features_NF: np.ndarray, segment: int, *, end: bool) -> int:
    """How many clips the stream has had. Raises StreamGap where the request does not go on from there."""
    state = stream.state()
    had, rest = state.clips, clip + len(features_NF) - state.clips
    if state.open:
        raise StreamGap(
            f"stream {id!r} has video of which a part is not labelled yet; end that with POST /v1/streams/{id}/clips?end=true."
        )
    if clip > had or (rest > 0 and rest % segment and not end):
        raise StreamGap(
            f"stream {id!r} has had {had} clips, and this request goes on from {clip}. Send again with clip={had}."
        )
    return min(had, clip + len(features_NF))


def _again(state: StreamState, clip: int) -> list[Step]:
    """The steps from this clip on that the stream has had already and still knows."""
    first, found = state.clips, []
    for step in reversed(state.recent):
        first -= step.result.clips
        if first < clip:
            break
        found.append(step)
    return found[::-1]


def _answer(id: str, state: StreamState, steps: list[Step], labels: tuple[str, ...], top_k: int) -> dict[str, Any]:
    """A schemas.FeaturesAnswer as JSON values; by hand, since checking it takes as long as all else together."""
    return {
        "stream": id, "clip": state.clips, "segment": state.segments, "position": state.position,
        "segments": [describe_segment(step.result, labels, top_k) for step in steps],
        "events": [
            {
                "state": change.state, "segment": step.result.index, "label": change.event.label, "start": round(change.event.start, 6),
                "end": round(change.event.end, 6), "confidence": round(change.event.confidence, 6),
            }
            for step in steps for change in step.events
        ],
    }  # fmt: skip
