"""`fheinfer bench`: kernels measured, ours beside OpenFHE's."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from fheinfer.cli.options import JsonOption, SetOption

if TYPE_CHECKING:
    from fheinfer.evaluation.bench import Report
    from fheinfer.evaluation.kernels import Row


def bench(
    set_name: SetOption = None,
    backend: Annotated[str, typer.Option("--backend", metavar="NAME", help="native, openfhe, or both.")] = "both",
    log_n: Annotated[
        int | None, typer.Option(metavar="N", help="A smaller ring, 2^N: a quick run, below 128 bits.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, max=1000, help="Runs of a kernel; the median counts.")] = 5,
    network: Annotated[bool, typer.Option("--network", help="Also a whole ResNet20, keys made in a folder.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure kernels: transforms, key switching, a convolution, ReLU, a bootstrap.

    OpenFHE at N = 2^16 takes minutes and 12 GB; OMP_NUM_THREADS sets the threads.
    """
    from fheinfer.cli.display import out, print_json, table
    from fheinfer.crypto.backends import BACKENDS
    from fheinfer.evaluation.bench import ratios, run

    name = set_name or "1"
    backends = tuple(BACKENDS) if backend == "both" else (backend,)
    reports = run(name, backends, log_n=log_n, repeats=repeats, network="resnet20" if network else "")
    found = ratios(reports)
    if as_json:
        print_json({"reports": [asdict(report) for report in reports], "ratios": found})
        return
    names = list(dict.fromkeys(row.name for report in reports for row in report.rows))
    by = [{row.name: row for row in report.rows} for report in reports]
    table(
        f"set {name}, N = 2^{reports[0].log_n}, {reports[0].threads} threads: medians, @ limbs of the input",
        ["kernel", *(report.backend for report in reports), "floor, native", "openfhe / native"],
        [
            [
                kernel,
                *(_seconds(rows.get(kernel)) for rows in by),
                next((_time(r[kernel].floor) for r in by if kernel in r and r[kernel].floor is not None), ""),
                f"{found[kernel]:.1f}" if kernel in found else "",
            ]
            for kernel in names
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
    from fheinfer.cli.progress import size

    return (
        f"{report.backend}: set {report.set_name}, {report.instruction_set}; keys made {size(report.key_bytes)}, "
        f"peak memory {size(report.peak_memory)}"
    )
