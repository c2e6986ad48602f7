"""`fheinfer sets` and `fheinfer plan`: what a run gives and costs, before anything runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from fheinfer.cli.display import out, print_json, size, table
from fheinfer.compiler.pipeline import compile
from fheinfer.compiler.plan import Plan
from fheinfer.compiler.policy import KEY_POLICIES, choose
from fheinfer.crypto.keygen import manifest_plan
from fheinfer.crypto.keystore import Manifest
from fheinfer.crypto.params import MAX_LOG_QP, parameter_set, parameter_sets
from fheinfer.data.resources import default_weights
from fheinfer.machine import available_memory
from fheinfer.model.model import Weights
from fheinfer.model.model import load as load_weights

JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
SetOption = Annotated[
    str, typer.Option("--set", help="Parameter set (`fheinfer sets`); 1+f1g2 is set 1 with that activation.")
]
PolicyOption = Annotated[
    str,
    typer.Option(
        "--keys", help="Rotation keys: minimal, fast, or auto: the fastest for which 5 GB of server memory suffice."
    ),
]
WeightsOption = Annotated[Path | None, typer.Option("--weights", help="Weights (.safetensors); ours by default.")]
DataOption = Annotated[Path | None, typer.Option(help="Folder of CIFAR-10 (docs/formats.md); default $FHEINFER_DATA.")]


def set_folder(keys: Path, set_name: str) -> Path:
    """Where the keys of a set are among all keys."""
    return keys / f"set{parameter_set(set_name).name}"


def plan_for(folder: Path, weights: Weights, set_name: str) -> Plan:
    """What a server with these keys will run."""
    return compile(weights, set_name, keys=Manifest.load(folder / "server" / "manifest.json").policy)


def sets(as_json: JsonOption = False) -> None:
    """Parameter sets: what each gives and costs, and what its security rests on."""
    from fheinfer import _core

    rows: list[dict[str, Any]] = []
    for params in parameter_sets():
        context, plan = _core.Context(params.core()), manifest_plan(params.network, params)
        twice = "2x" if params.paired else ""
        rows.append(
            {
                "set": params.name,
                "N": f"2^{params.log_n}",
                "slots": params.slots,
                "activation": params.activation,
                "digits": params.digits,
                "budgets": f"{params.cts_budget},{params.stc_budget}",
                "limbs": len(context.q),
                "specials": len(context.p),
                "prime_bits": f"{params.first_bits}/{twice}{params.scale_bits}",
                "log_qp": context.log_qp,
                "levels": params.levels,
                "key_bytes": plan.prediction.key_bytes,
                "memory": plan.prediction.peak_memory,
                "seconds": plan.prediction.seconds,
            }
        )
    if as_json:
        print_json(rows)
        return
    table(
        "parameter sets (with fast keys; keys, memory and time predicted)",
        [
            "set",
            "N",
            "slots",
            "activation",
            "digits",
            "CtS,StC",
            "limbs + P",
            "q0/q bits",
            "log2 QP",
            "levels",
            "keys",
            "memory",
            "time",
        ],
        [
            [
                r["set"],
                r["N"],
                r["slots"],
                r["activation"],
                r["digits"],
                r["budgets"],
                f"{r['limbs']} + {r['specials']}",
                r["prime_bits"],
                r["log_qp"],
                r["levels"],
                size(r["key_bytes"]),
                size(r["memory"]),
                f"{r['seconds']:.0f} s",
            ]
            for r in rows
        ],
    )
    out.print(
        f"Security: 128 bits for every set. log2(QP) stays below {MAX_LOG_QP[16]} at N = 2^16 and {MAX_LOG_QP[15]} at "
        "2^15, what\nthe HomomorphicEncryption.org tables (as in OpenFHE's HEStd_128_classic) allow for a ternary "
        "secret; the main\nsecret is dense ternary. Bootstrapping switches to an ephemeral secret of weight 32, only "
        "modulo q_0 and one\nspecial prime (ePrint 2022/024). No set gives less; a chain that would is refused.\n"
        "quad and turbo have a prime for every two levels, and one of half the size for the odd ones (docs/native.md)."
    )


def plan(
    set_name: SetOption = "1",
    weights: WeightsOption = None,
    network: Annotated[str | None, typer.Option(help="Plan a network of the zoo without weights.")] = None,
    policy: PolicyOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """What a run will do and take, before anything runs."""

    plans = _plans(set_name, weights, network)
    made = choose(plans, policy, available_memory())
    prediction = asdict(made.prediction)
    if as_json:
        print_json(
            {
                "network": made.network,
                "set": made.params.name,
                "bootstraps": made.bootstraps,
                "multiplications": made.multiplications,
                "keys": made.keys,
                "prediction": prediction,
                "policies": {p.keys: asdict(p.prediction) for p in plans},
                "rotations": made.rotations,
                "client": asdict(made.client),
                "steps": [
                    {
                        "name": s.name,
                        "op": s.op,
                        "inputs": s.inputs,
                        "level": s.level,
                        "scale": np.asarray(s.scale).tolist(),
                        "layout": repr(s.layout),
                        "seconds": s.seconds,
                    }
                    for s in made.steps
                ],
            }
        )
        return
    table(
        f"{made.network} on set {made.params.name}",
        ["step", "operation", "layout", "level", "scale", "predicted s"],
        [
            [s.name, s.op, repr(s.layout), s.level, f"{np.abs(s.scale).max():.3g}", f"{s.seconds:.2f}"]
            for s in made.steps
        ],
        left=3,
    )
    out.print(
        f"{made.bootstraps} bootstraps, {made.multiplications:,} products with plaintexts, "
        f"{len(made.rotations)} rotation keys; input level {made.client.input_level}"
    )
    table(
        "predicted by keys",
        ["keys", "rotations", "on disk", "server memory", "seconds"],
        [
            [
                f"{p.keys}, shown" if p is made else p.keys,
                len(p.rotations),
                size(p.prediction.key_bytes),
                size(p.prediction.peak_memory),
                f"{p.prediction.seconds:.0f}",
            ]
            for p in plans
        ],
    )
    out.print(
        "predicted: "
        + ", ".join(
            f"{key.replace('_', ' ')} {size(prediction[key])}"
            for key in ("table_bytes", "input_bytes", "output_bytes")
        )
    )


def _plans(set_name: str, weights: Path | None, network: str | None) -> list[Plan]:
    if network:
        return [manifest_plan(network, parameter_set(set_name), keys) for keys in KEY_POLICIES]
    trained = load_weights(weights or default_weights(parameter_set(set_name).network))
    return [compile(trained, set_name, keys=keys) for keys in KEY_POLICIES]
