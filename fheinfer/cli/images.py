"""`fheinfer infer --images`: many pictures in one run, their keys loaded once."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fheinfer.cli.display import err, out, print_json, size, steps_bar, table
from fheinfer.cli.results import class_names, logits_csv
from fheinfer.compiler.plan import Plan
from fheinfer.crypto.keystore import Manifest
from fheinfer.data.images import load_image, normalise
from fheinfer.errors import InputError
from fheinfer.evaluation.metrics import precision_bits, softmax, top_class
from fheinfer.local import Inferences, infer_many, run_folder
from fheinfer.model.model import Weights
from fheinfer.storage import atomic_write

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]


def load_all(given: Sequence[Path], side: int) -> dict[str, U8]:
    """Pixels by file name of the given pictures and of those in given folders.

    Raises:
        InputError: a folder without pictures.
        ImageError: a picture that cannot be read.
    """
    files: list[Path] = []
    for path in given:
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"{path}: no picture in this folder ({', '.join(SUFFIXES)})")
        files += inside
    pixels = {}
    for number, file in enumerate(files):  # two folders may hold pictures of one name
        pixels[f"{number:05d}-{file.name}"] = load_image(file, side)
    return pixels


def evaluated(
    plan: Plan, pixels: Mapping[str, U8], weights: Weights, path: Path, keys: Path, runs: Path, *, resume: bool,
    keep: bool = False,
) -> Inferences:
    """All of them encrypted, evaluated and decrypted, under a bar; an interrupted run goes on with `resume`."""
    together = np.stack([np.frombuffer(hashlib.sha256(p.tobytes()).digest(), np.uint8) for p in pixels.values()])
    folder = run_folder(runs, plan, together, Manifest.load(keys / "server" / "manifest.json").key_id)
    if resume and not folder.exists():
        raise InputError(f"nothing to resume: no run of these pictures, set and weights in {runs}; leave out --resume")
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    pictures = {name: normalise(p, weights.mean, weights.std) for name, p in pixels.items()}
    have = len(list((folder / "results").glob("*.ct")))
    with steps_bar("pictures") as progress:
        progress(have, len(pictures))
        found = infer_many(
            plan, pictures, keys, path, folder, resume=resume,
            on_event=lambda e: progress(have + e["index"] + 1, len(pictures)) if e["event"] == "picture" else None,
        )
    if not keep:
        shutil.rmtree(folder)
    return found


def report(found: Inferences, plain: Mapping[str, F64], csv_file: Path | None, as_json: bool) -> None:
    """A line a picture, and what all of them took."""
    rows = [_row(name, logits, found, plain) for name, logits in found.logits.items()]
    if csv_file:
        atomic_write(csv_file, [_csv(rows).encode()])
    each = found.seconds["evaluate"] / max(1, len(found.each))
    if as_json:
        totals = {"seconds": found.seconds, "seconds_per_picture": each, "memory": found.memory}
        print_json({"pictures": rows, **totals})
        return
    columns = ["picture", "class", "probability", "seconds", *(["PyTorch", "worst bits"] if plain else [])]
    table("classes", columns, [
        [row["picture"], row["class"], f"{100 * row['probability']:.1f} %",
         "-" if row["seconds"] is None else f"{row['seconds']:.1f}",
         *([row["plain_class"], f"{row['worst_bits']:.1f}"] if plain else [])] for row in rows], left=2)
    if plain:
        same = sum(row["class"] == row["plain_class"] for row in rows)
        out.print(f"the class of PyTorch on {same} of {len(rows)}")
    err.print(f"{each:.1f} s a picture; " + ", ".join(f"{name} {s:.1f} s" for name, s in found.seconds.items()) + "; "
              + ", ".join(f"{name} {size(n)} at peak" for name, n in found.memory.items()))


def _row(name: str, logits: F64, found: Inferences, plain: Mapping[str, F64]) -> dict[str, Any]:
    classes, best = class_names(logits), top_class(logits)
    row: dict[str, Any] = {
        "picture": name.partition("-")[2], "class": classes[best], "probability": float(softmax(logits)[best]),
        "seconds": found.each.get(name), "logits": [float(v) for v in logits],
    }
    if plain:
        bits = precision_bits(plain[name], logits)
        row |= {"plain_class": classes[top_class(plain[name])], "worst_bits": bits.minimum}
    return row


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    names = [name for name in rows[0] if name != "logits"]
    return logits_csv(names, [([row[name] for name in names], row["logits"]) for row in rows])
