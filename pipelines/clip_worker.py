"""The processes that decode live pictures and run the small backbone on clips, each with an interpreter of its own.

Threads of one interpreter wait for each other whenever they come back from a library: with 70 cameras a quarter of two cores
lay idle while clips waited. A process for each core has no one to wait for. The first one loads the libraries and the networks once and
forks the others, which share that memory; then it only waits for them.

Pictures come from outside and are decoded by native code, so a worker is confined (sandbox.py) and has a limited time for each request:
one that crashes or hangs ends, and nothing else does.
Not covered: a bug in the kernel; a worker that was taken over can see and change frames of other streams, which lie in memory that all share.

On standard input, at the start: HEADER, JSON {"spec": ClipSpec, "places": P, "graphs": {name: bytes}}, then the graphs. The descriptors
that are given as arguments are the memory of the frames (places.py) and a socket for each worker. On a socket, in turn:

    to it   P  place (uint32), a JPEG, PNG or WebP: to be decoded into that place
            C  T places (uint32): a clip
    from it R  nothing: ready, once
            D  nothing: decoded; or the clip's feature (float32[F])
            B  why the picture cannot be decoded, UTF-8
            E  what went wrong here, UTF-8

each with HEADER before it; from it with the request's seconds of processor time and of wall clock in it.
"""

import json
import os
import signal
import struct
import sys
import time
import traceback

import numpy as np
from PIL import Image

from models.spec import ClipSpec
from pipelines import sandbox
from pipelines.pictures import BadPicture, decode_picture
from pipelines.places import Places
from pipelines.runtime import OnnxSmall

HEADER = struct.Struct("<cI")
"""Kind, bytes that follow."""
ANSWER = struct.Struct("<cIdd")
"""The same, with seconds of processor time and of wall clock in between."""
PLACE = struct.Struct("<I")
MEMORY = 1 << 30
"""Bytes that a worker may take on top of what it has at the start; the largest picture takes 150 MB."""
SECONDS = 20.0
"""That one request may take."""


def main() -> None:
    """Forks a worker for each socket and waits until all have ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that asks; it hangs up
    Image.init()  # Pillow loads its readers at need, which a worker, shut in as it is, can no longer do
    memory, *sockets = map(int, sys.argv[1:])
    _, length = HEADER.unpack(_read(0, HEADER.size))
    given = json.loads(_read(0, length))
    spec = ClipSpec.from_dict(given["spec"])
    backbone = None
    if given["graphs"]:
        backbone = OnnxSmall({name: _read(0, length) for name, length in given["graphs"].items()}, threads=1)
    places = Places(memory, given["places"], spec.height, spec.width)
    os.close(memory)
    while sockets:
        own = sockets.pop()
        if os.fork() == 0:
            try:
                for other in sockets:
                    os.close(other)
                _Worker(own, spec, places, backbone).work()
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        os.close(own)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


class _Worker:
    """One worker, from its fork on."""

    def __init__(self, socket: int, spec: ClipSpec, places: Places, backbone: OnnxSmall | None) -> None:
        self._socket, self._spec, self._places, self._backbone = socket, spec, places, backbone

    def work(self) -> None:
        """Answers until the other side hangs up."""
        unconfined = sandbox.confine(None, memory=MEMORY, cpu_seconds=None)
        self._say(b"R", json.dumps(unconfined).encode(), 0.0, 0.0)
        while header := _read(self._socket, HEADER.size):
            kind, length = HEADER.unpack(header)
            body = _read(self._socket, length)
            signal.setitimer(signal.ITIMER_REAL, SECONDS)  # its signal ends this process
            began, spent = time.perf_counter(), time.process_time()
            told, answer = self._answer(kind, memoryview(body))
            spent, took = time.process_time() - spent, time.perf_counter() - began
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._say(told, answer, spent, took)
        os._exit(0)

    def _answer(self, kind: bytes, body: memoryview) -> tuple[bytes, bytes]:
        try:
            if kind == b"P":
                (place,) = PLACE.unpack_from(body)
                self._places.pixels(place)[:] = decode_picture(body[PLACE.size :], self._spec)
                return b"D", b""
            assert self._backbone is not None
            frames = [self._places.pixels(place) for (place,) in PLACE.iter_unpack(body)]
            return b"D", self._backbone([frames]).astype(np.float32).tobytes()
        except BadPicture as error:
            return b"B", str(error).encode()
        except Exception:  # told to whoever asked
            return b"E", traceback.format_exc(limit=-8)[-2000:].encode()

    def _say(self, kind: bytes, body: bytes, spent: float, took: float) -> None:
        rest = memoryview(ANSWER.pack(kind, len(body), spent, took) + body)
        try:
            while rest:
                rest = rest[os.write(self._socket, rest) :]
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)  # whoever asked has gone


def _read(fd: int, length: int) -> bytes:
    """So many bytes; none when the other side has hung up."""
    parts = []
    while length:
        try:
            part = os.read(fd, length)
        except ConnectionResetError:
            part = b""
        if not part:
            return b""
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    main()
    sys.exit(0)
