"""One encoded picture to pixels: what a camera sends frame by frame.

Size and kind are read from the header first, by Pillow, so that no small file makes a huge picture; then OpenCV decodes. A JPEG
larger than the model wants is decoded at a half, a quarter or an eighth of its size, which leaves out most of the work:
its coefficients are those of blocks of 8 x 8 pixels, and the low ones are a smaller picture (ISO/IEC 10918-1, libjpeg's scale_denom).
"""

import io

import cv2
import numpy as np
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
_ORIENTATION = 0x0112
MOST_PIXELS = 8192 * 4352
"""Width times height."""


class BadPicture(CrtError):  # noqa: N818 - named after what is wrong
    """The bytes are no picture of a kind that can be decoded, or too large a one."""

    code = "frame_undecodable"


def decode_picture(data: bytes | memoryview, spec: ClipSpec) -> Pixels:
    """A JPEG, PNG or WebP as the model wants it: uint8[spec.height, spec.width, 3], RGB, upright. Raises BadPicture."""
    try:
        with Image.open(io.BytesIO(data), formats=KINDS) as header:
            width, height = header.size
            divisor = _divisor(header, spec)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadPicture("The frame is no JPEG, PNG or WebP picture.") from error
    if width * height > MOST_PIXELS:
        raise BadPicture(f"The picture has {width} x {height} pixels; at most {MOST_PIXELS:,} are accepted.")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[divisor])
    except cv2.error as error:
        raise BadPicture(f"The picture cannot be decoded: {error.err}") from error
    if pixels is None:
        raise BadPicture("The picture is damaged.")
    return fit(np.asarray(pixels, np.uint8), spec)


def _divisor(header: Image.Image, spec: ClipSpec) -> int:
    """By how much a JPEG may be reduced and still be no smaller than the model wants, turned upright; 1 for other kinds."""
    if header.format != "JPEG":
        return 1
    width, height = header.size
    if "exif" in header.info and header.getexif().get(_ORIENTATION, 1) >= 5:  # lies on its side
        width, height = height, width
    return max(by for by in _REDUCED if by == 1 or (width >= by * spec.width and height >= by * spec.height))
