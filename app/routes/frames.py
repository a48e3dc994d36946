"""WS /v1/streams/{id}/frames: frames as they are taken, labels as they are known. The protocol is in docs/protocol.md."""

import contextlib

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import ValidationError
from starlette.datastructures import QueryParams

from app.connections import BadParameter, Connection, Query, VideoConnection
from app.problems import Busy, answer
from app.protocol import FRAMES, VIDEO
from app.streams import check_id

router = APIRouter()


@router.websocket("/v1/streams/{id}/frames")
async def frames(socket: WebSocket, id: str) -> None:
    """Frames in, labels out."""
    with contextlib.ExitStack() as place:
        try:
            place.enter_context(socket.state.capacity.admit())
        except Busy as error:
            socket.state.metrics.refused.labels(error.code).inc()
            socket.state.metrics.errors.labels(error.code).inc()
            await socket.send_denial_response(answer(error))
            return
        with socket.state.streams.guest():
            await _serve(socket, id)


async def _serve(socket: WebSocket, id: str) -> None:
    offered = socket.scope["subprotocols"]
    spoken = next((one for one in offered if one in (FRAMES, VIDEO)), None)
    await socket.accept(spoken)
    connection = VideoConnection(socket) if spoken == VIDEO else Connection(socket)
    try:
        if offered and spoken is None:
            raise BadParameter(f"the subprotocols {', '.join(offered)} are unknown; offer {FRAMES} or {VIDEO}")
        try:
            check_id(id)
        except ValueError as error:
            raise BadParameter(str(error)) from error
        await connection.run(id, _query(socket.query_params))
    except WebSocketDisconnect:
        pass  # the client has gone; what is durable stays, and it may come back
    except Exception as error:
        await connection.end_with(error)


def _query(parameters: QueryParams) -> Query:
    try:
        return Query.model_validate(dict(parameters))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadParameter(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
