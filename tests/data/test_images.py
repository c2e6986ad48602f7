from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fheinfer.data.images import CLASSES, load_image, normalise
from fheinfer.errors import ImageError

RANDOM = np.random.default_rng(3)
SMALL = RANDOM.integers(0, 256, (32, 32, 3), dtype=np.uint8)
fuzz = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def saved(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def test_an_image_of_the_right_size_passes_bit_for_bit(tmp_path: Path) -> None:
    assert np.array_equal(load_image(saved(tmp_path / "a.png", SMALL)), SMALL)


def test_the_centre_square_is_kept(tmp_path: Path) -> None:
    wide = np.zeros((64, 200, 3), np.uint8)
    wide[:, 68:132] = (10, 200, 30)
    image = load_image(saved(tmp_path / "a.png", wide))
    assert image.shape == (32, 32, 3)
    assert (image == (10, 200, 30)).all()


def test_other_sizes_can_be_asked_for(tmp_path: Path) -> None:
    assert load_image(saved(tmp_path / "a.png", SMALL), size=8).shape == (8, 8, 3)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise
    path = saved(tmp_path / "a.png", SMALL, exif=exif)
    assert np.array_equal(load_image(path), np.rot90(SMALL, -1))


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    clear = np.zeros((32, 32, 4), np.uint8)
    assert (load_image(saved(tmp_path / "a.png", clear)) == 255).all()
    palette = Image.new("P", (32, 32), 0)
    palette.putpalette([200, 0, 0])
    palette.save(tmp_path / "p.png", transparency=0)
    assert (load_image(tmp_path / "p.png") == 255).all()


def test_sixteen_bit_grey_keeps_its_shades(tmp_path: Path) -> None:
    ramp = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 64
    image = load_image(saved(tmp_path / "a.png", ramp))
    assert np.array_equal(image[..., 0], np.rint(ramp / 257).astype(np.uint8))


@pytest.mark.parametrize(
    "mode, suffix",
    [
        ("L", "png"),
        ("1", "png"),
        ("LA", "png"),
        ("CMYK", "jpg"),
        ("P", "gif"),
        ("F", "tiff"),
        ("I", "tiff"),
        ("YCbCr", "jpg"),
    ],
)
def test_any_mode_becomes_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(SMALL).convert(mode).save(path)
    image = load_image(path)
    grey = np.asarray(Image.fromarray(SMALL).convert("L"), float)
    assert image.dtype == np.uint8
    assert image.shape == (32, 32, 3)
    assert abs(image.mean() - grey.mean()) < 8


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for side in (8_000, 60_000):  # below and above Pillow's own limit
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")))
        with pytest.raises(ImageError, match="50 megapixels"):
            load_image(tmp_path / "bomb.png")


def test_postscript_is_never_run(tmp_path: Path) -> None:
    Image.fromarray(SMALL).save(tmp_path / "a.eps")
    with pytest.raises(ImageError, match="PostScript"):
        load_image(tmp_path / "a.eps")


def test_what_is_no_image_says_so(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").touch()
    for name, words in {
        "text.png": "not an image",
        "empty.png": "not an image",
        "gone.png": "no such",
        ".": "a folder",
    }.items():
        with pytest.raises(ImageError, match=words) as caught:
            load_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    for name in ("", "a\0b", "x" * 5000):
        with pytest.raises(ImageError):
            load_image(name)


@fuzz
@given(st.sampled_from(["png", "jpeg", "webp", "gif", "bmp", "tiff"]), st.data())
def test_truncated_or_damaged_images_never_crash(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    whole = io.BytesIO()
    Image.fromarray(SMALL).save(whole, kind)
    content = bytearray(whole.getvalue())
    cut = data.draw(st.integers(0, len(content)))
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "a").write_bytes(content[:cut])
    try:
        assert load_image(tmp_path / "a").shape == (32, 32, 3)
    except ImageError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_half_an_image_is_an_error_and_not_half_a_result(tmp_path: Path, kind: str) -> None:
    whole = io.BytesIO()
    Image.fromarray(SMALL).save(whole, kind)
    (tmp_path / "a").write_bytes(whole.getvalue()[: len(whole.getvalue()) * 2 // 3])
    with pytest.raises(ImageError, match="truncated"):
        load_image(tmp_path / "a")


@fuzz
@given(st.binary(max_size=300))
def test_random_bytes_never_crash(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ImageError):
        load_image(tmp_path / "a")


def test_a_bare_name_is_looked_for_in_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inputs").mkdir()
    saved(tmp_path / "inputs" / "mine.png", SMALL)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(load_image("mine.png"), SMALL)
    with pytest.raises(ImageError, match=r"mine\.png"):
        load_image("other.png")
    with pytest.raises(ImageError):
        load_image("./mine.png")  # a path, not a bare name


def test_normalise_moves_channels_first() -> None:
    x = normalise(SMALL, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert x.shape == (3, 32, 32)
    assert x.dtype == np.float64
    assert x[2, 5, 7] == pytest.approx((SMALL[5, 7, 2] / 255 - 0.3) / 0.1)


def test_there_are_ten_classes() -> None:
    assert len(set(CLASSES)) == 10
