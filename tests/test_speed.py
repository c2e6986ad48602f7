"""The speed of this machine: measured once, kept, measured again when what is kept cannot be used."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fheinfer import speed
from fheinfer.machine import usable_threads
from fheinfer.speed import REFERENCE, Speed, machine_speed, scale_seconds


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What was measured, instead of measuring it."""
    calls: list[int] = []

    def measure(threads: int) -> Speed:
        calls.append(threads)
        return Speed(threads=threads, ntt_ms=0.2, read_gb_s=6, compute_gain=1.5, read_gain=1.25)

    monkeypatch.setattr(speed, "measure", measure)
    return calls


def test_a_real_measurement_takes_about_a_second() -> None:
    began = time.perf_counter()
    found = speed.measure(2)
    assert time.perf_counter() - began < 10  # other programs run beside the tests
    assert 0.01 < found.ntt_ms < 10
    assert 0.1 < found.read_gb_s < 1000
    assert 1 <= found.compute_gain <= 2
    assert 1 <= found.read_gain <= 2
    assert speed.measure(1).threads == 1


def test_it_is_measured_once(measured: list[int], tmp_path: Path) -> None:
    file = tmp_path / "deep" / "fheinfer" / "machine.json"
    first = machine_speed(file)
    assert machine_speed(file) == first
    assert len(measured) == 1
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in file.parent.iterdir()] == ["machine.json"]


def test_what_was_measured_on_a_busy_machine_is_measured_again_on_a_quiet_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []

    def measure(threads: int) -> Speed:
        calls.append(speed._load())
        return REFERENCE.model_copy(update={"load": calls[-1]})

    monkeypatch.setattr(speed, "measure", measure)
    for load in (3.0, 2.0, 4.0, 1.0, 1.0, 0.2, 0.0, 5.0):
        monkeypatch.setattr(speed, "_load", lambda now=load: now)
        machine_speed(tmp_path / "machine.json")
    assert calls == [3.0, 1.0, 0.2]


@pytest.mark.parametrize("what", ["machine_key", "usable_threads"])
def test_another_machine_is_measured_and_both_are_kept(
    measured: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    file = tmp_path / "machine.json"
    machine_speed(file)
    with monkeypatch.context() as patch:
        other: Callable[..., object] = (lambda threads: "another") if what == "machine_key" else (lambda: 77)
        patch.setattr(speed, what, other)
        machine_speed(file)
    machine_speed(file)
    assert len(measured) == 2
    assert len(json.loads(file.read_text())["machines"]) == 2


def test_the_file_does_not_grow_for_ever(measured: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "machine.json"
    for i in range(40):
        monkeypatch.setattr(speed, "machine_key", lambda threads, name=str(i): name)
        machine_speed(file)
    assert list(json.loads(file.read_text())["machines"]) == [str(i) for i in range(24, 40)]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\xff\xfe{",
        b"[" * 60_000,
        b"null",
        b'{"machines": {}, "more": 1}',
        b" " * 100_000,
        b'{"machines": {"KEY": {"threads": 2, "ntt_ms": 0, "read_gb_s": 1, "compute_gain": 1, "read_gain": 1}}}',
        b'{"machines": {"KEY": {"threads": 2, "ntt_ms": NaN, "read_gb_s": 1, "compute_gain": 1, "read_gain": 1}}}',
        b'{"machines": {"KEY": {"threads": 2}}}',
    ],
)
def test_a_damaged_file_is_measured_again_and_replaced(measured: list[int], tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "machine.json"
    file.write_bytes(damage.replace(b"KEY", speed.machine_key(usable_threads()).encode()))
    assert machine_speed(file) == machine_speed(file)
    assert len(measured) == 1


def test_a_folder_that_cannot_be_written_is_no_error(measured: list[int], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder" / "machine.json").mkdir(parents=True)
    for folder in (tmp_path / "file", tmp_path / "folder", Path("/proc/none")):
        assert machine_speed(folder / "machine.json") == machine_speed(folder / "machine.json")
    assert len(measured) == 6


def test_the_processor_is_part_of_the_key(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nprocessor\t: 1\n")
    assert speed.machine_key(3, tmp_path).startswith("Some CPU @ 3 GHz; 3 threads; ")
    assert speed.machine_key(3, tmp_path / "none").startswith("unknown processor; 3 threads; ")


def test_predictions_scale_with_machine_and_threads() -> None:
    assert scale_seconds(30, 2, REFERENCE) == pytest.approx(30)
    assert scale_seconds(30, 1, REFERENCE) == pytest.approx(30 * 2.2 / 1.2)  # the bootstrap it was measured by
    assert scale_seconds(30, 8, REFERENCE) == pytest.approx(30)  # it has two cores
    half = Speed(threads=2, ntt_ms=0.188, read_gb_s=6, compute_gain=2.2 / 1.2, read_gain=2.2 / 1.2)
    assert scale_seconds(30, 2, half) == pytest.approx(60)
    many = Speed(threads=9, ntt_ms=0.094, read_gb_s=12, compute_gain=9, read_gain=3)
    times = [scale_seconds(30, n, many) for n in range(1, 12)]
    assert times[:9] == sorted(times[:9], reverse=True)
    assert len({round(t, 6) for t in times[8:]}) == 1
    single = Speed(threads=1, ntt_ms=0.094, read_gb_s=12, compute_gain=1, read_gain=1)
    assert scale_seconds(30, 4, single) == scale_seconds(30, 1, single) == pytest.approx(55)
