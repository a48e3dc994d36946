"""The asking side of decode_worker.py: starts the parent of workers, follows each worker from its fork to its end."""

import atexit
import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from pipelines.errors import DecoderDied, DecoderUnavailable, DecodeTimeout
from pipelines.messages import Request

_ROOT = Path(__file__).resolve().parent.parent
_START_SECONDS = 120.0
_PIPE_BYTES = 1 << 20
_STATUS = struct.Struct("<i")
_HANDED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "VIRTUAL_ENV", "COVERAGE_PROCESS_START")


class Worker:
    """One worker, seen from outside. To be closed, which kills it if it still runs; not to be shared by threads."""

    def __init__(self, pipe: int, status: socket.socket, seconds: float) -> None:
        self._pipe, self._status = pipe, status
        self._left = self._granted = seconds
        self._poll = select.poll()
        self._poll.register(pipe, select.POLLIN)
        self._closed = False

    def read_into(self, buffer: memoryview) -> None:
        """Fills the buffer with what the worker says next.

        Raises DecodeTimeout when the seconds that were granted have been waited, in all; DecoderDied when the worker
        ends before.
        """
        while buffer:
            count = self.read_some(buffer)
            if count is None:
                self._wait()
            elif count == 0:
                raise self.death()
            else:
                buffer = buffer[count:]

    def fileno(self) -> int:
        """Of the pipe, to wait for what the worker says."""
        return self._pipe

    def read_some(self, buffer: memoryview) -> int | None:
        """Puts what the worker has said into the buffer; how many bytes. None when there is nothing yet; 0 at its end."""
        try:
            return os.readv(self._pipe, [buffer])
        except BlockingIOError:
            return None

    def _wait(self) -> None:
        start = time.monotonic()
        if not self._poll.poll(max(0.0, self._left) * 1000):
            raise DecodeTimeout(
                f"Decoding took longer than the {self._granted:g} s that are granted. Send a shorter or smaller video."
            )
        self._left -= time.monotonic() - start

    def death(self) -> DecoderDied | DecodeTimeout:
        """How a worker that says no more has ended. Waits for that, a few milliseconds."""
        status = self._end(10.0)
        if status is not None and -status == signal.SIGXCPU:
            return DecodeTimeout("Decoding took more processor time than is granted. Send a shorter or smaller video.")
        if status is None:
            how = "vanished"
        elif status < 0:
            how = f"was ended by {signal.Signals(-status).name}"
        else:
            how = f"ended with status {status}"
        return DecoderDied(f"The process that decoded this video {how}. The video may be made to break decoders.")

    def _end(self, seconds: float) -> int | None:
        """The exit status, waited for; None when the parent of workers has gone, too."""
        self._status.settimeout(seconds)
        try:
            status = self._status.recv(_STATUS.size)
        except (TimeoutError, ConnectionResetError):
            return None
        return int(_STATUS.unpack(status)[0]) if len(status) == _STATUS.size else None

    def __del__(self) -> None:
        self.close()

    def kill(self) -> None:
        """Kills the worker; who waits for it gets DecoderDied. The one method that any thread may call; close is still due."""
        with contextlib.suppress(OSError):  # already gone
            self._status.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Kills the worker if it still runs, and returns when it is gone."""
        if self._closed:
            return
        self._closed = True
        os.close(self._pipe)
        with self._status, contextlib.suppress(OSError):  # already gone
            self._status.shutdown(socket.SHUT_WR)
            self._end(5.0)


class WorkerParent:
    """The process that forks workers. Started at the first need, and again if it was killed. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Starts the process unless it runs; the first video then need not wait. Raises DecoderUnavailable."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                if self._socket is not None:
                    self._socket.close()
                self._start()

    def fork(self, request: Request, video_fd: int) -> Worker:
        """A worker for one video. The video must be open for reading. Raises DecoderUnavailable."""
        message = json.dumps(request.to_dict()).encode()
        for attempt in (1, 2):
            self.start()
            with contextlib.ExitStack() as ours_too, contextlib.ExitStack() as theirs_alone:
                pipe_read, pipe_write = os.pipe2(os.O_CLOEXEC)
                ours_too.callback(os.close, pipe_read)
                theirs_alone.callback(os.close, pipe_write)
                ours, theirs = socket.socketpair()
                ours_too.enter_context(ours)
                theirs_alone.enter_context(theirs)
                with contextlib.suppress(OSError):  # a smaller pipe holds fewer frames, no more
                    fcntl.fcntl(pipe_write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
                os.set_blocking(pipe_read, False)
                try:
                    with self._lock:
                        if self._socket is None:
                            raise BrokenPipeError("the process that decodes video has gone")
                        socket.send_fds(self._socket, [message], [video_fd, pipe_write, theirs.fileno()])
                except (BrokenPipeError, ConnectionResetError) as error:
                    self.stop()
                    if attempt == 2:
                        raise DecoderUnavailable(
                            "The process that decodes video ends as soon as it is started."
                        ) from error
                    continue
                ours_too.pop_all()
                return Worker(pipe_read, ours, request.budget.seconds)
        raise AssertionError("unreachable")

    def forget(self) -> None:
        """In a process that was forked off this one: leaves the parent of workers to its owner, whatever was going on."""
        self._lock = threading.Lock()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.returncode = 0  # not ours to wait for
            self._process = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pipelines.decode_worker"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=environment(),
                cwd=_ROOT,
            )
        ours.settimeout(_START_SECONDS)
        try:
            ready = ours.recv(16)
        except (TimeoutError, ConnectionResetError):
            ready = b""
        if not ready:
            ours.close()
            self._process.kill()
            self._process.wait()
            self._process = None
            raise DecoderUnavailable("The process that decodes video cannot be started; its error output says why.")
        ours.settimeout(None)
        self._socket = ours

    def stop(self) -> None:
        """Ends the process and with it all workers."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            if self._process is not None:
                try:
                    self._process.wait(5.0)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
            self._process = None


def environment() -> dict[str, str]:
    """For a program of ours that works on untrusted input: none of the service's secrets, one thread, memory that is kept."""
    return {name: os.environ[name] for name in _HANDED_ON if name in os.environ} | {
        "PYTHONPATH": os.pathsep.join(path for path in (str(_ROOT), *sys.path) if path),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
        # Without these, a decoder takes each frame's memory from the kernel and gives it back.
        "MALLOC_MMAP_THRESHOLD_": str(64 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    }


workers = WorkerParent()
"""One for this process."""

atexit.register(workers.stop)
os.register_at_fork(after_in_child=workers.forget)
