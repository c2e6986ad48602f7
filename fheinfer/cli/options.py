"""Every option that several commands share, each written once: the same word means the same everywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import typer

from fheinfer.errors import UsageError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?i?b|)", re.IGNORECASE)


def parse_size(text: str | int) -> int:
    """Bytes from "6GB", "500 MB", "2GiB" or a plain number.

    Raises:
        UsageError: none of these, or nothing at all.
    """
    found = _SIZE.fullmatch(str(text).strip())
    size = int(float(found[1]) * _UNITS[found[2].lower()]) if found and found[2].lower() in _UNITS else 0
    if not 0 < size < 1 << 60:
        raise UsageError(f"{text!r} is no size; write 6GB, 500MB or a number of bytes")
    return size


def parse_slots(text: str | int) -> int:
    """A number of slots.

    Raises:
        UsageError: no power of two that a set has.
    """
    from fheinfer.packing import MOST_SLOTS

    number = int(text) if str(text).isdecimal() else 0
    if not 2 <= number <= MOST_SLOTS or number & (number - 1):
        raise UsageError(f"{text!r} is no number of slots; write a power of two up to {MOST_SLOTS}, such as 4096")
    return number


SetOption = Annotated[
    str | None,
    typer.Option(
        "--set",
        metavar="S",
        help="Parameter set (`fheinfer sets`), or auto: the one that runs a named model fastest.",
        show_default="auto for a named model, else 1",
    ),
]
ModelOption = Annotated[
    Path | None,
    typer.Option("--model", metavar="FILE", help="Model file.", show_default="the one that comes with the set"),
]
ActOption = Annotated[
    str | None,
    typer.Option(
        "--act",
        metavar="NAME|FILE.json",
        help="What approximates a ReLU (`fheinfer approx list`).",
        show_default="that of the set",
    ),
]
BackendOption = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="NAME",
        help="Who evaluates: native, or openfhe, which has sets of its own (1 becomes 1-openfhe).",
        show_default="that of the set",
    ),
]
MarginOption = Annotated[
    float | None,
    typer.Option("--margin", min=0.01, help="Factor on the ranges of calibration.", show_default="1.2"),
]
RingOption = Annotated[
    int | None,
    typer.Option("--ring", metavar="12..16", help="Choose a set of N = 2^this.", show_default="the fastest"),
]
LevelsOption = Annotated[
    int | None,
    typer.Option("--levels", metavar="L", help="Choose a set of so many levels.", show_default="the fastest"),
]
DigitsOption = Annotated[
    int | None,
    typer.Option(
        "--digits", metavar="D", help="Choose a set whose key switching has so many digits.", show_default="the fastest"
    ),
]
ScaleBitsOption = Annotated[
    int | None,
    typer.Option(
        "--scale-bits", metavar="B", help="Choose a set whose scale has so many bits.", show_default="the fastest"
    ),
]
ChainOption = Annotated[
    str | None,
    typer.Option(
        "--chain", metavar="plain|composite", help="Choose a set with this kind of primes.", show_default="the fastest"
    ),
]
SlotsOption = Annotated[
    int | None,
    typer.Option(
        "--slots",
        metavar="N",
        parser=parse_slots,
        help="Choose a set of so many slots, a power of two.",
        show_default="the fastest",
    ),
]
BootstrapsOption = Annotated[
    bool | None,
    typer.Option(
        "--bootstraps/--no-bootstraps", help="Choose a set with bootstraps, or without.", show_default="the fastest"
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        parser=parse_size,
        help="Choose a set whose server takes no more: 6GB, 500MB.",
        show_default="none",
    ),
]
BitsOption = Annotated[
    float | None,
    typer.Option(
        "--bits",
        metavar="B",
        help="Bits that outputs keep against PyTorch: 5 for the class, 8 or 11 for scores. Instead of --act.",
        show_default="what the activation of the set keeps",
    ),
]
ClientUntilOption = Annotated[
    str | None,
    typer.Option(
        "--client-until",
        metavar="NODE|MODULE",
        help="Leave the layers up to there to the client, in clear: who has client.json knows their weights.",
        show_default="nothing",
    ),
]
PlanOption = Annotated[
    Path | None,
    typer.Option(
        "--plan",
        metavar="DIR",
        help="Folder that `fheinfer compile` wrote, or the plan in it.",
        show_default="the set's own model is compiled",
    ),
]
ClientOption = Annotated[
    Path | None,
    typer.Option(
        "--client",
        metavar="FILE",
        help="The plan's client.json, or its folder.",
        show_default="client.json among the keys",
    ),
]
KeysOption = Annotated[
    Path | None,
    typer.Option("--keys", metavar="DIR", help="Folder that `fheinfer keygen` wrote.", show_default="keys/set<S>"),
]
RotationsOption = Annotated[
    str | None,
    typer.Option(
        "--rotations",
        metavar="minimal|fast|auto",
        help="Which rotation keys: few and small, one for every rotation, or what suits this machine.",
        show_default="auto",
    ),
]
PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        help="File with the secret key's passphrase on its first line.",
        show_default="$FHEINFER_PASSPHRASE",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", help="Threads that evaluate.", show_default="all"),
]
MemoryOption = Annotated[
    int | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        parser=parse_size,
        help=(
            "Limit for keys, tables and encoded constants, beside some 600 MB of the process itself: 6GB, 500MB or "
            "bytes. Without it keys may take what is free, and constants are encoded anew in every evaluation."
        ),
        show_default="none",
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help=(
            "Evaluate on a Ray cluster that this machine is a node of: HOST:PORT of its head, or auto. Without an "
            "address on one that is started here, for this command."
        ),
        show_default="on this machine",
    ),
]
RunsOption = Annotated[
    Path | None,
    typer.Option("--runs", metavar="DIR", help="Folder for runs that can be resumed.", show_default="runs"),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from where an interrupted run was.")]
VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="Print a line for every layer.")]
CsvOption = Annotated[
    Path | None, typer.Option("--csv", metavar="FILE", help="Write class and outputs of every input there.")
]
ValuesOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE.npy|.npz",
        help="Write the values there as arrays: .npz by the names of outputs, of many inputs along a first axis.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="PATH", help="Data set, or a folder of class folders.", show_default="$FHEINFER_DATA"
    ),
]
PartOption = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="P",
        help="train, test or all. Of data in one piece, a tenth is test.",
        show_default="test, or all of data in one piece",
    ),
]
ImageOption = Annotated[
    str | None, typer.Option("--image", metavar="FILE", help="Image file, or the name of one in inputs/.")
]
DepthOption = Annotated[
    int | None,
    typer.Option(
        "--depth",
        metavar="BITS",
        min=1,
        max=32,
        help="Bits of the values of images with more than 8 per channel: 12 of what 12-bit cameras store in 16.",
        show_default="what the file says",
    ),
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write.")]
OutputFolderOption = Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Where to write.")]


ServerOption = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="Let this service evaluate: https://HOST, or http://127.0.0.1:PORT."),
]
TokenOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="File with the token for the service on its first line.",
        show_default="$FHEINFER_TOKEN",
    ),
]


def with_ray_address(arguments: Sequence[str]) -> list[str]:
    """The same arguments, with `local` for the address of a `--ray` that has none: typer knows no optional values."""
    words: list[str] = []
    for word, after in zip_longest(arguments, arguments[1:]):
        words += ["--ray", "local"] if word == "--ray" and (after or "-").startswith("-") else [word]
    return words


def refuse(reason: str, **given: object) -> None:
    """Refuses options that would change nothing: those of `given`, by their name, that are there.

    Raises:
        UsageError: naming the first of them.
    """
    for name, value in given.items():
        if value is not None and value is not False:
            raise UsageError(f"--{name.replace('_', '-')} changes nothing here: {reason}; leave it out")
