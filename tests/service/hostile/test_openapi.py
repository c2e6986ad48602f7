"""Schemathesis over the OpenAPI description (issue: "without a 500"), with a valid token and without one."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance

from fheinfer.service.http.service import Service
from tests.service.hostile.asking import KINDS

EXAMPLES = 12
"""Of each operation, for requests that the description allows and again for those that it does not."""
OPEN = {"/livez", "/readyz", "/v1/server"}


@pytest.fixture
def description(app: Any, http: Any) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def operations(description: Any) -> list[Any]:
    return [found.ok() for found in description.get_all_operations()]


def examples(run: Any, operation: Any, mode: GenerationMode) -> None:
    phases = (Phase.explicit, Phase.generate)
    limits = settings(max_examples=EXAMPLES, deadline=None, phases=phases, suppress_health_check=list(HealthCheck))
    cases: Any = given(operation.as_strategy(generation_mode=mode))
    limits(seed(1)(cases(run)))()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_with_a_token(description: Any, service: Service, mode: GenerationMode) -> None:
    """All of Schemathesis's checks but one: no 5xx, and only statuses, types and bodies that are described.

    The one: that what fits the description is accepted. No schema says which bytes are a ciphertext.
    """
    tokens = {path: service.store.add_token("boss", operator=True) for path in ("/metrics",)}
    alice, ran = service.store.add_token("alice"), 0

    def run(case: Any) -> None:
        nonlocal ran
        ran += 1
        authorization = f"Bearer {tokens.get(case.operation.path, alice)}"
        case.call_and_validate(headers={"Authorization": authorization}, excluded_checks=[positive_data_acceptance])

    for operation in operations(description):
        if mode is GenerationMode.POSITIVE or operation.path_parameters or operation.query:  # there is something wrong
            examples(run, operation, mode)
    assert ran > 8 * EXAMPLES


@pytest.mark.parametrize("token", ["", "fi_" + "A" * 43])
def test_without_a_token(description: Any, token: str) -> None:
    """Whatever is asked for, it is the same answer; but of what is open."""
    seen = set()

    def run(case: Any) -> None:
        answer = case.call(headers={"Authorization": f"Bearer {token}"} if token else {})
        if case.operation.path in OPEN:
            assert answer.status_code < 500
            return
        seen.add((answer.status_code, answer.content))

    for operation in operations(description):
        examples(run, operation, GenerationMode.POSITIVE)
    [(status, body)] = seen
    assert status == 401
    assert httpx.Response(status, content=body).json()["kind"] in KINDS
