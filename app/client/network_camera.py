"""A camera on the network: RTSP (RFC 2326), or MPEG-TS and motion JPEG by HTTP. Comes back by itself when it was away."""

import contextlib
import logging
import re
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import av

from app.client.errors import BadSource
from app.client.sources import Encoded, Encoding, Scaling, upright

log = logging.getLogger(__name__)
ADDRESS = re.compile(r"(rtsps?|https?)://\S+", re.I)
PAUSES = (1.0, 30.0)
"""Shortest and longest wait before it is tried again, in seconds."""
_SILENCE = 10.0
"""Seconds without a picture, or without an answer, after which the connection is taken for dead."""
_FORMATS = "rtsp,sdp,rtp,mpegts,mpjpeg,mjpeg"
_PROTOCOLS = "rtp,udp,tcp,tls,http,https,httpproxy"
"""A playlist in place of a picture would make FFmpeg read whatever it names, this machine's files too."""


class NetworkCamera(Scaling):
    """A camera by its address, in seconds since 1970. A password in the address is told nobody else."""

    live = True
    again = False

    def __init__(self, address: str, encoding: Encoding | None = None) -> None:
        """Raises BadSource if it does not answer now: later it may go and come as it likes."""
        self._address, self._encoding = address, encoding or Encoding()
        self.name = shown(address)
        self._first: av.container.InputContainer | None = self._open()

    def _open(self) -> av.container.InputContainer:
        options = {"protocol_whitelist": _PROTOCOLS, "format_whitelist": _FORMATS}
        if self._address.lower().startswith("rtsp"):
            options["rtsp_transport"] = "tcp"  # pictures that lost a packet on their way by UDP are torn
        try:
            camera = av.open(self._address, options=options, timeout=_SILENCE)
        except (av.FFmpegError, OSError, ValueError) as error:
            match error:
                case av.error.ExitError():
                    why = "it does not answer"
                case av.error.ArgumentError() | av.error.InvalidDataError():  # not of _FORMATS, or nothing at all
                    why = "what it gives is none of RTSP, MPEG-TS and motion JPEG"
                case _:
                    why = _reason(error)
            raise BadSource(
                f"camera {self.name} cannot be opened: {why}"
            ) from None  # its cause would tell the password
        if not camera.streams.video:
            camera.close()
            raise BadSource(f"camera {self.name} gives no video")
        return camera

    def frames(self, first: int) -> Iterator[Encoded]:
        clock, number, pause, said = _Clock(), first, PAUSES[0], ""
        while True:
            try:
                camera, self._first = self._first or self._open(), None
                clock.begins()
                # Motion JPEG has no times: FFmpeg makes some up.
                timed = camera.format.name != "mpjpeg"
                with contextlib.closing(camera):
                    for frame in camera.decode(camera.streams.video[0]):
                        seconds = clock.of(frame.time if timed else None)
                        if seconds is not None:
                            yield number, seconds, self._encoding.encode(upright(frame))
                            number += 1
                            pause, said = PAUSES[0], ""
                why = f"camera {self.name} has ended its stream"
            except BadSource as error:
                why = str(error)
            except av.FFmpegError as error:
                silent = isinstance(error, av.error.ExitError)
                why = f"camera {self.name} {'has fallen silent' if silent else f'breaks off: {_reason(error)}'}"
            if why != said:
                log.warning("%s; it is tried again", why)
                said = why
            time.sleep(pause)
            pause = min(2 * pause, PAUSES[1])


class _Clock:
    """Puts a camera's own times on the time of day: pictures keep their distances although the network gives them in bursts."""

    _FAR = 10.0
    """Seconds: so far behind is no longer the network's delay but a clock that was set."""
    _CALM = 60.0
    """Seconds in which a delay is taken back to a third, for a camera's clock that runs slow."""

    def __init__(self) -> None:
        # A clock that is set back on the way would make all frames too late until it has caught up.
        self._offset = time.time() - time.monotonic()
        self._shift: float | None = None
        self._latest = 0.0

    def begins(self) -> None:
        """A connection does, with times of its own."""
        self._shift = None

    def of(self, own: float | None) -> float | None:
        """When a picture was taken that has come now; None for one that is not later than the one before."""
        now = self._offset + time.monotonic()
        at = now
        if own is not None:
            behind = self._FAR if self._shift is None else now - (own + self._shift)
            if self._shift is None or not 0 <= behind < self._FAR:
                self._shift = now - own
            else:
                at = now - behind
                self._shift += behind * min(1.0, max(0.0, at - self._latest) / self._CALM)
        if at <= self._latest:
            return None
        self._latest = at
        return at


def shown(address: str) -> str:
    """An address without the user and password in it."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _reason(error: Exception) -> str:
    """Without the address, which FFmpeg's messages end with."""
    return str(getattr(error, "strerror", None) or type(error).__name__).rstrip(".")
