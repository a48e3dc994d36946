"""`python -m app.client SOURCE --stream ID`: streams a video file, a folder of pictures, a webcam or a camera on the network, and shows what is seen.

Comes back by itself after any break. Ctrl-C leaves the stream as it is; the same command goes on with it.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live

from app.client.bookkeeping import Message
from app.client.client import StreamClient
from app.client.errors import BadKeyFile
from app.client.opening import open_source
from app.client.sources import Encoding, Size, Source
from app.client.tokens import Token
from app.client.view import Timeline, line
from models.errors import CrtError

SERVER = "http://127.0.0.1:8000"


async def stream(client: StreamClient, source: Source, *, as_json: bool) -> None:
    """Until the stream ends."""
    if as_json:
        await _show(client, source, lambda message: print(json.dumps(message), flush=True))
    elif not sys.stdout.isatty():
        await _show(client, source, _print_line)
    else:
        timeline = Timeline(client, source.total)
        with Live(timeline, console=Console(), refresh_per_second=8):
            await _show(client, source, timeline.take)


def _print_line(message: Message) -> None:
    if (text := line(message)) is not None:
        print(text, flush=True)


async def _show(client: StreamClient, source: Source, show: Callable[[Message], None]) -> None:
    async with client:
        async for message in client.messages(source):
            show(message)


async def _until_a_signal(client: StreamClient, source: Source, *, as_json: bool) -> int | None:
    """The signal that ended it early: without `end`, so that the stream can go on."""
    task, caught = asyncio.current_task(), list[int]()
    assert task is not None

    def leave(number: int) -> None:
        caught.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows; there Ctrl-C comes as KeyboardInterrupt
            asyncio.get_running_loop().add_signal_handler(number, leave, number)
    try:
        await stream(client, source, as_json=as_json)
    except asyncio.CancelledError:
        if not caught:
            raise
    return caught[0] if caught else None


def main() -> int:
    """Exit status 0 at the stream's end, 1 if it cannot go on, 2 for a wrong argument, 128 and the signal's number after one."""
    args = _parser().parse_args()
    servers = args.server or [os.environ.get("CRT_SERVER", SERVER)]
    encoding = Encoding(format=args.format, most=args.most, scale=args.scale)
    client = None
    try:
        with Token(args.stream) as token:
            source = open_source(args.source, encoding, fps=args.fps)
            client = StreamClient(
                servers, args.stream, client=args.client or token.value, takeover=args.takeover, end=not args.keep_open,
                realtime=args.realtime, patience=args.patience, key=_key(args.key_file), top_k=args.top_k, checkpoints=args.checkpoints,
                policy=args.policy or ("live" if source.live else None),
            )  # fmt: skip
            stopped = asyncio.run(_until_a_signal(client, source, as_json=args.json))
    except CrtError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our lines has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        stopped = signal.SIGINT
    if stopped is None:
        return 0
    if client is not None:
        print(
            f"left; frames before {client.acked} are durable, and the same command goes on from there", file=sys.stderr
        )
    return 128 + stopped


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app.client", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source",
        help="a video file, a folder of pictures, a webcam's number, a camera's address (rtsp://, http://), "
        "or - for the address in $CRT_CAMERA, where no list of processes shows its password",
    )
    parser.add_argument("--stream", required=True, help="the stream's id; made if it does not exist")
    parser.add_argument(
        "--server", action="append", help=f"address of a service; several that share a store may be given (default: $CRT_SERVER or {SERVER})"
    )  # fmt: skip
    parser.add_argument("--top-k", type=int, help="labels in each answer")
    parser.add_argument("--policy", choices=("complete", "live"), help="default: live for a camera, else complete")
    parser.add_argument("--checkpoints", type=int, help="states that are kept for going back")
    parser.add_argument(
        "--client", help="this client's token (default: one that is kept for this stream on this machine)"
    )
    parser.add_argument(
        "--key-file",
        help="file with the key for a service that asks for one, in its first line (default: the key in $CRT_CLIENT_KEY)",
    )
    parser.add_argument("--takeover", action="store_true", help="go on in place of whoever writes to the stream")
    parser.add_argument("--keep-open", action="store_true", help="leave the stream open at the source's end")
    parser.add_argument("--realtime", action="store_true", help="send no frame of a file or folder before its time")
    parser.add_argument("--fps", type=_fps, help="of a folder's pictures (default: 25); asked of a webcam")
    parser.add_argument("--format", choices=("jpeg", "png"), default="jpeg", help="png is lossless (default: jpeg)")
    parser.add_argument(
        "--scale", action="store_true", help="scale pictures down to about what the model sees before sending"
    )
    parser.add_argument("--most", type=_size, metavar="WxH", help="or so that they fit in this size")
    parser.add_argument(
        "--patience", type=float, help="seconds without a service after which to give up (default: never)"
    )
    parser.add_argument("--json", action="store_true", help="print every message as a line of JSON")
    return parser


def _key(file: str | None) -> str | None:
    """A file's first line: the service's own file of keys has more while one is replaced. Raises BadKeyFile."""
    if file is None:
        return os.environ.get("CRT_CLIENT_KEY", "").strip() or None
    try:
        lines = [line.strip() for line in Path(file).read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadKeyFile(
            f"{file}: the key cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'})"
        ) from error
    if not lines:
        raise BadKeyFile(f"{file}: there is no key in it")
    return lines[0]


def _size(text: str) -> Size:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give WIDTHxHEIGHT, as 640x480")
    return int(width), int(height)


def _fps(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0.001 <= float(text) <= 1000:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no rate: give frames a second, 0.001 to 1000")


if __name__ == "__main__":
    sys.exit(main())
