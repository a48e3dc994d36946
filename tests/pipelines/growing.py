"""A video that goes on: `python -m tests.pipelines.growing part.mp4 matroska 360 '{"live": "1"}'` writes it to its output."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import av


def growing(part: Path, suffix: str, turns: int, options: dict[str, str]) -> Iterator[bytes]:
    """The bytes of a video in which the packets of `part` come over and over, a chunk a turn."""

    class Sink:
        def __init__(self) -> None:
            self.data = bytearray()

        def write(self, data: bytes) -> int:
            self.data += bytes(data)
            return len(data)

    sink = Sink()
    with av.open(str(part)) as one:
        packets = [(bytes(p), p.pts, p.is_keyframe) for p in one.demux(video=0) if p.dts is not None]
        template = one.streams.video[0]
        length = round(template.duration)
        with av.open(sink, "w", format=suffix, options=options) as output:
            stream = output.add_stream_from_template(template)
            for turn in range(turns):
                for data, pts, key in packets:
                    packet = av.Packet(data)
                    packet.stream, packet.time_base, packet.is_keyframe = stream, template.time_base, key
                    packet.pts = packet.dts = pts + turn * length
                    output.mux(packet)
                yield bytes(sink.data)
                sink.data.clear()
        yield bytes(sink.data)


if __name__ == "__main__":
    for data in growing(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])):
        sys.stdout.buffer.write(data)
