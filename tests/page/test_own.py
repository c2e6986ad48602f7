"""The service that the page starts for itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fheinfer.errors import BackendError
from fheinfer.evaluation import bench
from fheinfer.service.page import own
from fheinfer.service.page.own import OwnService


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: it holds modules that must not be imported, like sources without the compiled core."""
    for name in ("fheinfer/__init__.py", "typer.py", "numpy.py", "json.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('this was found in the current folder')")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_nothing_is_imported_from_the_current_folder(elsewhere: Path, tiny_plan_folder: Path) -> None:
    shutil.copytree(tiny_plan_folder, elsewhere / "models" / "tiny")
    with OwnService(Path("page/service"), Path("models")) as service:
        assert service.token.startswith("fi_")
        assert service.url.startswith("http://127.0.0.1:")


def test_measuring_imports_nothing_from_there_either(elsewhere: Path) -> None:
    assert bench.run("1", ("native",), log_n=10, repeats=1)


def test_its_log_outlives_a_start_and_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / own.LOG
    log.write_text("error: of an earlier start\n")
    with pytest.raises(BackendError, match="did not start") as error:
        OwnService(tmp_path / "service", tmp_path / "nothing")
    assert "earlier" not in str(error.value)
    assert log.read_text().startswith("error: of an earlier start\n")
    assert log.read_text().count("error: ") == 2
    monkeypatch.setattr(own, "LOG_BYTES", 10)
    with pytest.raises(BackendError, match="did not start"):
        OwnService(tmp_path / "service", tmp_path / "nothing")
    assert "earlier" in (tmp_path / "service.log.old").read_text()
    assert log.read_text().count("error: ") == 1
