"""`fheinfer sets`, `plan` and `compile`: what a run gives and costs, before anything runs; and the files for it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fheinfer.cli import choices
from fheinfer.cli.options import (
    ActOption,
    BackendOption,
    BitsOption,
    BootstrapsOption,
    ChainOption,
    ClientUntilOption,
    DigitsOption,
    JsonOption,
    LevelsOption,
    LimitOption,
    MarginOption,
    ModelOption,
    OutputFolderOption,
    PlanOption,
    RingOption,
    RotationsOption,
    ScaleBitsOption,
    SetOption,
    SlotsOption,
    refuse,
)
from fheinfer.errors import UsageError

if TYPE_CHECKING:
    from fheinfer.compiler.plan import Plan
    from fheinfer.crypto.client_spec import ClientSpec
    from fheinfer.crypto.key_policy import KeyPolicy
    from fheinfer.crypto.params import ParameterSet

_WHOM = {
    "plan.safetensors": "for the server",
    "client.json": "for clients: keygen, encrypt, decrypt",
    "client.safetensors": "for clients, beside client.json: the layers that they compute",
    "why.json": "for `fheinfer plan --why`",
}
_UNSAFE = re.compile(r"[^A-Za-z0-9_.+-]")
_SECURITY = """\
Security: at least 128 bits for every set, against classical attackers. log2(QP) stays below {n16} at N = 2^16 and {n15}
at 2^15, what the HomomorphicEncryption.org tables (as in OpenFHE's HEStd_128_classic) allow for a ternary secret; the
main secret is dense ternary. "bits" is what the lattice estimator gives for the primal attack (uSVP, cost model
MATZOV). Bootstrapping switches to an ephemeral secret of weight 32, only modulo q_0 and one special prime (ePrint
2022/024): about 170 bits by a closed form. No set gives less; a chain that would is refused.
quad and turbo have a prime for every two levels, and one of half the size for the odd ones
(docs/explanation/native.md)."""


def sets(as_json: JsonOption = False) -> None:
    """List parameter sets: what each gives and costs, and what its security rests on."""
    from fheinfer.cli.display import out, print_json, size, spinner, table
    from fheinfer.crypto.params import parameter_sets
    from fheinfer.crypto.security import MAX_LOG_QP

    with spinner("compiling") as tell:
        rows = []
        for params in parameter_sets():
            tell(f"set {params.name}")
            rows.append(_set_row(params))
    if as_json:
        print_json(rows)
        return
    columns = ["set", "N", "slots", "activation", "digits", "CtS,StC", "limbs + P", "q0/q bits", "log2 QP", "bits"]
    table(
        f"parameter sets (with fast keys; keys, memory and time predicted for {this_machine()})",
        [*columns, "levels", "keys", "memory", "time"],
        [
            [
                r["set"],
                r["N"],
                r["slots"],
                r["activation"],
                r["digits"],
                r["budgets"],
                f"{r['limbs']} + {r['special_primes']}",
                r["prime_bits"],
                r["log_qp"],
                r["security_bits"],
                r["levels"],
                size(r["key_bytes"]),
                size(r["memory"]),
                f"{r['seconds']:.0f} s",
            ]
            for r in rows
        ],
    )
    out.print(_SECURITY.format(n16=MAX_LOG_QP[16], n15=MAX_LOG_QP[15]))


def _set_row(params: ParameterSet) -> dict[str, Any]:
    from fheinfer.compiler.plan_cache import compiled
    from fheinfer.compiler.presets import preset
    from fheinfer.crypto.backends import backend
    from fheinfer.crypto.security import estimate
    from fheinfer.speed import scale_seconds

    meant = preset(params)
    context = backend(meant.backend).context(params)
    spec = choices.spec_of(compiled(choices.model_file(None, params), params))
    needs = spec.keys.get("fast") or next(iter(spec.keys.values()))
    return {
        "set": params.name,
        "N": f"2^{params.log_n}",
        "slots": params.slots,
        "model": spec.model,
        "activation": meant.activation,
        "backend": meant.backend,
        "digits": params.digits,
        "budgets": f"{params.cts_budget},{params.stc_budget}",
        "limbs": len(context.q),
        "special_primes": len(context.p),
        "prime_bits": f"{params.first_bits}/{'2x' if params.composite else ''}{params.scale_bits}",
        "log_qp": context.log_qp,
        "security_bits": estimate(params.name),
        "levels": params.levels,
        "key_bytes": needs.key_bytes,
        "memory": needs.peak_memory,
        "seconds": scale_seconds(needs.seconds),
    }


def this_machine() -> str:
    """Which machine predictions are scaled to, in words."""
    from fheinfer.speed import machine_speed

    threads = machine_speed().threads
    return f"this machine, {threads} {'thread' if threads == 1 else 'threads'}"


def plan(
    plan: PlanOption = None,
    set_name: SetOption = None,
    model: ModelOption = None,
    network: Annotated[
        str | None, typer.Option("--network", metavar="N", help="Plan a network of the zoo without weights.")
    ] = None,
    act: ActOption = None,
    backend: BackendOption = None,
    bits: BitsOption = None,
    margin: MarginOption = None,
    memory: LimitOption = None,
    ring: RingOption = None,
    levels: LevelsOption = None,
    rotations: RotationsOption = None,
    why: Annotated[
        bool, typer.Option("--why", help="Show why auto chose the parameter set, and what else fits.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a run will do and take, before anything runs.

    Of what a chosen set has to keep to, `fheinfer compile` takes more: show its DIR by --plan.
    """
    from fheinfer.cli.display import print_json, spinner
    from fheinfer.crypto.key_policy import choose
    from fheinfer.machine import available_memory

    with spinner("compiling"):
        limits = {"memory": memory, "ring": ring, "levels": levels}
        found = _planned(plan, set_name, model, network, act, backend, margin, bits, limits)
    if why:
        _print_why(found, as_json=as_json)
        return
    policy = choose(found.keys, rotations or "auto", available_memory())
    if as_json:
        print_json(_plan_fields(found, policy))
    else:
        _print_plan(found, policy)


def _print_why(plan: Plan, *, as_json: bool) -> None:
    from dataclasses import asdict

    from fheinfer.cli.display import out, print_json
    from fheinfer.compiler.why import lines

    if not plan.why:
        raise UsageError(f"set {plan.params.name} was named and not chosen; --set auto chooses one, and says why")
    if as_json:
        print_json([asdict(reason) for reason in plan.why])
        return
    for line in lines(plan.why):
        out.print(line)


def _planned(
    plan: Path | None,
    set_name: str | None,
    model: Path | None,
    network: str | None,
    act: str | None,
    backend: str | None,
    margin: float | None,
    bits: float | None,
    limits: Mapping[str, int | None],
) -> Plan:
    from fheinfer.compiler.plan import load

    if network is None:
        return load(choices.plan_folder(plan, set_name, model, act, backend, margin, bits, limits))
    refuse("--network says what to plan", plan=plan, model=model)
    refuse("--network is planned on a named set", **limits)
    from fheinfer.compiler.activations import RANGE_MARGIN
    from fheinfer.compiler.pipeline import compile as compile_model
    from fheinfer.frontends import zoo

    params, placeholder = choices.parameters(set_name, backend), zoo.placeholder(zoo.network(network))
    choices.require_relus(placeholder, act)
    return compile_model(
        placeholder,
        params,
        activation=act,
        bits=bits,
        backend=backend,
        margin=RANGE_MARGIN if margin is None else margin,
    )


def _plan_fields(plan: Plan, policy: KeyPolicy) -> dict[str, Any]:
    import numpy as np

    from fheinfer.compiler.plan import describe

    client = plan.client
    return {
        **describe(plan),
        "rotations": policy,
        "predictions": predictions(client),
        "client": {
            "input_shape": client.input_shape,
            "input_level": client.input.level,
            "input_scale": client.input.scale,
            "input_ciphertexts": client.input.ciphertexts,
            "outputs": [
                {
                    "name": output.name,
                    "shape": output.shape,
                    "scale": output.scale,
                    "bound": output.bound,
                    "ciphertexts": output.ciphertexts,
                    "final": output.final,
                    "classes": output.classes,
                }
                for output in client.outputs
            ],
        },
        "steps": [
            {
                "name": step.name,
                "op": step.op.kind,
                "inputs": step.inputs,
                "level": step.level,
                "scale": np.asarray(step.scale).tolist(),
                "packing": step.packing.describe(),
                "seconds": dict(step.seconds),
            }
            for step in plan.steps
        ],
    }


def _print_plan(plan: Plan, policy: KeyPolicy) -> None:
    import numpy as np

    from fheinfer.cli.display import out, size, table
    from fheinfer.speed import scale_seconds

    factor = scale_seconds(1.0)
    table(
        f"{plan.model} on set {plan.params.name}",
        ["step", "operation", "packing", "level", "scale", "predicted s"],
        [
            [
                s.name,
                s.op.kind,
                s.packing.describe(),
                s.level,
                f"{np.abs(s.scale).max():.3g}",
                f"{factor * s.seconds.get(policy, 0.0):.2f}",
            ]
            for s in plan.steps
        ],
        left=3,
    )
    out.print(
        f"{plan.bootstraps} bootstraps, {plan.multiplications:,} products with plaintexts; "
        f"input level {plan.client.input.level}"
    )
    print_predictions(plan.client, policy)
    sizes = {"tables": plan.table_bytes, "input": plan.client.input.bytes, "output": plan.client.output_bytes}
    out.print("predicted: " + ", ".join(f"{name} {size(n)}" for name, n in sizes.items()))


def predictions(spec: ClientSpec) -> Mapping[str, dict[str, Any]]:
    """By kind of rotation keys what a run takes, scaled to this machine; and as it was for the reference machine."""
    from fheinfer.speed import scale_seconds

    return {
        policy: {
            "rotations": len(needs.rotations),
            "key_bytes": needs.key_bytes,
            "peak_memory": needs.peak_memory,
            "seconds": scale_seconds(needs.seconds),
            "reference_seconds": needs.seconds,
        }
        for policy, needs in spec.keys.items()
    }


def print_predictions(spec: ClientSpec, shown: str | None = None) -> None:
    """A table of `predictions`; `shown` is the kind that was chosen."""
    from fheinfer.cli.display import size, table

    table(
        f"predicted by rotation keys, for {this_machine()}",
        ["rotation keys", "number", "all keys", "server memory", "seconds"],
        [
            [
                f"{policy}, shown" if policy == shown else policy,
                needs["rotations"],
                size(needs["key_bytes"]),
                size(needs["peak_memory"]),
                f"{needs['seconds']:.1f}",
            ]
            for policy, needs in predictions(spec).items()
        ],
    )


def compile(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL]", help="Model file; by default the one that comes with the set."),
    ] = None,
    set_name: SetOption = None,
    act: ActOption = None,
    backend: BackendOption = None,
    bits: BitsOption = None,
    margin: MarginOption = None,
    memory: LimitOption = None,
    ring: RingOption = None,
    levels: LevelsOption = None,
    digits: DigitsOption = None,
    scale_bits: ScaleBitsOption = None,
    chain: ChainOption = None,
    slots: SlotsOption = None,
    bootstraps: BootstrapsOption = None,
    client_until: ClientUntilOption = None,
    output: OutputFolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compile a model: write the plan, for servers, and client.json, for clients, to DIR (plans/<model>-<set>)."""
    from fheinfer.cli.display import out, print_json, size, spinner
    from fheinfer.compiler.activations import RANGE_MARGIN
    from fheinfer.compiler.pipeline import compile as compile_model
    from fheinfer.compiler.plan import FILE_NAME
    from fheinfer.compiler.why import FILE_NAME as WHY
    from fheinfer.crypto.client_layers import companion
    from fheinfer.crypto.client_spec import FILE_NAME as CLIENT
    from fheinfer.model.model import load
    from fheinfer.storage import require_writable

    params = choices.set_of(set_name, model, backend)
    wanted = choices.wanted(
        params,
        memory=memory,
        ring=ring,
        levels=levels,
        digits=digits,
        scale_bits=scale_bits,
        chain=chain,
        slots=slots,
        bootstraps=bootstraps,
    )
    loaded = load(choices.model_file(model, params))
    choices.require_relus(loaded, act)
    label = params if isinstance(params, str) else params.name
    folder = output or Path("plans") / _UNSAFE.sub("_", f"{loaded.name}-{label}")
    # Before the work: whether the first folder that is missing can be made.
    require_writable(next((p for p in (folder, *folder.parents) if p.parent.exists()), folder))
    with spinner("compiling"):
        plan = compile_model(
            loaded,
            params,
            activation=act,
            bits=bits,
            backend=backend,
            margin=RANGE_MARGIN if margin is None else margin,
            client_until=client_until,
            wanted=wanted,
        )
        plan.save(folder)
    names = [FILE_NAME, CLIENT, *([companion(Path(CLIENT)).name] if plan.client.before else [])]
    names += [WHY] if plan.why else []
    files = {name: (folder / name).stat().st_size for name in names}
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "model": plan.model,
                "set": plan.params.name,
                "activation": plan.activation,
                "backend": plan.backend.name,
                "identity": plan.identity,
                "bootstraps": plan.bootstraps,
                "files": files,
                "client_until": plan.client.before.until if plan.client.before else None,
                "expected_bits": plan.bits,
                "polynomial_bits": None if plan.kept == math.inf else plan.kept,
                "ciphertexts": max(plan.value_ciphertexts.values()),
                "predictions": predictions(plan.client),
            }
        )
        return
    out.print(str(plan))
    for name, count in files.items():
        out.print(f"{folder / name}: {size(count)}, {_WHOM[name]}")
