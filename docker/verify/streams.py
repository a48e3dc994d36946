"""Cameras for verify.sh: streams through the proxy by the product's own client, and what each was told.

    python docker/verify/streams.py SERVER OUT --frames N [--live] [--name PREFIX] [--same-as REFERENCE]

Each camera has pictures of its own: the example video, over and over, begun elsewhere. Without --live they are sent as fast as credit
allows, with it none before its time. OUT gets all final segments and events of each, how often it connected, how long its longest silence
was. With --same-as it exits with 1 unless all of that was told before, in OUT of an undisturbed run, and no frame was lost.
"""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from app.client import StreamClient, VideoFile

ROOT = Path(__file__).parents[2]
FPS = 25.0


@dataclass
class Told:
    """What one camera was told."""

    segments: list[Any] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    dropped: int = 0
    lost: int = 0
    durable: int = 0
    connections: int = 0
    breaks: list[str] = field(default_factory=list)
    silence: float = 0.0
    """Longest time between two final segments, in seconds."""
    latencies: list[float] = field(default_factory=list)


async def camera(server: str, stream: str, key: str | None, pictures: list[bytes], frames: int, *, live: bool) -> Told:
    told, last = Told(), time.monotonic()
    given = ((i, i / FPS, picture) for i, picture in enumerate(islice(cycle(pictures), frames)))
    # Complete: the camera keeps what cannot be sent yet, here for as long as the run may last.
    client = StreamClient(
        server, stream, key=key, realtime=live, policy="complete", patience=120, buffer_frames=frames + 1, buffer_bytes=1 << 40
    )  # fmt: skip
    async with client:
        async for message in client.messages(given):
            match message["type"]:
                case "segment" if message["final"]:
                    told.segments.append([message[name] for name in ("index", "start", "end", "labels", "missing")])
                    if message["latency"] is not None:
                        told.latencies.append(message["latency"])
                    told.silence, last = max(told.silence, time.monotonic() - last), time.monotonic()
                case "event":
                    told.events.append(
                        [message[name] for name in ("segment", "state", "label", "start", "end", "confidence")]
                    )
                case "dropped":
                    told.dropped += message["frames"]
                case "disconnected":
                    told.breaks.append(message["detail"])
    told.lost, told.durable, told.connections = client.lost, client.acked, client.connections
    return told


async def run(args: argparse.Namespace) -> dict[str, Told]:
    pictures = [data for _, _, data in VideoFile(ROOT / "examples/kitchen.mp4").frames(0)]
    key = args.key_file.read_text().strip().splitlines()[0] if args.key_file else None
    began = [i * len(pictures) // args.cameras for i in range(args.cameras)]
    told = await asyncio.gather(
        *(
            camera(
                args.server, f"{args.name}-{i}", key, pictures[first:] + pictures[:first], args.frames, live=args.live
            )
            for i, first in enumerate(began)
        )
    )
    return {str(i): one for i, one in enumerate(told)}


def differences(told: dict[str, Told], reference: dict[str, Any], frames: int) -> list[str]:
    """What is not as in the undisturbed run, in words."""
    found = []
    for name, one in told.items():
        was = reference[name]
        found += [f"camera {name}: {one.lost} frames lost"] if one.lost else []
        found += [f"camera {name}: {one.dropped} frames dropped"] if one.dropped else []
        found += [f"camera {name}: {one.durable} of {frames} frames are durable"] if one.durable != frames else []
        found += [f"camera {name}: other segments"] if json.loads(json.dumps(one.segments)) != was["segments"] else []
        found += [f"camera {name}: other events"] if json.loads(json.dumps(one.events)) != was["events"] else []
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("out", type=Path)
    parser.add_argument("--cameras", type=int, default=16)
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--name", default="camera")
    parser.add_argument("--key-file", type=Path)
    parser.add_argument("--same-as", type=Path)
    args = parser.parse_args()
    began = time.monotonic()
    told = asyncio.run(run(args))
    took = time.monotonic() - began
    args.out.write_text(json.dumps({name: asdict(one) for name, one in told.items()}))
    latencies = sorted(x for one in told.values() for x in one.latencies)
    print(
        f"{len(told)} cameras, {len(told) * args.frames:,} frames in {took:.1f} s; {sum(len(one.segments) for one in told.values()):,} segments, "
        f"{sum(len(one.events) for one in told.values()):,} events; {sum(one.connections for one in told.values()) - len(told)} reconnections, "
        f"longest silence {max(one.silence for one in told.values()):.1f} s, label latency p50 {latencies[len(latencies) // 2] * 1e3:.0f} ms, "
        f"p95 {latencies[int(0.95 * (len(latencies) - 1))] * 1e3:.0f} ms"
    )
    for why in sorted({text for one in told.values() for text in one.breaks}):
        print(f"  a connection ended: {why}")
    if args.same_as is None:
        return 0
    wrong = differences(told, json.loads(args.same_as.read_text()), args.frames)
    print("\n".join(wrong) if wrong else "  labels, events and frames are those of the undisturbed run")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
