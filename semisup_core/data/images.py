"""Images, encoded or as pixels, as square RGB pixels."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from semisup_core.errors import CorruptImage

# Part of every store's key: raise it when the same file would be decoded to other pixels.
DECODE_VERSION = 1
# Above 8192 x 8192 a file is more likely a decompression bomb than a photograph; decoded, this fills 200 MB.
MAX_PIXELS = 2**26
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
ORIENTATION_TAG = 0x0112
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(encoded: Path | bytes, image_size: int) -> NDArray[np.uint8]:
    """Reads an image as RGB, upright, its shorter side scaled to ``image_size`` and the centre square kept.

    EXIF orientation is applied, transparency laid over white, 16 bits become 8, colour profiles are ignored.

    Args:
        encoded: a file, or the bytes of one.
        image_size: height and width of the result.

    Returns:
        (image_size, image_size, 3) uint8.

    Raises:
        CorruptImage: no image of `FORMATS`, damaged, or of more than `MAX_PIXELS`.
    """
    try:
        with Image.open(BytesIO(encoded) if isinstance(encoded, bytes) else encoded, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise CorruptImage(f"{image.width} x {image.height} is more than {MAX_PIXELS:,} pixels")
            orientation = _orientation(image)
            # A JPEG decoder can skip detail that scaling would discard; twice the size keeps it sharp.
            image.draft("RGB", (2 * image_size, 2 * image_size))
            square = _square(image, image_size)
            if orientation in ORIENTATIONS:
                square = square.transpose(ORIENTATIONS[orientation])
            return np.asarray(square)
    except (CorruptImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise CorruptImage(f"its content is no image of {', '.join(FORMATS)}") from error
    # Decoders raise whatever a damaged file makes of their parsing: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise CorruptImage(f"{type(error).__name__}: {error}") from error


def from_pixels(pixels: NDArray[np.uint8], image_size: int) -> NDArray[np.uint8]:
    """Scales and crops pixels as `decode` does; an image of the right size is left as it is.

    Args:
        pixels: (H, W), (H, W, 1), (H, W, 3) or, with transparency, (H, W, 4) uint8.
        image_size: height and width of the result.

    Returns:
        (image_size, image_size, 3) uint8.
    """
    return np.asarray(_square(Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels), image_size))


def _square(image: Image.Image, image_size: int) -> Image.Image:
    return ImageOps.fit(_to_rgb(image), (image_size, image_size), Image.Resampling.BICUBIC)


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ORIENTATION_TAG)
    except Exception:  # damaged metadata says nothing about the pixels
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # convert() would clip 16 bits at 255 instead of scaling them.
        image = Image.fromarray(np.clip(np.asarray(image) / 257 + 0.5, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")
