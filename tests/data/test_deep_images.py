"""Images of more than 8 bits, of every mode, and transparent ones keep their shades."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fheinfer.data.images import LoadedImage, read_image
from fheinfer.errors import ImageError
from tests.data.files import GREY, chunk, deep_png, deep_tiff, png, transparent

RAMP = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32, 1)
COLOURS = np.random.default_rng(5).integers(0, 65536, (32, 32, 3), dtype=np.uint16)


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read(content: bytes, **options: Any) -> LoadedImage:
        (tmp_path / "a").write_bytes(content)
        return read_image(tmp_path / "a", **options)

    return read


def eight_bit(values: np.ndarray, white: float = 65535) -> np.ndarray:
    return np.rint(255 * (values / white)).astype(np.uint8)


def test_a_16_bit_grey_ramp_keeps_its_shades_with_a_transparent_colour(read: Any) -> None:
    whole, clear = read(deep_png(RAMP)), read(deep_png(RAMP, transparent(int(RAMP[3, 4, 0]))))
    assert whole.notes == clear.notes == ()
    assert 127 <= whole.pixels.mean() < 128
    assert np.array_equal(whole.pixels, np.repeat(eight_bit(RAMP), 3, axis=2))
    different = (clear.pixels != whole.pixels).any(axis=2)
    assert [tuple(at) for at in np.argwhere(different)] == [(3, 4)]
    assert (clear.pixels[3, 4] == 255).all()


def test_a_16_bit_transparent_colour_is_compared_in_full(read: Any) -> None:
    values = COLOURS.copy()
    values[0, 0], values[0, 1] = (0x1234, 0x5678, 0x9ABC), (0x1234, 0x5678, 0x9ABD)
    image = read(deep_png(values, transparent(0x1234, 0x5678, 0x9ABC))).pixels
    assert (image[0, 0] == 255).all()
    assert np.array_equal(image.reshape(-1, 3)[1:], eight_bit(values).reshape(-1, 3)[1:])


@pytest.mark.parametrize("channels", [2, 4])
def test_16_bit_alpha_is_laid_on_white(read: Any, channels: int) -> None:
    values = np.random.default_rng(channels).integers(0, 65536, (32, 32, channels), dtype=np.uint16)
    light, alpha = values[..., :-1] / 65535, values[..., -1:] / 65535
    expected = np.broadcast_to(np.rint(255 * (light * alpha + 1 - alpha)), (32, 32, 3))
    assert np.array_equal(read(deep_png(values)).pixels, expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_12_bit_data_is_named_and_scaled_when_asked(read: Any, channels: int) -> None:
    values = np.random.default_rng(6).integers(0, 4096, (32, 32, channels), dtype=np.uint16)
    values[0, 0] = 4095
    if channels in (2, 4):
        values[..., -1] = 4095
    dark, light = read(deep_png(values)), read(deep_png(values), depth=12)
    assert len(dark.notes) == 1
    assert all(words in dark.notes[0] for words in ("/a: ", "12-bit", "4095", "nearly black"))
    if channels in (1, 3):
        assert dark.pixels.max() == 16
    assert light.notes == ()
    colours = values[..., :-1] if channels in (2, 4) else values
    assert np.array_equal(light.pixels, np.broadcast_to(eight_bit(colours, 4095), (32, 32, 3)))
    with pytest.raises(ImageError, match="values up to 4095, more than 10 bits"):
        read(deep_png(values), depth=10)


def test_black_is_no_12_bit_data(read: Any) -> None:
    assert read(deep_png(np.zeros((32, 32, 1), np.uint16))).notes == ()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compressed", [False, True])
def test_16_bit_tiff_is_read_in_full(read: Any, order: str, compressed: bool) -> None:
    assert np.array_equal(read(deep_tiff(COLOURS, order, compressed)).pixels, eight_bit(COLOURS))
    dark = read(deep_tiff(COLOURS // 16, order, compressed), depth=12)
    assert np.array_equal(dark.pixels, eight_bit(COLOURS // 16, 4095))


def test_the_orientation_of_deep_images_is_applied_to_both_bytes(read: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read(deep_png(COLOURS, chunk(b"eXIf", exif.tobytes()[6:]))).pixels
    assert np.array_equal(turned, np.rot90(eight_bit(COLOURS), -1))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_grey_of_few_bits_is_laid_on_white(read: Any, depth: int) -> None:
    row = np.arange(4 * depth, dtype=np.uint8) * 29
    values = np.unpackbits(row).reshape(32, depth) @ (1 << np.arange(depth)[::-1])
    grey = values * 255 // (2**depth - 1)
    grey[values == values[-1]] = 255
    image = read(png((32, 32), depth, GREY, [row.tobytes()] * 32, transparent(int(values[-1]))))
    assert np.array_equal(image.pixels[5, :, 0], grey)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_both_byte_orders_of_16_bit_grey_are_one(tmp_path: Path, mode: str) -> None:
    grey = RAMP[..., 0].astype("<u2" if mode != "I;16B" else ">u2")
    Image.frombytes(mode, (32, 32), grey.tobytes()).save(tmp_path / "a.tif")
    assert np.array_equal(read_image(tmp_path / "a.tif").pixels[..., 0], eight_bit(RAMP)[..., 0])


def test_a_dark_16_bit_ppm_is_not_taken_for_8_bits(read: Any) -> None:
    content = b"P5 32 32 65535\n" + np.full((32, 32), 200, ">u2").tobytes()
    image = read(content)
    assert (image.pixels == 1).all()
    assert "12-bit" in image.notes[0]


def saved(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "tiff")
    return file.getvalue()


@pytest.mark.parametrize(
    ("value", "options", "grey", "note"),
    [
        (np.int32(51), {}, 51, "read as 8-bit"),
        (np.int32(13107), {}, 51, "read as 16-bit"),
        (np.int32(13107 << 4), {"depth": 20}, 51, ""),
        (np.float32(0.2), {}, 51, "white at 1"),
        (np.float32(51), {}, 51, "white at 255"),
        (np.float32(819), {"depth": 12}, 51, ""),
    ],
    ids=str,
)
def test_wide_values_are_read_and_the_guess_is_said(read: Any, value: Any, options: Any, grey: int, note: str) -> None:
    image = read(saved(np.full((32, 32), value)), **options)
    assert (image.pixels == grey).all()
    assert note in "".join(image.notes)
    assert len(image.notes) == bool(note)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.int32(70000), "32-bit values up to 70000; give the depth"),
        (np.int32(-1), "negative values"),
        (np.float32(300), "real values up to 300"),
        (np.float32(np.nan), "NaN"),
        (np.float32(np.inf), "infinite"),
    ],
    ids=str,
)
def test_values_that_no_white_explains_are_refused(read: Any, value: Any, words: str) -> None:
    values = np.full((32, 32), value)
    values[0, 0] = 1
    with pytest.raises(ImageError, match=words) as caught:
        read(saved(values))
    assert "/a: " in str(caught.value)


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "LA", "PA", "RGBA", "La", "RGBa"]
)
def test_every_mode_of_8_bits_becomes_rgb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str) -> None:
    """Modes that no file format stores are put in the place of what was opened."""
    image = Image.new("RGB", (32, 32), (51, 102, 153))
    image.save(tmp_path / "a.png")
    for step in {"La": ["LA"], "RGBa": ["RGBA"], "PA": ["P"]}.get(mode, []):
        image = image.convert(step)
    image = image.convert(mode)
    monkeypatch.setattr("fheinfer.data.images.Image.open", lambda file: image.copy())
    pixels = read_image(tmp_path / "a.png").pixels.astype(int)
    grey = round(0.299 * 51 + 0.587 * 102 + 0.114 * 153)
    expected = (grey,) * 3 if mode in ("L", "LA", "La") else (51, 102, 153)
    if mode == "1":
        assert set(pixels.ravel()) <= {0, 255}
    else:
        assert abs(pixels.mean(axis=(0, 1)) - expected).max() <= (60 if mode in ("P", "PA") else 4)


def test_a_depth_for_8_bits_is_said_to_do_nothing(read: Any) -> None:
    content = png((32, 32), 8, GREY, [bytes(range(32))] * 32)
    image = read(content, depth=12)
    assert np.array_equal(image.pixels[0, :, 0], np.arange(32))
    assert "does not apply" in image.notes[0]
    assert read(content, depth=8).notes == ()


@pytest.mark.parametrize(
    "options", [{"depth": 0}, {"depth": 33}, {"channels": 2}, {"size": 0}, {"size": (4, -1)}], ids=str
)
def test_impossible_requests_are_refused(read: Any, options: Any) -> None:
    with pytest.raises(ImageError, match="channels 1 or 3, bits 1 to 32"):
        read(deep_png(RAMP), **options)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3]))
def test_any_image_takes_the_shape_of_the_model(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, rows: int, columns: int, channels: int
) -> None:
    path = tmp_path_factory.mktemp("image") / "a.png"
    Image.new("RGB", (width, height), (9, 9, 9)).save(path)
    pixels = read_image(path, (rows, columns), channels=channels).pixels
    assert pixels.shape == (rows, columns, channels)
    assert (pixels == 9).all()


def test_the_cut_keeps_the_proportions_of_the_model(tmp_path: Path) -> None:
    image = np.zeros((20, 100, 3), np.uint8)
    image[:, 30:70] = 200  # the centre, twice as wide as high
    Image.fromarray(image).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", (20, 40)).pixels == 200).all()
    assert (read_image(tmp_path / "a.png", (10, 20)).pixels == 200).all()
    assert (read_image(tmp_path / "a.png", (20, 42)).pixels[:, 0] == 0).all()


def test_a_grey_image_of_the_right_size_passes_bit_for_bit(tmp_path: Path) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (28, 20), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", (28, 20), channels=1).pixels[..., 0], grey)


def test_a_bomb_of_16_bits_is_refused_by_its_header(read: Any) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 16, 2, 0, 0, 0))
    with pytest.raises(ImageError, match="50 megapixels"):
        read(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))
