"""What a demuxer reads in place of a file when video comes live: bytes as they arrive, once. Runs in the worker.

read() is called from within C, so it raises nothing: no bytes mean an end, and check_ended() tells whether a good one.
"""

import io
import os
import struct

from pipelines import containers
from pipelines.containers import Container
from pipelines.errors import CorruptVideo, UnsupportedVideo, VideoError

FRAMELESS_BYTES = 64 << 20
"""Without a frame in so many bytes none is to be expected. A transport stream that was entered half way has its first
picture within seconds."""
MOST_MOOV_BYTES = 1 << 20
MOST_MOOF_BYTES = 4 << 20
RENEW_BYTES = 1 << 18
"""Of fragments' headers, after which the demuxer is renewed: about 2,000 frames if each is a fragment, else more."""

_BEFORE_MOOV = {b"ftyp", b"styp", b"free", b"skip", b"wide", b"uuid", b"pdin", b"sidx", b"emsg", b"prft"}
_AFTER_MOOV = _BEFORE_MOOV | {b"moov", b"mdat", b"mfra", b"ssix", b"meta"}
_TO_THE_END = 1 << 62


def open_input(fd: int) -> tuple["LiveInput", Container]:
    """What comes out of a pipe or socket, and its container, as soon as enough has come to tell.

    Raises what containers.sniff_live does, and UnsupportedVideo or CorruptVideo for an MP4 that cannot be read live.
    """
    source = LiveInput(fd)
    container = source.sniff()
    return (FragmentedInput(fd, source.head) if container.name == "mp4" else source), container


class LiveInput:
    """The bytes as they are."""

    def __init__(self, fd: int, head: bytes = b"") -> None:
        """head: what has been read of them already."""
        self._fd = fd
        self.head = head
        """Read, but not yet given on."""
        self.rotation = 0
        """As VideoInfo.rotation."""
        self._frameless = 0
        self._ended = False
        self.error: VideoError | None = None
        """Why reading has ended too soon."""

    def sniff(self) -> Container:
        """Waits for as many bytes as it takes to tell."""
        while True:
            container = containers.sniff_live(self.head, whole=self._ended)
            if container is not None:
                return container
            self.head += self._receive(containers.HEAD - len(self.head))

    def read(self, count: int) -> bytes:
        """At most so many bytes, as soon as there are some; none at an end."""
        if self.error is not None:
            return b""
        if self.head:
            data, self.head = self.head[:count], self.head[count:]
            return data
        if self._frameless > FRAMELESS_BYTES:
            self.error = CorruptVideo(f"No frame can be decoded from {FRAMELESS_BYTES >> 20} MiB in a row.")
            return b""
        return self._receive(count)

    def decoded(self) -> None:
        """To be called with each frame: the next may take FRAMELESS_BYTES again."""
        self._frameless = 0

    def renew(self) -> bool:
        """Of a demuxer that has come to an end: whether it was its own only, and a new one goes on from here."""
        return False

    def check_ended(self) -> None:
        """To be called when all demuxers are done. Raises CorruptVideo when the bytes are not."""
        if self.error is not None:
            raise self.error
        if not self._ended:
            raise CorruptVideo("The video is so damaged that what comes next cannot be found.")

    def _receive(self, count: int) -> bytes:
        data = os.read(self._fd, count)
        self._frameless += len(data)
        self._ended = not data
        return data


class FragmentedInput(LiveInput):
    """A fragmented MP4, box by box, so that a demuxer can be given an end between two fragments.

    FFmpeg's keeps a note of each frame that it has seen, up to 200 bytes, so days of video would fill the memory.
    After RENEW_BYTES a new one is given the beginning (moov) once more, and goes on.
    """

    def __init__(self, fd: int, head: bytes) -> None:
        """Waits for the beginning."""
        super().__init__(fd, head)
        self._at = 0  # bytes of all that has come
        self._left = 0  # of the box that is being read
        self._headers = 0
        self._held = b""
        self._beginning = self._until_moov()
        self._begin(b"")

    def _begin(self, moof: bytes) -> None:
        """A demuxer will be given the beginning and then this."""
        self._moved = self._at - len(moof) - len(self._beginning)
        self._due = self._beginning + containers.moved(moof, self._moved)
        self._headers = 0

    def read(self, count: int) -> bytes:
        """As above, but also none before a fragment that is for the next demuxer."""
        if not self._due and not self._left and not self._held:
            self._next_box()
        if self._due:
            data, self._due = self._due[:count], self._due[count:]
            return data
        return self._inside(count) if self._left and not self._held else b""

    def renew(self) -> bool:
        """As above."""
        if not self._held:
            return False
        self._begin(self._held)
        self._held = b""
        return True

    def _next_box(self) -> None:
        """Sets what of the next box is due at once: a fragment's header as a whole, of others the box's header."""
        name, self._left, header = self._header()
        if name == b"moof" and self._left <= MOST_MOOF_BYTES:
            body = self._exactly(self._left)
            if len(body) < self._left:  # the end; without its header a fragment is nothing
                body = header = b""
            self._left = 0
            self._headers += len(body)
            if self._headers > RENEW_BYTES:
                self._held = header + body
            else:
                self._due = containers.moved(header + body, self._moved)
        elif name in _AFTER_MOOV:
            self._due = header
        elif name:
            self._left = 0
            self.error = CorruptVideo("The video is damaged: where a part of an MP4 should begin there is none.")

    def _until_moov(self) -> bytes:
        """The beginning: ftyp, if there is one, and moov."""
        kept = b""
        while True:
            name, self._left, header = self._header()
            if name == b"moof":
                raise CorruptVideo("This MP4's beginning (ftyp, moov) is missing. Send it first, then the fragments.")
            if name == b"mdat" or (name == b"moov" and self._left > MOST_MOOV_BYTES):
                raise _not_fragmented()
            if name not in (*_BEFORE_MOOV, b"moov"):
                raise CorruptVideo("This MP4 has no beginning (moov) that could be read.")
            wanted = name in (b"ftyp", b"moov")
            body = bytearray()
            while self._left and (data := self._inside(1 << 16)):
                if wanted:
                    body += data
                if len(body) > MOST_MOOV_BYTES:
                    raise CorruptVideo("This MP4's beginning is larger than any should be.")
            if self._left:
                raise CorruptVideo("This MP4 ends before its beginning (moov) is complete.")
            kept += header + body if wanted else b""
            if name == b"moov":
                break
        beginning = io.BytesIO(kept)
        if not containers.is_fragmented(beginning):
            raise _not_fragmented()
        self.rotation = containers.rotation(beginning)
        return kept

    def _inside(self, count: int) -> bytes:
        data = super().read(min(count, self._left))
        self._left -= len(data)
        self._at += len(data)
        return data

    def _header(self) -> tuple[bytes, int, bytes]:
        """The next box: its name, its contents' size, and its header as it came. An empty name at the end."""
        header = self._exactly(8)
        if len(header) < 8:
            return b"", 0, b""
        size, name = struct.unpack(">I4s", header)
        if size == 1:
            long = self._exactly(8)
            if len(long) < 8:
                return b"", 0, b""
            header += long
            (size,) = struct.unpack(">Q", long)
        elif size == 0:
            size = _TO_THE_END
        if size < len(header):
            return b"none", 0, header
        return name, size - len(header), header

    def _exactly(self, count: int) -> bytes:
        """Fewer only at the end."""
        found = b""
        while len(found) < count and (data := super().read(count - len(found))):
            found += data
        self._at += len(found)
        return found


def _not_fragmented() -> UnsupportedVideo:
    return UnsupportedVideo(
        f"This MP4 is not fragmented, so it cannot be read before it is complete. Send live video as {containers.LIVE}, "
        "or the finished MP4 as a file."
    )
