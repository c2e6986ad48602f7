"""Jobs over HTTP: from an encrypted input to a signed result, and what is refused on the way."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

import fheinfer
from fheinfer.compiler.plan import Plan
from tests.service.conftest import Api, Serving


def test_an_input_becomes_a_signed_result(
    api: Api, tiny_plan: Plan, tiny_keys: Path, tiny_client: fheinfer.Client, tiny_image: Any
) -> None:
    key_id = api.upload(tiny_keys / "server")
    encrypted = tiny_client.encrypt(tiny_image)
    answer = api.submit(encrypted, tiny_plan.identity, key_id)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert job["request"] == hashlib.sha256(encrypted).hexdigest()
    done = api.finished(job["id"])
    assert done["state"] == "done", done
    result = api("GET", f"/v1/jobs/{job['id']}/result")
    assert result.status_code == 200
    receipt = json.loads(base64.urlsafe_b64decode(result.headers["Fheinfer-Receipt"] + "=="))
    assert receipt["result"] == hashlib.sha256(result.content).hexdigest()
    assert np.asarray(tiny_client.decrypt(result.content, request=encrypted)).shape == (10,)


def test_a_real_service_answers(
    serving: Serving, tiny_plan: Plan, tiny_keys: Path, tiny_client: fheinfer.Client, tiny_image: Any
) -> None:
    api = serving.api()
    key_id = api.upload(tiny_keys / "server")
    job = api.submit(tiny_client.encrypt(tiny_image), tiny_plan.identity, key_id).json()
    assert api.finished(job["id"])["state"] == "done"
    assert serving.end() == 0
