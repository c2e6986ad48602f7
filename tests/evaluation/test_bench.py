"""`fheinfer bench` on a small ring: what it measures, and how it compares."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from fheinfer import _core
from fheinfer.compiler.presets import preset
from fheinfer.crypto.backends import BACKENDS, backend
from fheinfer.crypto.params import parameter_set
from fheinfer.errors import UsageError
from fheinfer.evaluation import bench

Command = Callable[..., Any]
QUICK = ("bench", "--log-n", 10, "--repeats", 1)


@pytest.fixture(scope="module")
def reports() -> list[bench.Report]:
    return bench.run("1", log_n=10, repeats=2)


def test_both_backends_measure_the_same_kernels(reports: list[bench.Report]) -> None:
    ours, theirs = ({row.name: row for row in report.rows} for report in reports)
    assert [report.backend for report in reports] == ["native", "openfhe"]
    assert [report.set_name for report in reports] == ["1", "1-openfhe"]
    assert {name for name in ours if not name.startswith("NTT")} == {name for name in theirs if name[:3] != "NTT"}
    assert {"bootstrap", "ReLU, relu:59", "convolution 3x3, 16 channels", "8 hoisted rotations"} <= set(ours)
    for name in _core.instruction_sets():
        assert {f"NTT forward, {name}", f"NTT inverse, {name}"} <= set(ours)
    assert reports[0].instruction_set == _core.instruction_set()
    assert all(row.seconds > 0 and row.repeats >= 1 for row in [*ours.values(), *theirs.values()])
    for report in reports:
        assert report.peak_memory > report.key_bytes > 1 << 20
        assert report.threads >= 1
    assert reports[0].key_bytes < reports[1].key_bytes


def test_kernels_take_what_their_levels_say(reports: list[bench.Report]) -> None:
    for report in reports:
        params = parameter_set(report.set_name)
        level = {row.name: row.level for row in report.rows}
        assert level["bootstrap"] == backend(report.backend).bootstrap_input(params)
        assert level["ReLU, relu:59"] == params.levels
        assert level["key switch: the whole chain"] == params.top_level
        assert level["NTT forward"] is None


def test_a_floor_is_below_what_was_measured(reports: list[bench.Report]) -> None:
    floors = {row.name: (row.floor, row.seconds) for row in reports[0].rows if row.floor is not None}
    assert {"bootstrap", "key switch: a convolution", "convolution 3x3, 16 channels"} <= set(floors)
    assert all(0 < floor < seconds for floor, seconds in floors.values())
    assert not any(row.floor for row in reports[1].rows)


def test_ratios_are_openfhe_over_ours(reports: list[bench.Report]) -> None:
    ratios = bench.ratios(reports)
    seconds = [{row.name: row.seconds for row in report.rows}["bootstrap"] for report in reports]
    assert ratios["bootstrap"] == seconds[1] / seconds[0] > 1
    assert not any("avx" in name for name in ratios)
    assert bench.ratios(reports[:1]) == {}


def test_the_command(command: Command) -> None:
    made = json.loads(command(*QUICK, "--backend", "native", "--json").out)
    (report,) = made["reports"]
    assert made["ratios"] == {}
    assert (report["backend"], report["log_n"]) == ("native", 10)
    shown = command(*QUICK, "--set", "4")
    assert shown.code == 0, shown.err
    for words in ("key switch: the whole chain", "openfhe / native", "peak memory", "4-openfhe"):
        assert words in shown.out


def test_a_network_is_measured_from_ciphertext_to_ciphertext() -> None:
    (report,) = bench.run("insecure-tiny", ("native",), repeats=1, network="resnet8-tiny")
    seconds = {row.name: row.seconds for row in report.rows}
    for what in ("compilation", "keys", "loading", "encryption", "ciphertext to ciphertext"):
        assert seconds[f"resnet8-tiny: {what}"] > 0
    assert seconds["resnet8-tiny: ciphertext to ciphertext"] > 7 * seconds["bootstrap"] / 3


def test_a_set_without_bootstraps_has_no_row_for_one() -> None:
    (report,) = bench.run("insecure-tiny-turbo", ("native",), repeats=1, network="resnet8-tiny-turbo")
    names = [row.name for row in report.rows]
    assert not any("bootstrap" in name for name in names)
    assert "key switch: the whole chain" in names
    assert "resnet8-tiny-turbo: ciphertext to ciphertext" in names


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--backend", "gpu"), "no backend 'gpu' to measure"),
        (("--set", "9"), "no parameter set '9'"),
        (("--log-n", 9), "no ring of 2^9"),
        (("--log-n", 17), "no ring of 2^17"),
        (("--log-n", 12, "--network"), "leave out --log-n"),
    ],
    ids=str,
)
def test_what_cannot_be_measured(command: Command, arguments: tuple[object, ...], says: str) -> None:
    result = command("bench", *arguments)
    assert result.code == 2
    assert says in result.err


def test_a_small_ring_keeps_the_chain() -> None:
    for name in ("1", "1-openfhe"):
        for kind in BACKENDS:
            small = bench.parameters(name, kind, 12)
            whole = bench.parameters(name, kind, None)
            assert preset(whole).backend == kind
            assert dataclasses.replace(small, log_n=16, slots=16384, insecure=False) == whole
            assert small.slots == 1024
    with pytest.raises(UsageError, match="no backend 'both'"):
        bench.parameters("1", "both", 12)


def test_a_set_that_a_backend_cannot_evaluate_is_refused() -> None:
    with pytest.raises(UsageError, match="set turbo is not for the openfhe backend"):
        bench.parameters("turbo", "openfhe", None)
