"""Pictures as they come from the world: every kind is stored as upright RGB, or refused for a reason that has a name."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dcnas_data.photo_files import MOST_PIXELS, RefusedError, StoredPhoto, decode_stored, quiet_pillow, store_photo

Make = Callable[..., Image.Image]
Encode = Callable[..., bytes]


def store(content: bytes, size: int = 32, encoding: Any = "png") -> StoredPhoto:
    """Store a picture at 32 pixels."""
    with quiet_pillow():
        return store_photo(content, size=size, encoding=encoding)


def reason(content: bytes, size: int = 32) -> str:
    """Return why a picture is refused."""
    with pytest.raises(RefusedError) as caught:
        store(content, size)
    return caught.value.reason


def pixels(photo: StoredPhoto) -> NDArray[np.float64]:
    """Return what a stored picture shows, after checking that it is as large as it says."""
    values = decode_stored(photo.data)
    assert values.shape == (photo.height, photo.width, 3)
    return values.astype(float)


def difference(photo: StoredPhoto, expected: Image.Image) -> float:
    """Return the mean difference, in gray values, from a picture scaled alike."""
    scaled = expected.convert("RGB").resize((photo.width, photo.height), Image.Resampling.BICUBIC)
    return float(np.abs(pixels(photo) - np.asarray(scaled, float)).mean())


def test_the_short_side_is_as_asked_for_and_the_aspect_stays(picture: Make, encoded: Encode) -> None:
    """A wide and a tall picture keep their shape, the long side rounded down; the box is the whole picture."""
    for extent, stored in (((100, 80), (32, 40)), ((77, 133), (55, 32))):
        photo = store(encoded(picture(*extent)))
        assert (photo.height, photo.width) == stored
        assert photo.box == (0, 0, extent[1], extent[0])
        assert photo.repairs == ()
        assert difference(photo, picture(*extent)) == 0


@pytest.mark.parametrize(("kind", "encoding"), [("JPEG", "png"), ("PNG", "jpeg")])
def test_a_picture_that_fits_keeps_its_bytes(picture: Make, encoded: Encode, kind: str, encoding: str) -> None:
    """A JPEG or PNG of the right size is stored as it is, whatever the encoding of others: nothing is encoded twice."""
    content = encoded(picture(40, 32), kind)
    assert store(content, encoding=encoding).data == content


def test_jpeg_is_nearly_and_png_exactly_what_was_scaled(picture: Make, encoded: Encode) -> None:
    """The encoding is the one asked for; JPEG of quality 95 is off by less than 3 of 255 on average."""
    content = encoded(picture(100, 80))
    assert store(content).data.startswith(b"\x89PNG")
    photo = store(content, encoding="jpeg")
    assert photo.data.startswith(b"\xff\xd8")
    assert difference(photo, picture(100, 80)) < 3


@pytest.mark.parametrize(
    ("mode", "kind", "repairs"),
    [
        ("L", "PNG", ("gray",)),
        ("L", "JPEG", ("gray",)),
        ("1", "PNG", ("gray",)),
        ("CMYK", "JPEG", ("cmyk",)),
        ("P", "PNG", ("palette",)),
        ("P", "GIF", ("palette",)),
        ("RGBA", "PNG", ("transparent",)),
        ("LA", "PNG", ("gray", "transparent")),
        ("YCbCr", "TIFF", ("colour space",)),
        ("RGB", "WEBP", ()),
        ("RGB", "BMP", ()),
        ("RGB", "PPM", ()),
    ],
)
def test_every_kind_becomes_rgb(picture: Make, encoded: Encode, mode: str, kind: str, repairs: tuple[str, ...]) -> None:
    """Gray, CMYK, palette, alpha and other formats show the same picture, and what was done is said."""
    image = picture(64, 48).convert(mode)
    photo = store(encoded(image, kind))
    assert photo.repairs == repairs
    assert difference(photo, image) < 6


def test_a_deep_gray_picture_keeps_its_upper_bits(encoded: Encode) -> None:
    """16-bit gray, from PNG and TIFF, is the picture over 256; a 16-bit RGB PNG is named too."""
    ramp = np.linspace(0, 65535, 48 * 40).reshape(40, 48).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        photo = store(encoded(Image.fromarray(ramp), kind), 40)
        assert photo.repairs == ("16-bit",)
        assert np.abs(pixels(photo)[..., 0] - ramp // 256).max() == 0
    photo = store(deep_rgb_png(40, 48), 40)
    assert photo.repairs == ("16-bit",)
    assert np.unique(pixels(photo)).tolist() == [171]


def deep_rgb_png(height: int, width: int) -> bytes:
    """Return a PNG of 16 bits a channel, which Pillow cannot write: every value is 0xABCD."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\xab\xcd" * 3 * width) * height
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_what_shines_through_is_white(encoded: Encode) -> None:
    """Transparent pixels become white, of RGBA and of a palette alike; opaque ones stay."""
    half = Image.new("RGBA", (40, 40), (200, 0, 0, 255))
    half.paste((0, 0, 0, 0), (0, 0, 20, 40))
    palette = Image.new("P", (40, 40), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.paste(0, (0, 0, 20, 40))
    for content in (encoded(half), encoded(palette, transparency=0)):
        photo = store(content, 40)
        assert photo.repairs[-1] == "transparent"
        assert (pixels(photo)[:, :20] == 255).all()
        assert (pixels(photo)[:, 20:] == (200, 0, 0)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_stands_upright(picture: Make, encoded: Encode, orientation: int) -> None:
    """All eight EXIF orientations give the picture as a viewer shows it, with the upright box."""
    undo = [None, 0, 3, 1, 5, 2, 6, 4][orientation - 1]  # the transposition that a camera's sensor did
    upright = picture(60, 40)
    lying = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = store(encoded(lying, "PNG", exif=exif))
    assert photo.repairs == (() if orientation == 1 else ("rotated",))
    assert photo.box == (0, 0, 40, 60)
    assert difference(photo, upright) < 1


def test_a_damaged_exif_block_does_not_refuse_a_whole_picture(picture: Make, encoded: Encode) -> None:
    """Nonsense in EXIF is passed over."""
    photo = store(encoded(picture(60, 40), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff nonsense"))
    assert (photo.height, photo.width) == (32, 48)


def test_a_large_jpeg_is_decoded_small(picture: Make, encoded: Encode) -> None:
    """A turned JPEG forty times too large is stored in the right shape and shows the same picture."""
    upright = picture(64, 48).resize((1600, 1200), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = store(encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif))
    assert (photo.height, photo.width, photo.box) == (32, 42, (0, 0, 1200, 1600))
    assert difference(photo, upright) < 2


def test_only_the_first_frame_counts(picture: Make, encoded: Encode) -> None:
    """Of an animation the first frame is taken, and that is said."""
    frames = [picture(40, 40, seed=seed).convert("P") for seed in range(3)]
    photo = store(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), 40)
    assert photo.repairs == ("palette", "animated")
    assert difference(photo, frames[0]) < 1


def test_a_strip_is_trimmed_to_its_middle(picture: Make, encoded: Encode) -> None:
    """More than three times as long as wide: the middle is kept, and the box says which."""
    photo = store(encoded(picture(400, 40)))
    assert (photo.height, photo.width) == (32, 96)
    assert photo.box == (0, 140, 40, 120)
    assert photo.repairs == ("trimmed",)


def test_a_small_picture_is_enlarged_and_a_tiny_one_refused(picture: Make, encoded: Encode) -> None:
    """From half the stored side on a picture is enlarged; below, most of it would be invented."""
    photo = store(encoded(picture(20, 16)))
    assert (photo.height, photo.width, photo.repairs) == (32, 40, ("enlarged",))
    assert reason(encoded(picture(20, 15))) == "too small"
    assert reason(encoded(picture(1, 1))) == "too small"


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_picture_is_said_to_be_none(content: bytes) -> None:
    """An empty file, text, a bare header; and PostScript, which would start another program."""
    assert reason(content) == "not an image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP"])
def test_a_cut_off_file_is_refused_at_any_length(picture: Make, encoded: Encode, kind: str) -> None:
    """However much of it is there, a part of a file is refused with a reason and never raises anything else."""
    content = encoded(picture(64, 48), kind)
    found = {reason(content[: len(content) * share // 10]) for share in range(9)}
    assert found <= {"truncated", "corrupt", "not an image"}
    assert found & {"truncated", "corrupt"}


def test_a_file_with_changed_bytes_raises_nothing_else(picture: Make, encoded: Encode) -> None:
    """Random damage is either not noticed by the format or refused for a named reason."""
    generator = np.random.Generator(np.random.PCG64(0))
    seen = set()
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP"):
        content = encoded(picture(64, 48), kind)
        for _ in range(60):
            damaged = bytearray(content)
            for place in generator.integers(0, len(content), 4):
                damaged[place] = generator.integers(256)
            seen.add(outcome(bytes(damaged)))
    assert seen <= {"kept", "truncated", "corrupt", "not an image", "too large", "too small"}
    assert {"kept", "corrupt"} <= seen


def outcome(content: bytes) -> str:
    """Return why a picture is refused, or that it is kept."""
    try:
        pixels(store(content))
    except RefusedError as error:
        return error.reason
    return "kept"


def test_a_bomb_is_refused_unopened(encoded: Encode) -> None:
    """More pixels than the limit are refused by the header alone, a little beyond it and far beyond."""
    for side in (int(MOST_PIXELS**0.5) + 1, 60_000):
        header = bytearray(encoded(Image.new("1", (8, 8)), "BMP"))
        header[18:26] = struct.pack("<ii", side, side)
        assert reason(bytes(header)) == "too large"


def test_values_of_unknown_range_are_refused(encoded: Encode) -> None:
    """32-bit integers beyond 16 bits and floating-point pixels have no known white."""
    wide = Image.fromarray(np.full((40, 40), 1 << 20, np.int32))
    real = Image.fromarray(np.full((40, 40), 0.5, np.float32))
    for image in (wide, real):
        assert reason(encoded(image, "TIFF")) == "unsupported pixels"


def test_the_same_picture_gives_the_same_bytes(picture: Make, encoded: Encode) -> None:
    """Storing twice gives one result."""
    content = encoded(picture(100, 80), "JPEG")
    for encoding in ("png", "jpeg"):
        assert store(content, encoding=encoding) == store(content, encoding=encoding)


def test_decode_stored_reads_only_what_is_stored(picture: Make, encoded: Encode) -> None:
    """A GIF is no stored picture."""
    with pytest.raises(OSError, match="cannot identify"):
        decode_stored(encoded(picture(), "GIF"))
    assert decode_stored(encoded(picture())).shape == (40, 48, 3)
    assert io.BytesIO(encoded(picture())).read(4) == b"\x89PNG"
