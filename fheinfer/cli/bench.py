"""`fheinfer bench`: kernels measured, ours beside OpenFHE's."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from fheinfer.cli.display import out, print_json, size, table
from fheinfer.cli.plan import JsonOption, SetOption
from fheinfer.evaluation.bench import BACKENDS, Report, Row, ratios, run


def bench(
    set_name: SetOption = "1",
    backend: Annotated[str, typer.Option(help="native, openfhe, or both.")] = "both",
    log_n: Annotated[int | None, typer.Option(help="A smaller ring, 2^this: a quick run, below 128 bits.")] = None,
    repeats: Annotated[int, typer.Option(min=1, max=1000, help="Runs of a kernel; the median counts.")] = 5,
    network: Annotated[bool, typer.Option("--network", help="Also a whole ResNet20, keys made in a folder.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure kernels: transforms, key switching, a convolution, ReLU, a bootstrap.

    OpenFHE at N = 2^16 takes minutes and 12 GB; OMP_NUM_THREADS sets the threads.
    """
    backends = BACKENDS if backend == "both" else (backend,)
    reports = run(set_name, backends, log_n=log_n, repeats=repeats, network="resnet20" if network else "")
    if as_json:
        print_json({"reports": [asdict(report) for report in reports], "ratios": ratios(reports)})
        return
    found, columns = ratios(reports), [report.backend for report in reports]
    names = list(dict.fromkeys(row.name for report in reports for row in report.rows))
    by = [{row.name: row for row in report.rows} for report in reports]
    table(
        f"set {set_name}, N = 2^{reports[0].log_n}, {reports[0].threads} threads: medians, @ limbs of the input",
        ["kernel", *columns, "floor, native", "openfhe / native"],
        [
            [
                name,
                *(_seconds(rows.get(name)) for rows in by),
                next((_time(r[name].floor) for r in by if name in r and r[name].floor is not None), ""),
                f"{found[name]:.1f}" if name in found else "",
            ]
            for name in names
        ],
    )
    for report in reports:
        out.print(_summary(report))


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1e3:.3f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _seconds(row: Row | None) -> str:
    if row is None:
        return ""
    return _time(row.seconds) + ("" if row.level is None else f" @ {row.level + 1:>2}")


def _summary(report: Report) -> str:
    return (
        f"{report.backend}: set {report.set_name}, {report.cpu_form}; keys made {size(report.key_bytes)}, "
        f"peak memory {size(report.peak_memory)}"
    )
