"""fheinfer: a neural network looks at a picture that it never sees."""

from __future__ import annotations

import os

# Waiting threads that spin take the cores from the ones that work, many times over on small rings and on shared
# machines. Read once, when the OpenMP runtime is loaded, so it is set before the core is.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    from fheinfer import _core  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"the compiled part of fheinfer cannot be loaded ({error}); install with `pip install .` (or `make demo`), "
        "and run from outside the source folder unless the install is editable"
    ) from error

