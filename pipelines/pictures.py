"""One encoded picture to pixels: what a camera sends frame by frame.

Size and kind are read from the header first, by Pillow, so that no small file makes a huge picture; then OpenCV decodes. A JPEG
larger than the model wants is decoded at a half, a quarter or an eighth of its size, which leaves out most of the work:
its coefficients are those of blocks of 8 x 8 pixels, and the low ones are a smaller picture (ISO/IEC 10918-1, libjpeg's scale_denom).
An undamaged JPEG that need not be turned, as cameras send them, goes another way to the same pixels: by simplejpeg, a sixth faster.
"""

import io

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from models.errors import CrtError
from models.spec import ClipSpec
from pipelines.frames import Pixels
from pipelines.sample import fit

KINDS = ("JPEG", "PNG", "WEBP")
_REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
"""OpenCV has names for these in grey and in BGR only."""
_EXIF = b"Exif\0\0"
_ORIENTATION = 0x0112
MOST_PIXELS = 8192 * 4352
"""Width times height."""


class BadPicture(CrtError):  # noqa: N818 - named after what is wrong
    """The bytes are no picture of a kind that can be decoded, or too large a one."""

    code = "frame_undecodable"


def decode_picture(data: bytes | memoryview, spec: ClipSpec) -> Pixels:
    """A JPEG, PNG or WebP as the model wants it: uint8[spec.height, spec.width, 3], RGB, upright. Raises BadPicture."""
    if (plain := _plain_jpeg(bytes(data), spec)) is not None:
        return fit(plain, spec)
    try:
        with Image.open(io.BytesIO(data), formats=KINDS) as header:
            width, height = header.size
            divisor = _divisor(*_upright(header), spec) if header.format == "JPEG" else 1
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadPicture("The frame is no JPEG, PNG or WebP picture.") from error
    _check_size(width, height)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[divisor])
    except cv2.error as error:
        raise BadPicture(f"The picture cannot be decoded: {error.err}") from error
    if pixels is None:
        raise BadPicture("The picture is damaged.")
    return fit(np.asarray(pixels, np.uint8), spec)


def _plain_jpeg(data: bytes, spec: ClipSpec) -> Pixels | None:
    """None for all but a JPEG without a fault, that is RGB or grey and stands upright."""
    if not data.startswith(b"\xff\xd8\xff") or _EXIF in data:
        return None
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height)
        by = _divisor(width, height, spec)
        # The smallest size that is no less than these sides is this one.
        return simplejpeg.decode_jpeg(data, min_height=-(-height // by), min_width=-(-width // by))
    except ValueError:
        return None


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise BadPicture(f"The picture has {width} x {height} pixels; at most {MOST_PIXELS:,} are accepted.")


def _upright(header: Image.Image) -> tuple[int, int]:
    """Width and height as a JPEG is to be seen."""
    width, height = header.size
    lies = "exif" in header.info and header.getexif().get(_ORIENTATION, 1) >= 5
    return (height, width) if lies else (width, height)


def _divisor(width: int, height: int, spec: ClipSpec) -> int:
    """By how much a JPEG may be reduced and still be no smaller than the model wants."""
    return max(by for by in _REDUCED if by == 1 or (width >= by * spec.width and height >= by * spec.height))
