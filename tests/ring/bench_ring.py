"""How long the ring arithmetic takes in every instruction set, beside OpenFHE's transform.

Run it as `python tests/ring/bench_ring.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from fheinfer import _core
from fheinfer._testing import ring

N = 1 << 16
PRIMES = {50: 0x3FFFFFFD20001, 45: 0x1FFFFFC20001}


def least_ms(function: Callable[[], object], repeats: int = 20) -> float:
    def once() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return 1e3 * min(once() for _ in range(repeats))


def main() -> None:
    rng = np.random.default_rng(0)
    for bits, p in PRIMES.items():
        forward, inverse = map(min, zip(*_core.openfhe_ntt_ms(N, p, 100), strict=True))
        print(f"transform, prime of {bits} bits: OpenFHE {forward:.3f} ms, inverse {inverse:.3f} ms")
        for name in ring.instruction_sets():
            ring.set_instruction_set(name)
            mine = [min(times) for times in zip(*_core.ntt_ms(N, p, 300), strict=True)]
            ratios = f"{forward / mine[0]:.1f} and {inverse / mine[1]:.1f} times as fast"
            print(f"    {name:10}{mine[0]:.3f} ms, inverse {mine[1]:.3f} ms: {ratios}")
    p = PRIMES[50]
    xs, ys = rng.integers(0, p, (2, 32, N), dtype=np.uint64)
    cs = rng.integers(0, p, (22, 11), dtype=np.uint64)
    for name in ring.instruction_sets():
        ring.set_instruction_set(name)
        sums = least_ms(lambda: ring.sum_of_products(xs, ys, 1, p, None)) * 1e6 / 32 / (N / 8)
        small = least_ms(lambda: ring.sum_of_products(xs[:, :64].copy(), ys[:, :64].copy(), 1, p, None))
        combinations = least_ms(lambda: ring.linear_combinations(xs[:11], cs, [p] * 22, None), 5)
        print(
            f"{name:10}sum of 32 products {sums:.2f} ns per term for 8 residues ({small * 1e3:.0f} us in cache, of 64)"
        )
        print(f"{'':10}11 limbs to 22 {combinations:.2f} ms")


if __name__ == "__main__":
    main()
