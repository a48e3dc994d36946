"""A camera's pictures: at the model's size, upright, JPEGs decoded no larger than need be, and what is no picture told."""

import io
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from models.small import SPEC
from pipelines import pictures
from pipelines.pictures import BadPicture, decode_picture
from pipelines.sample import fit

SQUARE = replace(SPEC, width=112, height=112, fit="crop")


def scene(width: int, height: int) -> np.ndarray:
    """Soft colours with an edge or two, uint8[height, width, 3]; no quarter of it is like another."""
    x, y = np.linspace(0, 1, width)[None, :], np.linspace(0, 1, height)[:, None]
    planes = [200 * x + 20 * y, 60 + 120 * y * x, 220 - 180 * y + 0 * x]
    pixels = np.stack(planes, axis=-1)
    pixels[height // 4 : height // 2, width // 8 : width // 3] = (240, 240, 20)
    return pixels.astype(np.uint8)


def jpeg(pixels: np.ndarray, *, orientation: int = 1, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92, exif=exif, **options)
    return file.getvalue()


@pytest.fixture
def decoded(monkeypatch):
    """The sizes (width, height) at which OpenCV decodes."""
    sizes = []
    real = cv2.imdecode

    def noting(data, flags):
        pixels = real(data, flags)
        sizes.append(pixels.shape[1::-1])
        return pixels

    monkeypatch.setattr(pictures.cv2, "imdecode", noting)
    return sizes


@pytest.mark.parametrize(
    ("size", "spec", "at"),
    [
        ((640, 480), SPEC, (320, 240)),
        ((1280, 720), SPEC, (640, 360)),
        ((3840, 2160), SPEC, (480, 270)),
        ((641, 481), SPEC, (321, 241)),
        ((639, 480), SPEC, (639, 480)),
        ((320, 240), SPEC, (320, 240)),
        ((160, 120), SPEC, (160, 120)),
        ((480, 640), SPEC, (480, 640)),
        ((640, 480), SQUARE, (160, 120)),
        ((4000, 900), SQUARE, (500, 113)),
    ],
)
def test_a_jpeg_is_decoded_no_larger_than_need_be(decoded, size, spec, at):
    """And looks as if it had been decoded whole."""
    pixels = scene(*size)
    got = decode_picture(jpeg(pixels), spec)
    assert decoded == [at]
    assert got.shape == (spec.height, spec.width, 3)
    off = np.abs(got.astype(int) - fit(pixels, spec))
    assert off.mean() < 2
    assert np.percentile(off, 99) < 16


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_stands_upright(decoded, orientation):
    """Whichever way the camera was held; and lying down it is not reduced too far."""
    turns = {1: 0, 3: 2, 6: 1, 8: 3}
    upright = scene(640, 480)
    stored = np.rot90(upright, turns[orientation]) if orientation in turns else None
    if stored is None:  # mirrored ones: flipped before the turn that belongs to them
        flipped = upright[:, ::-1]
        stored = {2: flipped, 4: np.rot90(flipped, 2), 5: np.rot90(flipped, 1), 7: np.rot90(flipped, 3)}[orientation]
    got = decode_picture(jpeg(np.ascontiguousarray(stored), orientation=orientation), SPEC)
    assert decoded == [(320, 240)]
    assert np.abs(got.astype(int) - fit(upright, SPEC)).mean() < 2


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 2}])
def test_every_usual_jpeg_is_reduced(decoded, options):
    got = decode_picture(jpeg(scene(640, 480), **options), SPEC)
    assert decoded == [(320, 240)]
    assert np.abs(got.astype(int) - fit(scene(640, 480), SPEC)).mean() < 2


@pytest.mark.parametrize("size", [(640, 480), (1281, 721), (639, 480), (160, 120), (480, 640), (4000, 900)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"mode": "L"}])
def test_a_cameras_jpeg_gives_the_same_pixels_without_opencv(decoded, size, options):
    """One without EXIF data; with it, OpenCV decodes."""
    options = dict(options)
    picture = Image.fromarray(scene(*size)).convert(options.pop("mode", "RGB"))
    plain, turned, exif = io.BytesIO(), io.BytesIO(), Image.Exif()
    exif[0x0112] = 1
    picture.save(plain, "JPEG", quality=85, **options)
    picture.save(turned, "JPEG", quality=85, exif=exif, **options)
    for spec in (SPEC, SQUARE):
        decoded.clear()
        got = decode_picture(memoryview(plain.getvalue()), spec)
        assert decoded == []
        assert np.array_equal(got, decode_picture(turned.getvalue(), spec))
        assert len(decoded) == 1


def test_a_cut_jpeg_is_told():
    file = io.BytesIO()
    Image.fromarray(scene(640, 480)).save(file, "JPEG", quality=92)
    with pytest.raises(BadPicture, match="damaged"):
        decode_picture(file.getvalue()[:-2000], SPEC)


def test_a_huge_jpeg_is_told_before_it_is_decoded():
    file = io.BytesIO()
    Image.new("L", (9000, 4000)).save(file, "JPEG")
    with pytest.raises(BadPicture, match="9000 x 4000 pixels"):
        decode_picture(file.getvalue(), SPEC)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_print_colours_are_pictures_too(mode):
    file = io.BytesIO()
    Image.fromarray(scene(640, 480)).convert(mode).save(file, "JPEG")
    assert decode_picture(file.getvalue(), SPEC).std() > 20


@pytest.mark.parametrize("kind", [".png", ".webp"])
def test_other_kinds_are_decoded_whole(decoded, kind):
    pixels = scene(640, 480)
    lossless = (cv2.IMWRITE_WEBP_QUALITY, 101) if kind == ".webp" else ()
    data = cv2.imencode(kind, pixels[..., ::-1], lossless)[1].tobytes()
    assert np.array_equal(decode_picture(data, SPEC), fit(pixels, SPEC))
    assert decoded == [(640, 480)]


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"GIF89a" + bytes(30), b"not a picture at all"])
def test_what_is_no_picture_is_told(data):
    with pytest.raises(BadPicture, match="no JPEG, PNG or WebP"):
        decode_picture(data, SPEC)


def test_a_damaged_or_huge_picture_is_told():
    whole = cv2.imencode(".png", scene(64, 48))[1].tobytes()
    with pytest.raises(BadPicture, match="damaged"):
        decode_picture(whole[:60], SPEC)
    file = io.BytesIO()
    Image.new("L", (9000, 4000)).save(file, "PNG")
    with pytest.raises(BadPicture, match="9000 x 4000 pixels"):
        decode_picture(file.getvalue(), SPEC)
