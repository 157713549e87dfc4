import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from semisup_core.data.images import decode, from_pixels
from semisup_core.errors import CorruptImage


def picture(height=20, width=30, seed=0):
    """A smooth picture, so that lossy formats keep it nearly."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def close(a, b, tolerance):
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= tolerance


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("a.png", "RGB"),
        ("a.png", "RGBA"),
        ("a.png", "P"),
        ("a.bmp", "RGB"),
        ("a.gif", "P"),
        ("a.webp", "RGB"),
        ("a.webp", "RGBA"),
        ("a.jpg", "RGB"),
        ("a.jpeg", "CMYK"),
        ("A.JPG", "RGB"),
    ],
)
def test_formats(tmp_path, name, mode):
    original = picture(48, 48).convert(mode)
    jpeg = "j" in name.lower()
    options = {"quality": 95, "subsampling": 0} if jpeg else {"lossless": True} if "webp" in name else {}
    found = decode(save(original, tmp_path / name, **options), 48)
    assert found.shape == (48, 48, 3) and found.dtype == np.uint8
    assert close(found, original.convert("RGB"), 8 if jpeg else 0)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_gray(tmp_path, mode):
    gray = picture(16, 16).convert("L").convert(mode)
    found = decode(save(gray, tmp_path / "a.png"), 16)
    assert close(found, np.asarray(gray.convert("L"))[..., None], 0)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    found = decode(save(Image.fromarray(values), tmp_path / "a.png"), 16)
    assert close(found[..., 0].ravel(), np.arange(256), 0)


def test_transparent_is_white(tmp_path):
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    found = decode(save(image, tmp_path / "a.png"), 8)
    assert (found[:, :4] == 255).all() and (found[:, 4:] == [255, 0, 0]).all()


def test_transparent_palette_entry_is_white(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([9, 9, 9, 0, 0, 255])
    image.paste(0, (0, 0, 4, 8))
    found = decode(save(image, tmp_path / "a.png", transparency=0), 8)
    assert (found[:, :4] == 255).all() and (found[:, 4:] == [0, 0, 255]).all()


def test_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    found = decode(save(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:]), 8)
    assert (found == [255, 0, 0]).all()


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_orientation(tmp_path, tag, name):
    exif = Image.Exif()
    exif[0x0112] = tag
    path = save(picture(32, 48), tmp_path / name, exif=exif)
    with Image.open(path) as stored:
        upright = ImageOps.exif_transpose(stored)
    expected = ImageOps.fit(upright, (32, 32), Image.Resampling.BICUBIC)
    assert close(decode(path, 32), expected, 1)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_keeps_the_image(tmp_path):
    path = save(picture(16, 16), tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    assert decode(path, 16).shape == (16, 16, 3)


def test_shorter_side_and_centre(tmp_path):
    image = Image.new("RGB", (40, 20), "red")
    image.paste((0, 0, 255), (10, 0, 30, 20))
    # The outermost columns blend with the red beside the square.
    assert (decode(save(image, tmp_path / "a.png"), 10)[:, 1:-1] == [0, 0, 255]).all()


def test_large_jpeg_is_scaled_as_without_draft(tmp_path):
    path = save(picture(600, 800), tmp_path / "a.jpg", quality=95)
    with Image.open(path) as full:
        expected = ImageOps.fit(full, (32, 32), Image.Resampling.BICUBIC)
    assert close(decode(path, 32), expected, 4)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.webp", "a.bmp"])
@pytest.mark.parametrize("keep", [0.6, 0.02, 0])
def test_truncated(tmp_path, name, keep):
    path = save(picture(300, 300), tmp_path / name)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(CorruptImage):
        decode(path, 8)


@pytest.mark.parametrize("content", [b"this is text", b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0", b"\xff\xd8\xff\xe0"])
def test_other_content(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(CorruptImage, match="JPEG, PNG, BMP, GIF, WEBP|truncated|data"):
        decode(tmp_path / "a.jpg", 8)


def test_decompression_bomb(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side, reason in ((8193, "more than 67,108,864 pixels"), (50_000, "Decompression")):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
        with pytest.raises(CorruptImage, match=reason):
            decode(tmp_path / "a.png", 8)


def test_bytes_are_read_like_a_file(tmp_path):
    path = save(picture(), tmp_path / "a.png")
    np.testing.assert_array_equal(decode(path.read_bytes(), 8), decode(path, 8))
    with pytest.raises(CorruptImage, match="truncated"):
        decode(path.read_bytes()[:-30], 8)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_treated_like_a_file(tmp_path, mode):
    image = picture().convert(mode)
    expected = decode(save(image, tmp_path / "a.png"), 8)
    pixels = np.asarray(image)
    np.testing.assert_array_equal(from_pixels(pixels, 8), expected)
    if mode == "L":
        np.testing.assert_array_equal(from_pixels(pixels[..., None], 8), expected)


def test_pixels_of_the_right_size_stay_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(from_pixels(pixels, 9), pixels)


def test_missing_file(tmp_path):
    with pytest.raises(CorruptImage, match="FileNotFoundError"):
        decode(tmp_path / "a.png", 8)
