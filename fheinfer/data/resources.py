"""Files that come with fheinfer: the default weights and the images to try.

They stand at the top of a checkout (`weights/`, `inputs/`) and, in a wheel, in `fheinfer/data/`.
"""

from __future__ import annotations

from pathlib import Path

from fheinfer.errors import WeightsError

_PACKAGE = Path(__file__).resolve().parents[1]
_ROOTS = (_PACKAGE / "data", _PACKAGE.parent)  # a wheel, a checkout


def default_model(name: str = "resnet20") -> Path:
    """The file of the shipped model of that name.

    Raises:
        WeightsError: this copy of fheinfer has none.
    """
    for root in _ROOTS:
        path = root / "weights" / f"{name}.safetensors"
        if path.is_file():
            return path
    raise WeightsError(
        f"no model {name} came with this copy of fheinfer; train one with "
        f"`fheinfer train --network {name} -o FILE`, or name a model file"
    )


def input_folders() -> tuple[Path, ...]:
    """Where a bare image name is looked for: `inputs/` here, then the images of fheinfer itself."""
    return (Path("inputs"), *(root / "inputs" for root in _ROOTS))


def find_input(name: str) -> Path | None:
    """The image of that bare name in one of the `input_folders`, if any; names with folders in them find nothing."""
    if not name or Path(name).name != name:
        return None
    return next((path for folder in input_folders() if (path := folder / name).is_file()), None)
