"""Pictures as they come from the world: decoded to upright RGB of a known size, or refused with the reason."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from dcnas_schema.photos import Refusal, Repair

MOST_PIXELS = 89_478_485
"""More is refused as a decompression bomb: Pillow's own limit, 268 MB once decoded."""
MOST_ASPECT = 3
"""A picture longer than this many times its width is trimmed to its middle: a batch is as wide as its widest picture."""
LEAST_SHARE = 0.5
"""A picture's short side may be this part of the stored one: it is enlarged; a smaller one would be mostly invented."""

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
"""No EPS, whose plug-in starts another program."""
_JPEG_QUALITY = 95
_PNG_LEVEL = 3
_UPRIGHT = 1
_ORIENTATION = 0x0112
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What stands a picture upright, by its EXIF orientation."""
_WHITE = (255, 255, 255, 255)
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
_REPAIR_OF_MODE: dict[str, Repair] = {
    **dict.fromkeys(("L", "1", "LA", "La"), "gray"),
    **dict.fromkeys(("P", "PA"), "palette"),
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N", "I"), "16-bit"),
    **dict.fromkeys(("YCbCr", "LAB", "HSV"), "colour space"),
    "CMYK": "cmyk",
}

Box = tuple[int, int, int, int]
"""Top, left, height, width."""


class RefusedError(Exception):
    """A picture cannot be used; `reason` says why."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason)
        self.reason: Refusal = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredPhoto:
    """A picture as it is stored."""

    data: bytes
    """Encoded, JPEG or PNG, RGB."""
    height: int
    width: int
    box: Box
    """What was taken, in pixels of the upright source picture."""
    repairs: tuple[Repair, ...]


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings about single files from the console while the block runs: every file is accounted for by name instead."""
    Image.init()  # here, in one thread: plug-ins register in a global table
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\..*")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def store_photo(content: bytes, *, size: int, encoding: Literal["png", "jpeg"]) -> StoredPhoto:
    """
    Return `content` as it is stored: upright RGB, short side `size` pixels, trimmed to an aspect of three.

    A JPEG or PNG that needs none of this keeps its very bytes, so that no picture is encoded twice.

    Raises:
        RefusedError: The picture cannot be used.
    """
    decoded = _decode(content, size)
    box = _middle(*decoded.full)
    kept, whole = _resized(decoded.image, box, decoded.full, size), box[2:] == decoded.full[::-1]
    repairs = decoded.repairs
    if decoded.storable and whole and not repairs and min(decoded.full) == size:
        return StoredPhoto(data=content, height=kept.height, width=kept.width, box=box, repairs=())
    if not whole:
        repairs += ("trimmed",)
    if min(decoded.full) < size:
        repairs += ("enlarged",)
    data = encode(kept, encoding)
    return StoredPhoto(data=data, height=kept.height, width=kept.width, box=box, repairs=repairs)


def encode(image: Image.Image, encoding: Literal["png", "jpeg"]) -> bytes:
    """Return an RGB picture encoded: PNG, or JPEG of quality 95 with full-resolution colour; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    if encoding == "png":
        image.save(buffer, "PNG", compress_level=_PNG_LEVEL)
    else:
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def decode_stored(content: bytes) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """Return the pixels, height x width x 3, of a picture that `store_photo` or `encode` made."""
    with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
        return np.asarray(image.convert("RGB"))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Decoded:
    image: Image.Image
    """Upright RGB; of a JPEG that is much larger than wanted, a draft."""
    full: tuple[int, int]
    """Width and height of the upright picture, undrafted."""
    storable: bool
    """Whether the file is of a kind and mode that are stored as they are."""
    repairs: tuple[Repair, ...]


def _decode(content: bytes, size: int) -> _Decoded:
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            _check_size(image, size)
            deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))  # Pillow opens 16-bit RGB as 8-bit
            turned = _orientation(image) >= 5
            full = image.size[::-1] if turned else image.size
            image.draft(None, _draft_size(image, size))
            image.load()
            upright, repairs = _upright_rgb(image)
            storable = image.format in ("JPEG", "PNG") and image.mode == "RGB"
    except (RefusedError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise RefusedError("too large") from error
    except UnidentifiedImageError as error:
        raise RefusedError("not an image") from error
    except Exception as error:  # a plug-in meets damage by what its parser stumbles over: struct.error, KeyError, ...
        raise RefusedError("truncated" if "truncated" in str(error).lower() else "corrupt") from error
    if deep and "16-bit" not in repairs:
        repairs = (*repairs, "16-bit")
    return _Decoded(image=upright, full=full, storable=storable, repairs=repairs)


def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]  # Pillow may be built without some


def _check_size(image: Image.Image, size: int) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise RefusedError("too large")
    if min(image.size) < LEAST_SHARE * size:
        raise RefusedError("too small")


def _draft_size(image: Image.Image, size: int) -> tuple[int, int]:
    """Return twice what is wanted: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, but at least as large as this."""
    share = 2 * size / min(image.size)
    return (round(image.width * share), round(image.height * share))


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION, _UPRIGHT)
    except Exception:  # a damaged EXIF block says nothing; the picture is whole all the same
        return _UPRIGHT
    return found if isinstance(found, int) and 1 <= found <= 8 else _UPRIGHT


def _upright_rgb(image: Image.Image) -> tuple[Image.Image, tuple[Repair, ...]]:
    repairs: list[Repair] = [_REPAIR_OF_MODE[image.mode]] if image.mode in _REPAIR_OF_MODE else []
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        repairs.append("animated")
    transparent = image.mode in _TRANSPARENT or "transparency" in image.info
    turned = _eight_bits(image)
    if _orientation(image) != _UPRIGHT:
        turned = turned.transpose(_TURN[_orientation(image)])
        repairs.append("rotated")
    if transparent:
        repairs.append("transparent")
        layer = turned.convert("RGBA")
        turned = Image.alpha_composite(Image.new("RGBA", layer.size, _WHITE), layer)
    return turned.convert("RGB"), tuple(repairs)


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise RefusedError("unsupported pixels")
    return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8))


def _middle(width: int, height: int) -> Box:
    kept_height, kept_width = min(height, MOST_ASPECT * width), min(width, MOST_ASPECT * height)
    return ((height - kept_height) // 2, (width - kept_width) // 2, kept_height, kept_width)


def _resized(image: Image.Image, box: Box, full: tuple[int, int], size: int) -> Image.Image:
    """Return the box scaled so that its short side is `size`; `image` may be a smaller draft of the full (width, height)."""
    top, left, height, width = box
    short = min(height, width)
    target = (width * size // short, height * size // short)  # rounded down, as torchvision's Resize
    x, y = image.width / full[0], image.height / full[1]
    if target == image.size and box == (0, 0, image.height, image.width):
        return image
    region = (left * x, top * y, (left + width) * x, (top + height) * y)
    return image.resize(target, Image.Resampling.BICUBIC, box=region)
