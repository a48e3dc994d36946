"""Where a client's frames come from: a video file, a folder of pictures, a webcam.

Each gives (number, capture time in seconds, encoded picture). A file and a folder give the same ones every time, so that a
client that was itself started anew goes on where the stream stands.
"""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np

from models.errors import CrtError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
Encoded = tuple[int, float, bytes]


class BadSource(CrtError):  # noqa: N818 - named after what is wrong
    """No frames can be had from there."""

    code = "source_bad"


class Source(ABC):
    """Frames in order."""

    live = False
    """Whether frames are lost that nobody takes in time."""
    total: int | None = None
    """Frames, if that is known."""

    @abstractmethod
    def frames(self, first: int) -> Iterator[Encoded]:
        """Those from number `first` on. Raises BadSource."""


class VideoFile(Source):
    """All frames of a video at their presentation times, from the first one on, as JPEG or PNG."""

    def __init__(self, path: Path, *, format: str = "jpeg", most: tuple[int, int] | None = None) -> None:
        """most: width and height that pictures are scaled down to; None sends them as they are."""
        self.path, self._format, self._most = path, format, most
        try:
            with av.open(str(path)) as file:
                if not file.streams.video:
                    raise BadSource(f"{path} has no video in it")
                self.total = file.streams.video[0].frames or None
        except (av.FFmpegError, OSError) as error:
            raise BadSource(f"{path} cannot be read as a video: {error.strerror}") from error

    def frames(self, first: int) -> Iterator[Encoded]:
        began: float | None = None
        latest = -1.0
        with av.open(str(self.path)) as file:
            stream = file.streams.video[0]
            stream.thread_type = "AUTO"
            number = 0
            try:
                for frame in file.decode(stream):
                    if frame.time is None:
                        continue
                    began = frame.time if began is None else began
                    if (seconds := frame.time - began) <= latest:
                        continue
                    latest = seconds
                    if number >= first:
                        yield number, seconds, encode(frame.to_ndarray(format="bgr24"), self._format, self._most)
                    number += 1
            except av.FFmpegError as error:
                if number == 0:
                    raise BadSource(f"no frame of {self.path} can be decoded: {error.strerror}") from error
                return  # what came before stands


class Folder(Source):
    """The pictures of a folder in the order of their names, so many a second, as they are."""

    def __init__(self, path: Path, *, fps: float = 25.0) -> None:
        self._fps = fps
        self._files = sorted(
            (f for f in path.iterdir() if f.suffix.lower() in SUFFIXES), key=lambda f: _natural(f.name)
        )
        if not self._files:
            raise BadSource(f"{path} has no pictures in it; known are {', '.join(SUFFIXES)}")
        self.total = len(self._files)

    def frames(self, first: int) -> Iterator[Encoded]:
        for number, file in enumerate(self._files[first:], first):
            yield number, number / self._fps, file.read_bytes()


class Camera(Source):
    """A webcam by its number, at the time of day."""

    live = True

    def __init__(self, index: int, *, format: str = "jpeg", most: tuple[int, int] | None = None) -> None:
        self._format, self._most = format, most
        self._camera = cv2.VideoCapture(index)
        if not self._camera.isOpened():
            raise BadSource(f"camera {index} cannot be opened")

    def frames(self, first: int) -> Iterator[Encoded]:
        number = first
        while True:
            there, picture = self._camera.read()
            if not there:
                return
            yield number, time.time(), encode(picture, self._format, self._most)
            number += 1


def open_source(name: str, *, fps: float = 25.0, format: str = "jpeg", most: tuple[int, int] | None = None) -> Source:
    """A webcam for a number, else a folder or a file. Raises BadSource."""
    path = Path(name)
    if path.is_dir():
        return Folder(path, fps=fps)
    if path.exists():
        return VideoFile(path, format=format, most=most)
    if name.isdigit():
        return Camera(int(name), format=format, most=most)
    raise BadSource(f"there is no {name}: give a video file, a folder of pictures, or a camera's number")


def encode(picture: np.ndarray, format: str, most: tuple[int, int] | None) -> bytes:
    """A picture uint8[H, W, 3], BGR, as JPEG or PNG, made smaller where it is larger than `most` (width, height)."""
    if most is not None:
        height, width = picture.shape[:2]
        small = min(width, most[0]), min(height, most[1])
        if small != (width, height):
            picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    if format == "png":
        done, data = cv2.imencode(".png", picture, (cv2.IMWRITE_PNG_COMPRESSION, 1))
    else:
        done, data = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, 90))
    assert done
    return data.tobytes()


def _natural(name: str) -> list[tuple[int, str]]:
    """frame9 before frame10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
