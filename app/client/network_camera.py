"""A camera on the network: RTSP (RFC 2326), or MPEG-TS and multipart motion JPEG by HTTP. Comes back by itself when it was away."""

import contextlib
import logging
import os
import re
import ssl
import time
from collections.abc import Iterator

import av

from app.client.errors import BadSource
from app.client.sources import Encoded, Encoding, Scaling, upright

log = logging.getLogger(__name__)
ADDRESS = re.compile(r"(rtsps?|https?)://\S+", re.I)
PAUSES = (1.0, 30.0)
"""Shortest and longest wait before it is tried again, in seconds."""
_SILENCE = 10.0
"""Seconds without a picture, or without an answer, after which the connection is taken for dead."""
_KEY_FRAMES = 30.0
"""Seconds that the first picture may take: between two key frames, of which a decoder needs one, some cameras leave as much."""
_FORMATS = "rtsp,sdp,rtp,mpegts,mpjpeg"
_PROTOCOLS = "rtp,udp,tcp,tls,http,https,httpproxy"
"""A playlist in place of a picture would make FFmpeg read whatever it names, this machine's files too."""
_HIDDEN = re.compile(r"(?<=[?&/;])((?:pass|pwd|user|login|account|token|key|auth)[^=&/;]*=)[^&/;]*", re.I)
"""Names and passwords outside the place that an address has for them."""


class NetworkCamera(Scaling):
    """A camera by its address, in seconds since 1970. What the address has of a name and a password is told the camera alone.

    Of rtsps:// and https:// the certificate is checked, against $SSL_CERT_FILE where that is given.
    """

    live = True
    again = False

    def __init__(self, address: str, encoding: Encoding | None = None) -> None:
        """Raises BadSource if it does not answer now: later it may go and come as it likes."""
        self._address, self._encoding = address, encoding or Encoding()
        self.name = shown(address)
        """For messages: the address without name and password."""
        rest = address.partition("//")[2]
        authority = re.split("[/?#]", rest, maxsplit=1)[0]
        if "@" in rest and "@" not in authority and not re.fullmatch(r"(\[.*\]|[^:\[\]]+)(:[0-9]+)?", authority):
            raise BadSource(
                f"camera {self.name}: in a name or password all but letters, digits and -._~ is written as % and two digits: / as %2F, @ as %40"
            )
        self._clock = _Clock()
        self._first: av.container.InputContainer | None = self._open()

    def _open(self) -> av.container.InputContainer:
        options = {"protocol_whitelist": _PROTOCOLS, "format_whitelist": _FORMATS}
        scheme = self._address.partition(":")[0].lower()
        if scheme.startswith("rtsp"):
            options["rtsp_transport"] = "tcp"  # pictures that lost a packet on their way by UDP are torn
        if scheme in ("rtsps", "https"):
            options["tls_verify"] = "1"
            if authorities := os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile:
                options["ca_file"] = authorities
        self._clock.begins()
        try:
            # A camera's name for itself need not be UTF-8.
            camera = av.open(self._address, options=options, timeout=_SILENCE, metadata_errors="replace")
        except (av.FFmpegError, OSError, ValueError) as error:
            match error:
                case av.error.ExitError():
                    why = "it does not answer"
                case av.error.ArgumentError() | av.error.InvalidDataError():  # not of _FORMATS, or nothing at all
                    why = "what it gives is none of RTSP, MPEG-TS and multipart motion JPEG"
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
        number, pause, said = first, PAUSES[0], ""
        while True:
            try:
                camera, self._first = self._first or self._open(), None
                # Motion JPEG has no times: FFmpeg makes some up.
                timed = camera.format.name != "mpjpeg"
                with contextlib.closing(camera):
                    for frame in _pictures(camera):
                        seconds = self._clock.of(frame.time if timed else None)
                        if seconds is not None:
                            yield number, seconds, self._encoding.encode(upright(frame))
                            number += 1
                            pause, said = PAUSES[0], ""
                why = f"camera {self.name} gives no more pictures"
            except BadSource as error:
                why = str(error)
            except av.error.ExitError:  # nothing came for too long
                why = f"camera {self.name} gives no more pictures"
            except av.FFmpegError as error:
                why = f"camera {self.name} breaks off: {_reason(error)}"
            if why != said:
                log.warning("%s; it is tried again", why)
                said = why
            time.sleep(pause)
            pause = min(2 * pause, PAUSES[1])


def _pictures(camera: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    """All that can be decoded; a damaged packet costs its pictures. Ends with the stream, or when only sound or rubbish comes."""
    video, until = camera.streams.video[0], time.monotonic() + _KEY_FRAMES
    for packet in camera.demux():  # of all streams, so that a video that stops is noticed
        if time.monotonic() > until:
            return
        if packet.stream is not video:
            continue
        try:
            frames = video.decode(packet)
        except av.error.EOFError:
            return
        except av.FFmpegError:
            continue
        for frame in frames:
            yield frame
            until = time.monotonic() + _SILENCE


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
        self._latest = self._began = self._own = 0.0

    def begins(self) -> None:
        """A connection does, with times of its own: its first picture is of now, whenever it can be read."""
        self._shift, self._began = None, self._offset + time.monotonic()

    def of(self, own: float | None) -> float | None:
        """When a picture was taken that has come now; None for one that is not later than the one before."""
        now = self._offset + time.monotonic()
        at = now
        if own is not None:
            since = own - self._own
            if self._shift is None:
                self._shift, since = self._began - own, 0.0
            behind, self._own = now - (own + self._shift), own
            if 0 <= behind < self._FAR:
                at = now - behind
                self._shift += behind * min(1.0, max(0.0, since) / self._CALM)
            else:
                self._shift = now - own
        if at <= self._latest:
            return None
        self._latest = at
        return at


def shown(address: str) -> str:
    """An address, or what was meant as one, without name and password."""
    scheme, there, rest = address.partition("//")
    return _HIDDEN.sub(r"\1***", f"{scheme}{there}{rest.rpartition('@')[2]}" if there else address.rpartition("@")[2])


def _reason(error: Exception) -> str:
    """Without the address, which FFmpeg's messages end with."""
    return str(getattr(error, "strerror", None) or type(error).__name__).rstrip(".")
