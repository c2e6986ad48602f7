"""A plan in words: what `print(plan)` and `fheinfer compile` show before anything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fheinfer.approx.fidelity import OFFERED
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.crypto.client_tensors import OutputSpec
from fheinfer.model.describe import normalisation
from fheinfer.speed import machine_speed, scale_seconds


def summary(
    spec: ClientSpec,
    *,
    activation: str,
    steps: int,
    bootstraps: int,
    multiplications: int,
    widest: int,
    bits: float | None = None,
    kept: float | None = None,
) -> str:
    """Lines about a plan: sizes, levels, and what a run takes on this machine.

    Args:
        spec: what a client knows of it.
        activation: what approximates its activations; "" for none.
        steps, bootstraps, multiplications: how many there are; the last of products with plaintexts.
        widest: ciphertexts of the largest value.
        bits: that encryption is expected to leave of the worst output; None where that is not known.
        kept: that polynomials leave of PyTorch's outputs, at least; infinite where they are exact.
    """
    params = spec.params
    ring = f"N = 2^{params.log_n}, {params.slots:,} slots, {params.top_level} level{'s' * (params.top_level != 1)}"
    rows = [
        ("set", f"{params.name} on the {spec.backend} backend: {ring}{', below 128 bits' * params.insecure}"),
        ("input", _input(spec)),
        ("normalisation", normalisation(spec.input_shape, spec.mean, spec.std)),
        *(("output", _output(output)) for output in spec.outputs),
        ("work", _work(steps, bootstraps, multiplications, widest)),
    ]
    if activation:
        rows.append(("activations", activation))
    if bits is not None:
        rows.append(("precision", f"encryption is expected to leave {bits:.1f} bits of the worst output"))
    if kept is not None and kept < math.inf:
        rows.append(("", _polynomials(kept, bits)))
    threads = machine_speed().threads
    for policy, needs in spec.keys.items():
        rows.append(
            (
                f"{policy} keys",
                f"{scale_seconds(needs.seconds):.3g} s on this machine ({threads} thread{'s' * (threads != 1)}), "
                f"{_bytes(needs.peak_memory)} of memory, {len(needs.rotations)} rotation keys, "
                f"{_bytes(needs.key_bytes)} of keys",
            )
        )
    return "\n".join([f"{spec.model}, plan {spec.plan[:16]}", *(f"  {name:<14}{text}" for name, text in rows)])


def grouped(degrees: Mapping[str, tuple[int, ...]]) -> str:
    """Which degrees the polynomials of how many activations have, and the name of the first of each."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, numbers in degrees.items():
        groups.setdefault(numbers, []).append(name)
    return ", ".join(
        f"degree{'s' * (len(numbers) > 1)} {' and '.join(map(str, numbers))} in {_named(names)}"
        for numbers, names in groups.items()
    )


def _named(names: Sequence[str]) -> str:
    return repr(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _polynomials(kept: float, bits: float | None) -> str:
    """What polynomials cost of the network's own outputs, and what to do where that is more than encryption does."""
    text = f"polynomials are expected to leave {f'{kept:.1f} bits' if kept else 'no bit'} of PyTorch's outputs"
    more = next((offered for offered in OFFERED if offered > round(kept, 1)), None)
    if bits is None or kept >= bits or more is None:
        return text
    return f"{text}: bits={more} asks for more, `fheinfer accuracy` measures"


def _input(spec: ClientSpec) -> str:
    shape = "x".join(map(str, spec.input_shape))
    parts = [f"{shape}, {_ciphertexts(spec.input.ciphertexts)} at level {spec.input.level}", _bytes(spec.input.bytes)]
    if spec.before is not None:
        parts.insert(1, f"the client computes {spec.before.until} and all before it in clear")
    return ", ".join(parts)


def _output(output: OutputSpec) -> str:
    shape = f"{len(output.classes)} classes" if output.classes else "x".join(map(str, output.shape))
    final = f", {output.final.replace('_', '-')} by the client" if output.final else ""
    return f"{output.name}: {shape}, {_ciphertexts(output.ciphertexts)}{final}"


def _work(steps: int, bootstraps: int, multiplications: int, widest: int) -> str:
    return (
        f"{steps} steps, {bootstraps} bootstraps, {multiplications:,} products with plaintexts, values of up to "
        f"{_ciphertexts(widest)}"
    )


def _ciphertexts(count: int) -> str:
    return f"{count} ciphertext{'s' * (count != 1)}"


def _bytes(n: float) -> str:
    """In decimal units."""
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} GB"
