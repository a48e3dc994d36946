"""Where a client's frames come from: a video file, a folder of pictures, a webcam, or whatever gives frames (a camera on the network:
network_camera.py).

A frame is (number, capture time in seconds, encoded picture). A file and a folder give the same ones every time, so that a
client that was itself started anew goes on where the stream stands.
"""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from app.client.errors import BadSource

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
Encoded = tuple[int, float, bytes]
Size = tuple[int, int]
"""Width and height."""
_QUALITY = 90
_MOST_ERRORS = 100
"""A file that gives errors this often in a row has nothing more to give."""
_ANEW_AFTER = 5
"""So many frames in a row more than a second too early are a recording that starts its times again; fewer are damage."""


class Source(ABC):
    """Frames in order."""

    live = False
    """Whether frames do not wait: the oldest are dropped when they cannot be sent in time."""
    again = True
    """Whether the same frames can be read again."""
    total: int | None = None
    """Frames, if that is known."""

    @abstractmethod
    def frames(self, first: int) -> Iterable[Encoded] | AsyncIterable[Encoded]:
        """Those from number `first` on; what is not asynchronous is read in a thread. Raises BadSource."""

    def fit(self, size: Size) -> None:  # noqa: B027 - most need not scale
        """What the model sees; said before frames are read, for those who scale."""


class Given(Source):
    """Frames from anywhere, once."""

    again = False

    def __init__(self, frames: Iterable[Encoded] | AsyncIterable[Encoded], *, live: bool) -> None:
        self._frames, self.live = frames, live

    def frames(self, first: int) -> Iterable[Encoded] | AsyncIterable[Encoded]:
        return self._frames


@dataclass(slots=True)
class Encoding:
    """How pictures are made smaller before they are sent. The same picture always gives the same bytes."""

    format: str = "jpeg"
    """jpeg, or png, which loses nothing."""
    most: Size | None = None
    """Pictures that do not fit in this are scaled down, keeping their proportions."""
    scale: bool = False
    """Whether to scale down to about what the model sees. Proportions are kept and no side gets smaller than the model's, as the
    service crops or stretches to its own."""
    model: Size | None = None
    """What the model sees, once it is known."""

    @property
    def scales(self) -> bool:
        return self.scale or self.most is not None

    def encode(self, picture: np.ndarray) -> bytes:
        """uint8[H, W, 3], BGR, as JPEG or PNG."""
        height, width = picture.shape[:2]
        factor = 1.0
        if self.most is not None:
            factor = min(factor, self.most[0] / width, self.most[1] / height)
        if self.scale and self.model is not None:
            factor = min(factor, max(self.model[0] / width, self.model[1] / height))
        if factor < 1.0:
            size = max(1, round(width * factor)), max(1, round(height * factor))
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        if self.format == "png":
            done, data = cv2.imencode(".png", picture, (cv2.IMWRITE_PNG_COMPRESSION, 1))
        else:
            done, data = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
        assert done
        return data.tobytes()


class Scaling(Source):
    """Whose pictures are encoded here, and may be made smaller."""

    _encoding: Encoding

    def fit(self, size: Size) -> None:
        self._encoding.model = size


class VideoFile(Scaling):
    """All frames of a video at their presentation times, from the first one on, upright. What cannot be decoded is left out."""

    def __init__(self, path: Path, encoding: Encoding | None = None) -> None:
        """Raises BadSource."""
        self.path, self._encoding = path, encoding or Encoding()
        with self._open() as file:
            self.total = self._stream(file).frames or None

    def _open(self) -> av.container.InputContainer:
        try:
            return av.open(str(self.path))
        except (av.FFmpegError, OSError, ValueError) as error:
            why = str(getattr(error, "strerror", None) or error).rstrip(".")
            raise BadSource(f"{self.path} cannot be read as a video: {why}") from error

    def _stream(self, file: av.container.InputContainer) -> av.VideoStream:
        streams = [s for s in file.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams or not streams[0].codec_context:
            raise BadSource(f"{self.path} has no video in it")
        best = file.streams.best("video")
        return best if best in streams else streams[0]

    def frames(self, first: int) -> Iterator[Encoded]:
        number = early = 0
        shift = latest = None
        with self._open() as file:
            stream = self._stream(file)
            stream.thread_type = "AUTO"
            rate = stream.average_rate or stream.guessed_rate
            usual = 1 / float(rate) if rate else 1 / 25
            for frame in self._decoded(file, stream):
                time = frame.time
                if time is None:  # no times in the file, as in a raw stream
                    time = 0.0 if latest is None else latest + usual - shift
                if shift is None:
                    shift = -time
                if latest is not None:
                    early = early + 1 if time + shift < latest - 1.0 else 0
                    if early == _ANEW_AFTER:
                        shift = latest + usual - time
                    if time + shift <= latest:  # a repeat, which the service would not look at
                        continue
                latest = time + shift
                if number >= first:
                    yield number, latest, self._encoding.encode(upright(frame))
                number += 1
        if number == 0:
            raise BadSource(f"no frame of {self.path} can be decoded")

    @staticmethod
    def _decoded(file: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
        """All that can be decoded, whatever is damaged."""
        errors = 0
        while errors < _MOST_ERRORS:
            try:
                for packet in file.demux(stream):
                    errors = 0
                    try:
                        frames = stream.decode(packet)
                    except av.error.EOFError:
                        raise
                    except av.FFmpegError:
                        continue
                    yield from frames
                return
            except av.error.EOFError:
                return
            except av.FFmpegError:
                errors += 1


def upright(frame: av.VideoFrame) -> np.ndarray:
    """As it is to be seen, uint8[H, W, 3], BGR."""
    pixels = frame.to_ndarray(format="bgr24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


class Folder(Scaling):
    """The pictures of a folder in the order of their names, so many a second; as they are, if they need not be scaled."""

    def __init__(self, path: Path, encoding: Encoding | None = None, *, fps: float = 25.0) -> None:
        """Raises BadSource."""
        self._encoding, self._fps = encoding or Encoding(), fps
        try:
            files = [f for f in path.iterdir() if f.suffix.lower() in SUFFIXES]
        except OSError as error:
            raise BadSource(f"{path} cannot be read: {error.strerror}") from error
        if not files:
            raise BadSource(f"{path} has no pictures in it; known are {', '.join(SUFFIXES)}")
        self._files = sorted(files, key=lambda f: (_natural(f.name), f.name))
        self.total = len(files)

    def frames(self, first: int) -> Iterator[Encoded]:
        for number, file in enumerate(self._files[first:], first):
            try:
                data = file.read_bytes()
            except OSError as error:
                raise BadSource(f"{file} cannot be read: {error.strerror}") from error
            if self._encoding.scales and data:
                picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
                # What cannot be decoded here is for the service to complain of, without harm to the others.
                data = data if picture is None else self._encoding.encode(np.asarray(picture, np.uint8))
            yield number, number / self._fps, data


class Camera(Scaling):
    """A webcam by its number, in seconds since 1970."""

    live = True
    again = False

    def __init__(self, index: int, encoding: Encoding | None = None, *, fps: float | None = None) -> None:
        """fps is asked of the camera, which may know better. Raises BadSource."""
        self._index, self._encoding = index, encoding or Encoding()
        self._camera = cv2.VideoCapture(index)
        if not self._camera.isOpened():
            raise BadSource(f"camera {index} cannot be opened")
        if fps is not None:
            self._camera.set(cv2.CAP_PROP_FPS, fps)

    def frames(self, first: int) -> Iterator[Encoded]:
        # A clock that is set back on the way would make all frames too late until it has caught up.
        offset = time.time() - time.monotonic()
        number = first
        try:
            while True:
                there, picture = self._camera.read()
                if not there:
                    raise BadSource(f"camera {self._index} gives no more pictures")
                yield number, offset + time.monotonic(), self._encoding.encode(picture)
                number += 1
        finally:
            self._camera.release()


def _natural(name: str) -> list[tuple[int, str]]:
    """frame9 before frame10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]
