"""Makes the keys of a parameter set: what the compiled key manifest names, and no more."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fheinfer import _core
from fheinfer.compiler import compile
from fheinfer.compiler.plan import Plan
from fheinfer.compiler.policy import KEY_POLICIES, KeyPolicy, choose
from fheinfer.crypto.artifact import Kind
from fheinfer.crypto.keystore import KeyWriter, Manifest, new_key_id, require_disk, rotation_file
from fheinfer.crypto.params import ParameterSet, parameter_set
from fheinfer.frontends import zoo
from fheinfer.machine import available_memory, require_memory
from fheinfer.model.model import Weights, shapes

Progress = Callable[[int, int], None]
"""Called with bytes written and bytes in all."""

_DISK_MARGIN = 64 << 20
_MEMORY = 3 << 30  # context, and the keys in the making: OpenFHE makes each at full height


def manifest_plan(network: str, params: ParameterSet, keys: KeyPolicy = "fast") -> Plan:
    """A plan of that network with weights of no meaning: rotations and levels do not depend on them."""
    graph = zoo.network(network)
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes(graph).items()}
    ranges = {node.name: 1.0 for node in graph.activations}
    half = (0.5,) * graph.input.attrs["shape"][0]
    weights = Weights(graph, arrays, half, half, ranges)
    return compile(weights, params, keys=keys)


def keygen(
    params: ParameterSet | str | int = 1,
    root: Path = Path("keys"),
    *,
    network: str | None = None,
    policy: str = "auto",
    force: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Writes `root`/set<name>/secret and `root`/set<name>/server, both or neither.

    Args:
        params: parameter set or its name.
        root: folder for all keys.
        network: the network whose rotations the keys must serve; that of the set by default.
        policy: "minimal", "fast", or "auto", which looks at predictions and at the memory that is free here.
        force: replace keys that are there.
        progress: called after every key.

    Raises:
        UsageError: no such policy.
        KeyStoreError: there are keys already and no `force`.
        NotEnoughMemoryError, StorageError: asked before starting, and while writing.
    """
    if not isinstance(params, ParameterSet):
        params = parameter_set(params)
    network = network or params.network
    plan = choose([manifest_plan(network, params, keys) for keys in KEY_POLICIES], policy, available_memory())
    total = plan.prediction.key_bytes
    if not params.insecure:
        require_memory(_MEMORY, f"key generation for set {params.name}")
    require_disk(root, total + _DISK_MARGIN)

    key_id = new_key_id()
    with KeyWriter(root, f"set{params.name}", params_hash=params.identity, key_id=key_id, force=force) as writer:
        written = 0

        def add(name: str, kind: Kind, payload: bytes, meta: dict[str, int] | None = None) -> None:
            nonlocal written
            writer.add_server(name, kind, payload, meta or {})
            written += len(payload)
            if progress:
                progress(min(written, total), total)

        client = _core.ClientKeys.generate(_core.Context(params.core()), key_id)
        writer.add_secret(client.secret())
        add("public.key", Kind.PUBLIC_KEY, client.public_key())
        keys = _core.NativeKeys(client) if params.native else client
        add("relinearisation.key", Kind.RELINEARISATION_KEY, keys.relinearisation_key())
        if plan.bootstraps or params.two_pictures:
            add("conjugation.key", Kind.CONJUGATION_KEY, keys.conjugation_key())
        if plan.bootstraps:
            to_sparse, to_dense = keys.encapsulation_keys()
            add("to_sparse.key", Kind.ENCAPSULATION_TO_SPARSE, to_sparse)
            add("to_dense.key", Kind.ENCAPSULATION_TO_DENSE, to_dense)
        rotations = sorted(plan.rotations, key=lambda item: item[1])
        batch = max(1, len(os.sched_getaffinity(0)))  # made in parallel, one a core
        for start in range(0, len(rotations), batch):
            part = rotations[start : start + batch]
            for (rotation, limbs), payload in zip(part, keys.rotation_keys(part), strict=True):
                add(rotation_file(rotation, limbs), Kind.ROTATION_KEY, payload, {"rotation": rotation, "limbs": limbs})
        return writer.finish(network=network, policy=plan.keys, rotations=plan.rotations)
