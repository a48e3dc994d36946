"""One encoded picture to pixels: what a camera sends frame by frame.

Size and kind are read from the header first, by Pillow, so that no small file makes a huge picture; then OpenCV decodes.
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
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadPicture("The frame is no JPEG, PNG or WebP picture.") from error
    if width * height > MOST_PIXELS:
        raise BadPicture(f"The picture has {width} x {height} pixels; at most {MOST_PIXELS:,} are accepted.")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise BadPicture(f"The picture cannot be decoded: {error.err}") from error
    if pixels is None:
        raise BadPicture("The picture is damaged.")
    return fit(np.asarray(pixels, np.uint8), spec)
