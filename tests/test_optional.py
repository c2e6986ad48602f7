"""Packages that may be missing: what works without them, and what the rest says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import fheinfer
from fheinfer.errors import UsageError, WeightsError
from fheinfer.model.model import Model
from fheinfer.optional import needs, require

WITHOUT = """
import sys
for package in ("torch", "matplotlib", "mpmath", "ray"):
    sys.modules[package] = None
from fheinfer.cli.entry import main
main()
"""


def missing(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_what_is_missing_is_named_with_two_ways_to_get_it() -> None:
    says = r"a plot needs matplotlib: pip install matplotlib \(or pip install '\.\[plot\]'"
    with pytest.raises(UsageError, match=says), needs("matplotlib", "a plot"):
        raise missing("matplotlib.figure")
    with pytest.raises(WeightsError, match="pip install torch "), needs("torch", "reading it", WeightsError):
        raise missing("torch")


def test_another_missing_package_is_not_taken_for_it() -> None:
    with pytest.raises(ModuleNotFoundError, match="kiwisolver"), needs("matplotlib", "a plot"):
        raise missing("kiwisolver")


def test_asking_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    require("mpmath", "it")
    monkeypatch.setitem(__import__("sys").modules, "mpmath", None)
    with pytest.raises(UsageError, match="pip install mpmath"):
        require("mpmath", "it")


def test_an_encrypted_run_needs_none_of_them(
    process: Callable[..., Any], tiny_keys: Path, tiny_plan_folder: Path, tiny_image_file: Path
) -> None:
    options = ["--plan", tiny_plan_folder, "--keys", tiny_keys, "--image", tiny_image_file]
    result = process("infer", *options, "--json", python=WITHOUT)
    assert result.code == 0, result.err
    assert '"logits"' in result.out


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["approx", "show", "max:a7"], ""),
        (["approx", "plot", "relu:3"], "a plot needs matplotlib: pip install matplotlib"),
        (["approx", "generate", "--degrees", "3,3", "--eta", "0.1"], "needs mpmath: pip install mpmath"),
        (["precision", "--image", "vale.jpg"], "needs matplotlib: pip install matplotlib"),
        (
            ["evaluate", "-i", ".", "-o", "out", "--ray"],
            "evaluation on several machines needs ray: pip install ray (or",
        ),
        (["serve", "--ray"], "evaluation on several machines needs ray: pip install ray (or"),
        (["accuracy", "--mode", "encrypted", "--ray"], "evaluation on several machines needs ray: pip install ray (or"),
    ],
)
def test_the_command_line_without_them(process: Callable[..., Any], arguments: list[str], says: str) -> None:
    result = process(*arguments, python=WITHOUT)
    assert result.code == (2 if says else 0), result.err
    assert says in result.err
    assert "Traceback" not in result.err


def test_calibration_asks_for_torch_before_it_reads_data(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for calibrate in (tiny_model.calibrate, partial(fheinfer.calibrate, tiny_model)):
        with pytest.raises(UsageError, match="calibration needs torch: pip install torch"):
            calibrate(tmp_path / "missing")


def test_importing_fheinfer_and_using_it_loads_none_of_them(process: Callable[..., Any]) -> None:
    names = "(n for n in fheinfer.__all__ if n != 'Remote')"  # whose httpx loads rich for a command of its own
    code = f"import sys, fheinfer; [getattr(fheinfer, n) for n in {names}]; print(*sys.modules)"
    result = process(python=code)
    assert result.code == 0, result.err
    loaded = {name.split(".")[0] for name in result.out.split()}
    assert not loaded & {"torch", "matplotlib", "mpmath", "typer", "rich"}
    first = process(python="import sys, fheinfer; print(*sys.modules)")
    assert not set(first.out.split()) & {"numpy", "fheinfer._core", "fheinfer.client", "fheinfer.server"}
