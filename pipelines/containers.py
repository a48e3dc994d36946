"""Which bytes may reach a decoder at all: an allow-list of containers, by their first bytes, never by name.

A demuxer that guesses may take a text file for a playlist and open what it lists: other files, or addresses. So what
is none of these containers is refused here, and PyAV is told which demuxer to use instead of guessing.
"""

import io
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipelines.errors import EmptyVideo, NotAVideo, NoVideoStream, UnsupportedVideo

HEAD = 1024
"""Bytes that sniff() wants to see."""

ACCEPTED = "MP4, MOV, MKV, WebM, AVI, MPEG-TS, MPEG-PS, FLV, GIF, Ogg, WMV, IVF or raw H.264, HEVC and MPEG video"

LIVE = "fragmented MP4, WebM, Matroska or MPEG-TS"
"""What can be read as it comes, without going back."""
_LIVE = {"mp4", "matroska", "mpegts"}


@dataclass(frozen=True, slots=True)
class Container:
    """A kind of file that is accepted."""

    name: str
    """As VideoInfo.container."""
    demuxer: str
    """FFmpeg's short name."""


_MP4 = Container("mp4", "mov")
_MKV = Container("matroska", "matroska")
_TS = Container("mpegts", "mpegts")
_PREFIXES = {
    b"\x1aE\xdf\xa3": _MKV,
    b"FLV\x01": Container("flv", "flv"),
    b"GIF87a": Container("gif", "gif"),
    b"GIF89a": Container("gif", "gif"),
    b"OggS": Container("ogg", "ogg"),
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": Container("asf", "asf"),
    b"DKIF": Container("ivf", "ivf"),
    b"\x00\x00\x01\xba": Container("mpegps", "mpeg"),
    b"\x00\x00\x01\xb3": Container("mpegvideo", "mpegvideo"),
    b"\x00\x00\x01\xb0": Container("mpeg4", "m4v"),
}
_MP4_BOXES = {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid"}
_PICTURE_BRANDS = {b"avif", b"heic", b"heix", b"mif1", b"heim"}
_AUDIO = {
    b"ID3": "MP3",
    b"fLaC": "FLAC",
    b"#!AMR": "AMR",
    b"\xff\xf1": "AAC",
    b"\xff\xf9": "AAC",
    b"\xff\xfb": "MP3",
    b"\xff\xf3": "MP3",
    b"\xff\xf2": "MP3",
}
_OTHERS = {
    b"#EXTM3U": "a playlist (M3U)",
    b"ffconcat": "a playlist (ffconcat)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"\x89PNG": "a picture (PNG)",
    b"BM": "a picture (BMP)",
    b"%PDF": "a document (PDF)",
    b"PK\x03\x04": "an archive (ZIP)",
    b"\x1f\x8b": "an archive (gzip)",
    b"<": "a text (XML or HTML)",
}


def sniff(head: bytes, *, accepted: str = ACCEPTED) -> Container:
    """The container that a file's first bytes (HEAD of them, or all) are of. accepted: what is to be sent instead.

    Raises EmptyVideo, NoVideoStream for audio files, and NotAVideo, which names what was found, for all others.
    """
    if not head:
        raise EmptyVideo("The file is empty. Send the bytes of a video.")
    for prefix, container in _PREFIXES.items():
        if head.startswith(prefix):
            return container
    if head[:4] == b"RIFF":
        return _riff(head[8:12], accepted)
    if head[4:8] in _MP4_BOXES:
        return _mp4(head, accepted)
    if raw := _raw_stream(head):
        return raw
    if _is_transport_stream(head):
        return _TS
    for prefix, name in _AUDIO.items():
        if head.startswith(prefix):
            raise NoVideoStream(f"This is an audio file ({name}), without pictures. Send a video.")
    found = next((name for prefix, name in _OTHERS.items() if head.startswith(prefix)), None)
    raise NotAVideo(f"This is {found or _unknown(head)}, not a video. Send {accepted}.")


def sniff_live(head: bytes, *, whole: bool) -> Container | None:
    """The container of a video that is still coming, by the first bytes (at most HEAD) that have come; None while they
    do not tell. whole: no more will come.

    Raises what sniff() does, and UnsupportedVideo for what cannot be read as it comes.
    """
    if not (whole or len(head) >= HEAD or _tells(head)):
        return None
    container = sniff(head, accepted=LIVE)
    if container.name not in _LIVE:
        raise UnsupportedVideo(f"A {container.name} file cannot be read before it is complete. Send {LIVE}, or a file.")
    return container


def _tells(head: bytes) -> bool:
    """Whether so few bytes are enough. Not for a transport stream, which may begin with anything."""
    long = (prefix for known in (_PREFIXES, _AUDIO, _OTHERS) for prefix in known if len(prefix) >= 4)
    return len(head) >= 16 and (head.startswith((*long, b"RIFF")) or head[4:8] in _MP4_BOXES)


def _riff(kind: bytes, accepted: str) -> Container:
    if kind in (b"AVI ", b"AVIX"):
        return Container("avi", "avi")
    if kind == b"WAVE":
        raise NoVideoStream("This is an audio file (WAV), without pictures. Send a video.")
    name = "a picture (WebP)" if kind == b"WEBP" else f"a RIFF file of kind {kind!r}"
    raise NotAVideo(f"This is {name}, not a video. Send {accepted}.")


def _mp4(head: bytes, accepted: str) -> Container:
    if head[4:8] == b"ftyp" and head[8:12] in _PICTURE_BRANDS:
        raise NotAVideo(f"This is a picture (HEIF or AVIF), not a video. Send {accepted}.")
    return _MP4


def _raw_stream(head: bytes) -> Container | None:
    """Annex B: a start code, then a parameter set or an access unit delimiter."""
    start = 4 if head.startswith(b"\0\0\0\1") else 3 if head.startswith(b"\0\0\1") else 0
    if not start or len(head) < start + 2:
        return None
    first, second = head[start], head[start + 1]
    if first in (0x67, 0x47, 0x27, 0x09, 0x06):  # SPS, AUD, SEI
        return Container("h264", "h264")
    if first in (0x40, 0x42, 0x44, 0x46) and second == 1:  # VPS, SPS, PPS, AUD
        return Container("hevc", "hevc")
    return None


def _is_transport_stream(head: bytes) -> bool:
    """Sync bytes at the distance of a packet (188 bytes, M2TS 192, with check bytes 204), four in a row.

    A recording that was cut out of a broadcast may begin within a packet.
    """
    return any(
        all(head[first + size * n : first + size * n + 1] == b"\x47" for n in range(4))
        for size in (188, 192, 204)
        for first in range(size)
    )


def _unknown(head: bytes) -> str:
    if not any(head):
        return "a run of zeros"
    try:
        head[: len(head) - 4].decode("utf-8")  # the last character may be cut
    except UnicodeDecodeError:
        return f"of an unknown kind (it starts with {head[:8].hex(' ')})"
    return "a text" if head[:64].isascii() and head[:64].decode().isprintable() else "of an unknown kind"


def edit_list_cuts(file: BinaryIO) -> bool:
    """Whether an MP4's edit lists do more than start the video at once (ISO 14496-12, 8.6.6).

    True for parts left out, repeated, delayed or slowed down, which decord does not honour; also when the boxes are
    too odd to tell. An edit list of one part that begins with the first picture and ends with the last is usual.
    """
    try:
        size = _size(file)
        for moov in _boxes(file, 0, size, b"moov"):
            scale = next((_timescale(file, box, 0) for box in _boxes(file, *moov, b"mvhd")), 0)
            for trak in _boxes(file, *moov, b"trak"):
                if _is_video(file, trak) and _cuts(file, trak, scale):
                    return True
    except struct.error:
        return True
    return False


def has_index(file: BinaryIO) -> bool:
    """Whether an MP4 has its moov box, or one is announced; without it no frame can be found."""
    try:
        return any(name == b"moov" for name, _, _ in _walk(file, 0, _size(file)))
    except struct.error:
        return False


def is_fragmented(file: BinaryIO) -> bool:
    """Whether an MP4 announces fragments (ISO 14496-12, 8.8): then nothing has to come after them."""
    try:
        return any(_boxes(file, *moov, b"mvex") for moov in _boxes(file, 0, _size(file), b"moov"))
    except struct.error:
        return False


def moved(moof: bytes, by: int) -> bytes:
    """An MP4 fragment's header (moof) that lies `by` bytes nearer to the file's beginning than it did: where it says how
    far from there its data lie (ISO 14496-12, 8.8.7), it says so anew. Unchanged when the boxes are too odd to tell.
    """
    changed = bytearray(moof)
    file = io.BytesIO(moof)
    try:
        for box in _boxes(file, 0, len(moof), b"moof"):
            for traf in _boxes(file, *box, b"traf"):
                for start, _ in _boxes(file, *traf, b"tfhd"):
                    (flags,) = struct.unpack_from(">I", moof, start)
                    if flags & 1:
                        (base,) = struct.unpack_from(">Q", moof, start + 8)
                        struct.pack_into(">Q", changed, start + 8, max(0, base - by))
    except struct.error:
        return moof
    return bytes(changed)


def rotation(file: BinaryIO) -> int:
    """Degrees, counterclockwise, by which an MP4's pictures are turned to stand upright: 0, 90, 180 or 270.

    From the first video track's matrix (ISO 14496-12, 8.3.2); 0 when the boxes are too odd to tell.
    """
    try:
        for moov in _boxes(file, 0, _size(file), b"moov"):
            for trak in _boxes(file, *moov, b"trak"):
                tkhd = _inside(file, trak, b"tkhd")
                if tkhd is None or not _is_video(file, trak):
                    continue
                file.seek(tkhd[0])
                wide = file.read(1) == b"\1"
                file.seek(tkhd[0] + (52 if wide else 40))
                a, b = struct.unpack(">ii", file.read(8))
                return round(math.degrees(math.atan2(-b, a)) / 90) * 90 % 360
    except struct.error:
        return 0
    return 0


def missing_bytes(file: BinaryIO, container: Container) -> int:
    """How many bytes an MP4's or AVI's outermost boxes announce beyond those that there are, or a last TS packet lacks."""
    size = _size(file)
    file.seek(0)
    try:
        if container.name == "avi":
            return max(0, 8 + int(struct.unpack("<4xI", file.read(8))[0]) - size)
        if container.name == "mp4":
            return max((stop for _, _, stop in _walk(file, 0, size)), default=size) - size
        if container is _TS:
            return -size % 188 if file.read(1) == b"G" else 0
    except struct.error:
        return 0
    return 0


Span = tuple[int, int]


def _size(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


def _walk(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes that begin between start and end: name, where the contents begin, where they say that they end."""
    while start + 8 <= end:
        file.seek(start)
        size, name = struct.unpack(">I4s", file.read(8))
        body = start + 8
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
            body += 8
        stop = end if size == 0 else start + size
        if stop < body:
            return
        yield name, body, stop
        start = stop


def _boxes(file: BinaryIO, start: int, end: int, kind: bytes) -> list[Span]:
    """Where the contents of the boxes of this kind lie between start and end."""
    return [(body, min(stop, end)) for name, body, stop in _walk(file, start, end) if name == kind]


def _timescale(file: BinaryIO, box: Span, field: int) -> int:
    """The timescale (field 0) or the duration (field 1) in an mvhd or mdhd."""
    file.seek(box[0])
    version = file.read(4)[:1]
    layout, skip = (">IQ", 16) if version == b"\1" else (">II", 8)
    file.seek(skip, os.SEEK_CUR)
    return int(struct.unpack(layout, file.read(struct.calcsize(layout)))[field])


def _inside(file: BinaryIO, span: Span, *kinds: bytes) -> Span | None:
    for kind in kinds:
        found = _boxes(file, *span, kind)
        if not found:
            return None
        span = found[0]
    return span


def _is_video(file: BinaryIO, trak: Span) -> bool:
    handler = _inside(file, trak, b"mdia", b"hdlr")
    if handler is None:
        return False
    file.seek(handler[0] + 8)
    return file.read(4) == b"vide"


def _cuts(file: BinaryIO, trak: Span, movie_scale: int) -> bool:
    elst, mdhd = _inside(file, trak, b"edts", b"elst"), _inside(file, trak, b"mdia", b"mdhd")
    if elst is None or mdhd is None:
        return False
    file.seek(elst[0])
    version, count = struct.unpack(">B3xI", file.read(8))
    if count == 0:
        return False
    if count > 1:
        return True
    layout = ">QqI" if version == 1 else ">IiI"
    duration, media_time, rate = struct.unpack(layout, file.read(struct.calcsize(layout)))
    if media_time < 0 or rate != 1 << 16:
        return True
    scale, media_duration = _timescale(file, mdhd, 0), _timescale(file, mdhd, 1)
    if media_time > _first_offset(file, trak):
        return True
    if duration == 0 or not (scale and movie_scale):
        return False
    left_out = (media_duration - media_time) / scale - duration / movie_scale
    return left_out > 0.05


def _first_offset(file: BinaryIO, trak: Span) -> int:
    """By how much the first picture's presentation comes after its decoding: media time 0 is its decoding."""
    ctts = _inside(file, trak, b"mdia", b"minf", b"stbl", b"ctts")
    if ctts is None:
        return 0
    file.seek(ctts[0] + 8)
    return int(struct.unpack(">4xI", file.read(8))[0])
