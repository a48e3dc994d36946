"""The processes that decode untrusted video: one parent of workers, and a worker for each video.

The parent of workers loads numpy, OpenCV, decord and PyAV once and then forks a worker for each video, in a few
milliseconds; it reads no video itself. It is a program of its own with an environment of its own, so neither the
service's secrets nor its modules are in it: it imports neither torch nor app.

Covered: wall clock (whoever asked hangs up, and the worker is killed), processor time (of a file), memory, frames, seconds and
pixels of video, open files; what a worker may reach is in sandbox.py. A worker that crashes takes nothing with it.
Not covered: a bug in the kernel; many videos at once, each within its budget: the caller counts those.

Requests come on standard input, a socket: one JSON message with three descriptors: the video (a file that is open for
reading, or, when it comes live, what it comes through), a pipe for what is found, a socket for what becomes of the worker.
On the pipe go messages of one letter, a length and a body:

    I  JSON: {"info": VideoInfo, "unconfined": [what the sandbox could not do]}
    F  time (float64, with the offset), ticks (uint32), index in the video (uint64), pixels (uint8[H, W, 3], at the
       model's size)
    S  JSON: {"summary": VideoSummary, "warnings": [{"code", "detail"}, ...], "last": the latest frame's time}, the end
    E  JSON: {"code": ..., "message": ...}, the end

On the socket the exit status (int32) comes when the worker has ended. When the other side hangs up, it is killed.
"""

import contextlib
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from types import ModuleType
from typing import Any

import av
import cv2
import numpy as np

from models.spec import ClipSpec
from pipelines import sandbox
from pipelines.errors import DecodeMemory, VideoError
from pipelines.live_input import open_input
from pipelines.readers import quiet
from pipelines.reading import Reading, Sample, read_live, read_video
from pipelines.sample import SamplerState, fit
from pipelines.video import Budget

HEADER = struct.Struct("<cI")
FRAME = struct.Struct("<dIQ")
STATUS = struct.Struct("<i")
MAX_JSON = 1 << 16
READY = b"ready"


def main() -> None:
    """Forks a worker for each request until standard input is closed."""
    cv2.setNumThreads(0)
    quiet()
    _load_all(av)
    requests = socket.socket(fileno=os.dup(0))
    ended_read, ended_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(ended_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that asked; it hangs up
    gc.freeze()
    requests.send(READY)
    workers: dict[int, socket.socket] = {}
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    poll.register(ended_read, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == requests.fileno():
                worker = _start(requests)
                if worker is None:
                    return
                pid, status = worker
                workers[pid] = status
                poll.register(status, select.POLLIN)
            elif fd == ended_read:
                os.read(ended_read, 4096)
                _reap(workers, poll)
            else:
                _kill_if_hung_up(fd, workers, poll)


def _load_all(package: ModuleType) -> None:
    """PyAV loads parts of itself at need, which a worker, shut in as it is, can no longer do."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _start(requests: socket.socket) -> tuple[int, socket.socket] | None:
    """Forks a worker for the request that has come; None when no more will come."""
    message, fds, _, _ = socket.recv_fds(requests, MAX_JSON, 3)
    if not message or len(fds) != 3:
        return None
    pid = os.fork()
    if pid == 0:
        try:
            _work(json.loads(message), *fds)
        finally:
            os._exit(1)
    os.close(fds[0])
    os.close(fds[1])
    return pid, socket.socket(fileno=fds[2])


def _reap(workers: dict[int, socket.socket], poll: select.poll) -> None:
    while workers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with workers.pop(pid) as report:
            poll.unregister(report)
            try:
                report.send(STATUS.pack(os.waitstatus_to_exitcode(status)))
            except (BrokenPipeError, ConnectionResetError):
                continue  # whoever asked has gone


def _kill_if_hung_up(fd: int, workers: dict[int, socket.socket], poll: select.poll) -> None:
    for pid, status in workers.items():
        if status.fileno() == fd:
            os.kill(pid, signal.SIGKILL)  # not yet waited for, so the number is still this worker's
            poll.unregister(fd)
            poll.register(fd, 0)
            return


# In the worker


def _work(request: dict[str, Any], video_fd: int, pipe_fd: int, status_fd: int) -> None:
    """Decodes one video and ends the process."""
    sandbox.die_with_parent(signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    said_fd = _low_descriptors(video_fd, pipe_fd)
    live = bool(request["live"])
    output = _Output(1)
    try:
        unconfined = sandbox.confine(
            None if live else 0, memory=request["budget"]["memory"], cpu_seconds=request["cpu_seconds"]
        )
        with contextlib.ExitStack() as stack:
            read: Callable[..., Reading]
            if live:
                source, container = open_input(0)
                read = partial(read_live, source, container)
            else:
                read = partial(read_video, stack.enter_context(open(0, "rb", buffering=0)))
            _decode(request, read, said_fd, output, unconfined)
    except BrokenPipeError:
        os._exit(0)  # whoever asked has gone
    except Exception as error:
        output.json(b"E", _problem(error))
    os._exit(0)


def _problem(error: Exception) -> dict[str, str]:
    if isinstance(error, VideoError):
        return {"code": error.code, "message": str(error)}
    if isinstance(error, MemoryError) or (isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem):
        return {
            "code": DecodeMemory.code,
            "message": "Decoding needs more memory than is granted. Send it scaled down.",
        }
    return {"code": "internal", "message": "".join(traceback.format_exception(error, limit=-8))[-2000:]}


def _low_descriptors(video_fd: int, pipe_fd: int) -> int:
    """Leaves open 0, the video; 1, the pipe; 2, what decoders say; and 3, returned, to read that. Nothing else."""
    said_read, said_write = os.pipe2(os.O_NONBLOCK)
    wanted = (video_fd, pipe_fd, said_write, said_read)
    high = [_above(fd) for fd in wanted]
    for low, fd in enumerate(high):
        os.dup2(fd, low)
    os.closerange(len(wanted), os.sysconf("SC_OPEN_MAX"))
    return 3


def _above(fd: int) -> int:
    """The same file under a number that no low descriptor needs."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD, 16)


def _decode(
    request: dict[str, Any], read: Callable[..., Reading], said_fd: int, output: "_Output", unconfined: list[str]
) -> None:
    spec = ClipSpec.from_dict(request["spec"])
    reading = read(
        rate=request["rate"], budget=Budget(**request["budget"]), offset=request["offset"],
        sampler=SamplerState(**request["sampler"]), threads=request["threads"], said_fd=said_fd,
    )  # fmt: skip
    output.json(b"I", {"info": asdict(reading.info), "unconfined": unconfined})
    for sample in reading:
        output.frame(sample, fit(sample.pixels, spec))
    warnings = [asdict(warning) for warning in reading.warnings]
    output.json(b"S", {"summary": asdict(reading.summary), "warnings": warnings, "last": reading.sampler.last})


class _Output:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def json(self, kind: bytes, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self._write(HEADER.pack(kind, len(body)) + body)

    def frame(self, sample: Sample, pixels: np.ndarray) -> None:
        meta = FRAME.pack(sample.time, sample.ticks, sample.index)
        self._write(HEADER.pack(b"F", FRAME.size + pixels.nbytes) + meta)
        self._write(pixels.data.cast("B"))

    def _write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]


if __name__ == "__main__":
    main()
    sys.exit(0)
