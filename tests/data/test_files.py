"""Files that a user names: devices and pipes are refused at once, every name can be printed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fheinfer.data.files import one_line, open_given, printable, read_given
from fheinfer.data.images import load_image
from fheinfer.errors import ImageError, InputError
from tests.data.files import NO_FILES

BAD_NAMES = ["", "a\0b", "x" * 5000, "a/" * 3000, "\udcff\udcfe.png", "\ud800.png", "two\nlines.png", "\x1b[31mred.png"]


@given(st.text(st.characters(), max_size=300) | st.binary(max_size=300).map(os.fsdecode))
def test_every_name_is_one_printable_line(name: str) -> None:
    shown = printable(name)
    assert shown.encode().decode() == shown
    assert shown.isprintable()
    assert len(shown) <= 200


def test_a_printable_name_is_shown_as_it_is() -> None:
    assert printable(Path("Bilder/Kätzchen 猫.png")) == "Bilder/Kätzchen 猫.png"
    assert printable(os.fsdecode(b"caf\xe9.png")) == "caf\\xe9.png"
    assert printable("a" * 150 + "b" * 150).startswith("aaa")
    assert printable("a" * 150 + "b" * 150).endswith("bbb")


@given(st.text(max_size=400))
def test_a_message_of_a_library_becomes_one_line(text: str) -> None:
    assert len(one_line(text)) <= 120
    assert one_line(text).isprintable()


def test_colours_are_taken_out_of_a_message_and_words_stay_whole() -> None:
    assert one_line(ValueError("\x1b[1mweights\x1b[0m only\nmore")) == "weights only"
    assert one_line("word " * 50).split() == ["word"] * 24
    assert one_line(ValueError()) == "ValueError"


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    NO_FILES[kind](tmp_path / "a.png")
    words = {"folder": "a folder, not an image", "loop": "symbolic links", "dangling": "no such"}
    with pytest.raises(ImageError, match=words.get(kind, "a pipe, socket or device, not an image")) as caught:
        load_image(tmp_path / "a.png")
    assert "/a.png: " in str(caught.value)


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_name_that_cannot_be_is_one_printable_line(tmp_path: Path, name: str) -> None:
    for path in (name, tmp_path / name):
        with pytest.raises(ImageError) as caught:
            load_image(path)
        message = str(caught.value)
        assert message.isprintable()
        assert len(message) < 400


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch(0)
    with pytest.raises(ImageError, match=r"Permission denied.*check its permissions"):
        load_image(tmp_path / "a.png")


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    os.truncate(tmp_path / "a", 2**40)
    with pytest.raises(ImageError, match="1,099,511,627,776 bytes, more than the 536,870,912"):
        load_image(tmp_path / "a")


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_given(tmp_path / "a", 5, InputError, "a list") == b"12345"
    with pytest.raises(InputError, match="5 bytes, more than the 4 that a list may have"):
        read_given(tmp_path / "a", 4, InputError, "a list")


def test_a_file_of_unknown_size_is_bounded() -> None:
    """Files of /proc say that they have no bytes."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc")
    with pytest.raises(InputError, match="more than"):
        read_given(Path("/proc/self/maps"), 0, InputError, "a list")


def test_a_refused_file_is_closed_again(tmp_path: Path, open_files: Callable[[], int]) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    before = open_files()
    for _ in range(5):
        with pytest.raises(InputError):
            open_given(tmp_path / "a", 4, InputError, "a list")
        with pytest.raises(ImageError):
            load_image(tmp_path / "a")
    assert open_files() == before


@pytest.fixture
def open_files() -> Callable[[], int]:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("no /proc")
    return lambda: len(list(folder.iterdir()))
