"""The public surface: a name that is added or removed is a decision, not an accident."""

from __future__ import annotations

import inspect

import fheinfer


def test_the_public_names_are_these() -> None:
    assert sorted(fheinfer.__all__) == [
        "Client",
        "ClientSpec",
        "Model",
        "ParameterSet",
        "Plan",
        "Remote",
        "Server",
        "Wanted",
        "activation",
        "calibrate",
        "compile",
        "default_model",
        "errors",
        "finetune",
        "from_onnx",
        "from_torch",
        "infer",
        "keygen",
        "load_image",
        "load_model",
        "load_plan",
        "normalise",
        "parameter_set",
        "parameter_sets",
        "plain_layers",
        "plain_outputs",
        "precision_bits",
        "replace_max_pools",
        "run_slots",
        "top_class",
    ]


def test_every_public_name_is_there_and_documented() -> None:
    for name in fheinfer.__all__:
        found = getattr(fheinfer, name)
        assert inspect.getdoc(found), name
        if inspect.isfunction(found):
            assert all(p.annotation is not p.empty for p in inspect.signature(found).parameters.values()), name
