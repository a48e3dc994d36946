"""`python -m app.client SOURCE --stream ID`: streams a video file, a folder of pictures or a webcam, and shows what is seen.

Comes back by itself after any break. Ctrl-C leaves the stream as it is; the same command goes on with it.
"""

import argparse
import asyncio
import getpass
import hashlib
import json
import os
import socket
import sys
import time
from collections import deque
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from app.client.client import StreamClient
from app.client.sources import Source, open_source
from models.errors import CrtError

_EVENTS = 12
"""That the timeline shows."""


class View:
    """What is seen now and what was: a progress bar, a line of the present, the last events."""

    def __init__(self, client: StreamClient, source: Source) -> None:
        self._client, self._source = client, source
        self._began = time.monotonic()
        self._now = Text("connecting ...", style="dim")
        self._latency: float | None = None
        self._events: deque[dict[str, Any]] = deque(maxlen=_EVENTS)
        self._dropped = 0
        self._progress = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
        self._task = self._progress.add_task("frames", total=source.total, state="")

    def take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "segment":
                best = message["labels"][0]
                self._now = Text.assemble(
                    f"{message['end']:8.1f} s  ", (best["label"], "bold"), f"  {best['score']:.0%}", ("" if message["final"] else "  so far", "dim")
                )  # fmt: skip
                self._latency = message["latency"] if message["latency"] is not None else self._latency
            case "event":
                if (
                    self._events
                    and self._events[-1]["label"] == message["label"]
                    and self._events[-1]["start"] == message["start"]
                ):
                    self._events[-1] = message
                else:
                    self._events.append(message)
            case "dropped":
                self._dropped += message["frames"]
            case "disconnected":
                self._now = Text(f"no connection: {message['detail']}; trying again ...", style="yellow")
            case "error":
                self._now = Text(message["detail"], style="yellow")

    def __rich__(self) -> Group:
        client, seconds = self._client, time.monotonic() - self._began
        state = f"{client.read} read, {client.acked} durable, {client.read / max(seconds, 1e-9):.0f}/s"
        if self._latency is not None:
            state += f", labels after {self._latency * 1000:.0f} ms"
        if client.connections > 1:
            state += f", {client.connections} connections"
        if lost := self._dropped + client.lost:
            state += f", {lost} frames lost"
        self._progress.update(self._task, completed=client.read, state=state)
        table = Table.grid(padding=(0, 2))
        for event in self._events:
            going = event["state"] != "ended"
            table.add_row(
                f"{event['start']:8.1f} - {event['end']:.1f} s", Text(event["label"], style="bold" if going else ""),
                f"{event['confidence']:.0%}", "..." if going else "",
            )  # fmt: skip
        return Group(self._progress, self._now, table)


def line(message: dict[str, Any]) -> str | None:
    """A message for those who read lines; None for what does not interest them."""
    match message["type"]:
        case "event" if message["state"] != "updated":
            return f"{message['start']:8.1f} - {message['end']:8.1f} s  {message['state']:8} {message['label']:18} {message['confidence']:.1%}"
        case "segment" if message["final"]:
            best = message["labels"][0]
            return f"{message['start']:8.1f} - {message['end']:8.1f} s  {best['label']:18} {best['score']:.1%}"
        case "ready":
            return (
                f"stream {message['stream']}: from frame {message['resume_from']} on, model {message['model']['name']}"
            )
        case "dropped":
            return f"{message['frames']} frames are missing: {message['detail']}"
        case "disconnected":
            return f"no connection to {message['server']}: {message['detail']}; trying again"
        case "error":
            return f"{message['code']}: {message['detail']}"
        case _:
            return None


async def stream(client: StreamClient, source: Source, *, as_json: bool) -> None:
    """Until the stream ends."""
    if as_json or not sys.stdout.isatty():
        async for message in client.messages(source):
            text = json.dumps(message) if as_json else line(message)
            if text is not None:
                print(text, flush=True)
        return
    view = View(client, source)
    with Live(view, refresh_per_second=8):
        async for message in client.messages(source):
            view.take(message)


def own_token(source: str, stream: str) -> str:
    """The same for the same user, source and stream on this machine: who was cut off may come back at once."""
    who = f"{socket.gethostname()} {getpass.getuser()} {os.path.abspath(source)} {stream}"
    return hashlib.sha256(who.encode()).hexdigest()[:16]


def main() -> int:
    """Exit status 0 at the stream's end, 1 if the service refuses it, 2 for a wrong argument, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m app.client", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="a video file, a folder of pictures, or a webcam's number")
    parser.add_argument("--stream", required=True, help="the stream's id; made if it does not exist")
    parser.add_argument(
        "--server", action="append", help="address of a service; several that share a store may be given (default: $CRT_SERVER or http://127.0.0.1:8000)"
    )  # fmt: skip
    parser.add_argument("--top-k", type=int, help="labels in each answer")
    parser.add_argument("--policy", choices=("complete", "live"), help="default: live for a webcam, else complete")
    parser.add_argument("--checkpoints", type=int, help="states that are kept for going back")
    parser.add_argument("--client", help="this client's token (default: made of machine, user, source and stream)")
    parser.add_argument("--takeover", action="store_true", help="go on in place of whoever writes to the stream")
    parser.add_argument("--keep-open", action="store_true", help="leave the stream open at the source's end")
    parser.add_argument("--realtime", action="store_true", help="send no frame of a file or folder before its time")
    parser.add_argument("--fps", type=float, default=25.0, help="of a folder's pictures (default: 25)")
    parser.add_argument("--format", choices=("jpeg", "png"), default="jpeg", help="png is lossless (default: jpeg)")
    parser.add_argument(
        "--most", type=_size, metavar="WxH", help="scale pictures down to at most this size before sending"
    )
    parser.add_argument("--json", action="store_true", help="print every message as a line of JSON")
    args = parser.parse_args()
    servers = args.server or [os.environ.get("CRT_SERVER", "http://127.0.0.1:8000")]
    try:
        source = open_source(args.source, fps=args.fps, format=args.format, most=args.most)
        client = StreamClient(
            servers, args.stream, client=args.client or own_token(args.source, args.stream), takeover=args.takeover,
            end=not args.keep_open, realtime=args.realtime, top_k=args.top_k, checkpoints=args.checkpoints,
            policy=args.policy or ("live" if source.live else None),
        )  # fmt: skip
        asyncio.run(stream(client, source, as_json=args.json))
    except CrtError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give WIDTHxHEIGHT, as 640x480")
    return int(width), int(height)


if __name__ == "__main__":
    sys.exit(main())
