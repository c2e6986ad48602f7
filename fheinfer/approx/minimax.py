"""Minimax composites of the sign, one for each precision alpha: |x (1 + p(x)) / 2 - ReLU(x)| <= 2^-alpha on [-1, 1].

Degrees and eta are those of Lee et al., Precise Approximation of Convolutional Neural Networks for Homomorphically
Encrypted Data (IEEE Access 2023, arXiv 2105.10879); the coefficients in `minimax.json` come from our own
generator (`sign.generate`), as `fheinfer approx generate --published` writes them. For alpha 4 and 5 they differ from
the ones that are commonly copied, which are meant for p(2x) and miss the precision when they are used as p(x).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fheinfer.approx import sign
from fheinfer.approx.forms import Band
from fheinfer.approx.remez import Progress
from fheinfer.approx.sign import SignComposite
from fheinfer.errors import CorruptArtifactError, InputError, UsageError
from fheinfer.storage import read_small

SOURCE = "Lee et al., arXiv 2105.10879: degrees and eta for each alpha; coefficients generated here"
DATA = Path(__file__).with_name("minimax.json")
MAX_FILE = 1 << 20

PUBLISHED: Mapping[int, tuple[tuple[int, ...], int]] = {
    4: ((5,), 5),
    5: ((13,), 5),
    6: ((3, 7), 10),
    7: ((7, 7), 11),
    8: ((7, 15), 12),
    9: ((15, 15), 13),
    10: ((7, 7, 13), 13),
    11: ((7, 7, 27), 15),
    12: ((7, 15, 27), 15),
    13: ((15, 15, 27), 16),
    14: ((15, 27, 29), 17),
}
"""By alpha: the degrees, first stage first, and zeta, where eta = zeta 2^-alpha."""


def published(alpha: int) -> tuple[tuple[int, ...], float]:
    """Returns the published degrees, first stage first, and eta.

    Raises:
        UsageError: an alpha without published degrees.
    """
    if alpha not in PUBLISHED:
        raise UsageError(f"there are minimax composites for alpha = 4 to 14, not {alpha}; give degrees of your own")
    degrees, zeta = PUBLISHED[alpha]
    return degrees, zeta / 2**alpha


@cache
def composite(alpha: int) -> SignComposite:
    """Returns the shipped composite of this precision.

    Raises:
        UsageError: an alpha without published degrees.
    """
    published(alpha)
    return SignComposite.model_validate(json.loads(DATA.read_text())["composites"][str(alpha)])


def read(path: Path) -> SignComposite:
    """Reads a composite that `fheinfer approx generate -o` wrote.

    Raises:
        InputError: no such file, or not a composite.
    """
    try:
        data = read_small(path, MAX_FILE, "a composite")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except CorruptArtifactError as error:
        raise InputError(str(error)) from None
    try:
        return SignComposite.model_validate_json(data)
    except (ValidationError, ValueError) as error:
        reason = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
        raise InputError(f"{path} is not a composite that `fheinfer approx generate` wrote: {reason}") from None


def band(made: SignComposite) -> Band:
    """Returns where a composite is valid: from its eta on, within its error."""
    return Band(float(made.eta), made.error)


def document(progress: Progress | None = None) -> dict[str, Any]:
    """Returns the whole content of `minimax.json`, generated again."""
    made = {}
    for alpha in PUBLISHED:

        def tell(text: str, alpha: int = alpha) -> None:
            if progress:
                progress(f"alpha {alpha}, {text}")

        made[str(alpha)] = sign.generate(*published(alpha), progress=tell).model_dump(mode="json")
    return {
        "provenance": {
            "made by": "fheinfer approx generate --published",
            "method": "Remez exchange stage by stage (fheinfer/approx/remez.py, sign.py)",
            "digits": sign.DIGITS,
            "tolerance": "extrema equal to 1e-20",
            "degrees and eta": "arXiv 2105.10879",
            "form": "coefficients of T_1, T_3, ...; each stage maps [-1, 1] to [-1, 1] up to the next bound",
        },
        "composites": made,
    }
