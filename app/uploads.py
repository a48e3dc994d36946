"""A request's body to a file on disk, as it comes in: memory stays flat whatever the upload's size.

Two kinds of body: `multipart/form-data` with the field `video`, and the video itself (`video/*` or `application/octet-stream`).
The file has no name in its folder, so nothing of it stays, even when the service is killed.
"""

import asyncio
import errno
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import python_multipart as multipart
from anyio import to_thread
from fastapi import Request
from python_multipart.exceptions import FormParserError

from app.problems import NoSpace, UnsupportedUpload, UploadMalformed, UploadMissing, UploadStalled, UploadTooLarge

FIELD = "video"
_BLOCK = 1 << 20
_FORM_EXTRA = 1 << 16
"""Bytes that a form may have around the video."""
_MOST_PARTS = 100
_MOST_HEADER_BYTES = 1 << 14


@asynccontextmanager
async def received(
    request: Request, *, most: int, folder: Path, patience: float, rate: float = 0.0
) -> AsyncIterator[Path]:
    """The upload as a file in `folder`, while the block lasts.

    Raises UploadTooLarge beyond `most` bytes; UploadStalled after `patience` seconds without any and, after that time, for
    less than `rate` bytes a second on average; NoSpace when the disk is full; UploadMissing, UploadMalformed or
    UnsupportedUpload; starlette's ClientDisconnect when the client goes away.
    """
    kind, options = multipart.multipart.parse_options_header(request.headers.get("content-type"))
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most + (_FORM_EXTRA if kind == b"multipart/form-data" else 0):
        raise _too_large(most)
    if kind != b"multipart/form-data" and not kind.startswith(b"video/") and kind != b"application/octet-stream":
        told = kind.decode("latin-1") or "none"
        raise UnsupportedUpload(
            f"The Content-Type is {told}. Send multipart/form-data with a file in the field `{FIELD}` "
            "(curl -F video=@kitchen.mp4 ...), or the video itself as video/mp4 or application/octet-stream."
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        writer = _Writer(file, most)
        chunks = _chunks(request, patience, rate)
        try:
            if kind == b"multipart/form-data":
                await _form(chunks, options.get(b"boundary"), writer)
            else:
                await _raw(chunks, writer)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise NoSpace("There is no room left for uploads on the service's disk. Try again later.") from error
        yield Path(f"/dev/fd/{file.fileno()}")


async def body_of(request: Request, *, most: int, patience: float, rate: float = 0.0) -> bytes:
    """A body that is small enough for memory. Raises UploadTooLarge beyond `most` bytes, UploadStalled as received() does."""
    body = bytearray()
    async for chunk in _chunks(request, patience, rate):
        body += chunk
        if len(body) > most:
            raise UploadTooLarge(
                f"The body is larger than this service takes at once ({most} bytes). Send less at a time."
            )
    return bytes(body)


async def _chunks(request: Request, patience: float, rate: float) -> AsyncIterator[bytes]:
    stream = request.stream()
    began, size = time.monotonic(), 0
    while True:
        try:
            async with asyncio.timeout(patience):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            raise UploadStalled(f"No byte of the upload has come for {patience:g} s. Send it again.") from error
        if chunk is None:
            return
        size += len(chunk)
        seconds = time.monotonic() - began
        if seconds > patience and size < rate * seconds:
            raise UploadStalled(
                f"The upload comes at {size / seconds:.0f} bytes a second; at least {rate:g} are needed. Send it over a faster line."
            )
        yield chunk


def _too_large(most: int) -> UploadTooLarge:
    return UploadTooLarge(
        f"The upload is larger than this service takes ({most} bytes). Send a shorter or smaller video."
    )


class _Writer:
    """Writes blocks to a file in another thread, so that a slow disk holds up nobody else."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self.file, self.most, self.size = file, most, 0
        self._waiting = bytearray()

    def take(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > self.most:
            raise _too_large(self.most)
        self._waiting += data

    async def flush(self, *, all_: bool = False) -> None:
        if len(self._waiting) >= _BLOCK or all_:
            data, self._waiting = self._waiting, bytearray()
            await to_thread.run_sync(self.file.write, data)
        if all_:
            await to_thread.run_sync(self.file.flush)


async def _raw(chunks: AsyncIterator[bytes], writer: _Writer) -> None:
    async for chunk in chunks:
        writer.take(chunk)
        await writer.flush()
    await writer.flush(all_=True)
    if writer.size == 0:
        raise UploadMissing("The body is empty. Send the video's bytes.")


class _FormReader:
    """The parser's callbacks: the one file in the field `video` goes to the writer, other fields are passed over."""

    def __init__(self, writer: _Writer) -> None:
        self.writer = writer
        self.found = 0
        self.others: list[str] = []
        self.ended = False
        self._parts = self._header_bytes = 0
        self._name, self._value = bytearray(), bytearray()
        self._wanted = False

    def on_part_begin(self) -> None:
        self._wanted = False
        self._header_bytes = 0
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise UploadMalformed(f"The form has more than {_MOST_PARTS} fields. Send the field `{FIELD}` alone.")

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _MOST_HEADER_BYTES:
            raise UploadMalformed(f"The headers of a field have more than {_MOST_HEADER_BYTES} bytes.")

    def on_header_end(self) -> None:
        if bytes(self._name).lower() == b"content-disposition":
            _, options = multipart.multipart.parse_options_header(bytes(self._value))
            field = options.get(b"name", b"").decode("utf-8", "replace")
            self._wanted = field == FIELD
            if self._wanted:
                self.found += 1
                if self.found > 1:
                    raise UploadMalformed(f"The form has more than one `{FIELD}`. Send one video a request.")
            else:
                self.others.append(field)
        self._name, self._value = bytearray(), bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted:
            self.writer.take(data[start:end])

    def on_end(self) -> None:
        self.ended = True


async def _form(chunks: AsyncIterator[bytes], boundary: bytes | None, writer: _Writer) -> None:
    if not boundary:
        raise UploadMalformed(
            "The Content-Type multipart/form-data has no boundary. Let your client set the header itself."
        )
    reader = _FormReader(writer)
    received = 0
    try:
        parser = multipart.MultipartParser(
            boundary,
            {
                "on_part_begin": reader.on_part_begin, "on_header_field": reader.on_header_field,
                "on_header_value": reader.on_header_value, "on_header_end": reader.on_header_end,
                "on_part_data": reader.on_part_data, "on_end": reader.on_end,
            },
        )  # fmt: skip
        async for chunk in chunks:
            received += len(chunk)
            # Other fields count as well, or a form of them alone would have no end.
            if received > writer.most + _FORM_EXTRA:
                raise _too_large(writer.most)
            parser.write(chunk)
            await writer.flush()
        parser.finalize()
    except FormParserError as error:
        raise UploadMalformed(f"The multipart body cannot be taken apart: {error}") from error
    await writer.flush(all_=True)
    if reader.found == 0:
        there = f"; it has {', '.join(map(repr, reader.others))}" if reader.others else ""
        raise UploadMissing(
            f"The form has no field `{FIELD}`{there}. Send the file in it: curl -F {FIELD}=@kitchen.mp4 ..."
        )
    if not reader.ended:
        raise UploadMalformed("The multipart body breaks off before its last boundary. Send it again.")
    if writer.size == 0:
        raise UploadMissing(f"The field `{FIELD}` is empty. Send a file in it.")
