"""Where the command line begins: signals first, then everything else is imported and run."""

from __future__ import annotations

from fheinfer import process


def main() -> None:
    """Runs `fheinfer` with the arguments of this process, and never returns normally after an error."""
    process.install()
    with process.starting():
        from fheinfer.cli.main import main as run
    run()
