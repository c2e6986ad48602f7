"""Where the service's files are, and when a result is one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fheinfer.crypto.artifact import request_id
from fheinfer.crypto.ciphertexts import check_count, check_level, open_ciphertexts, read_ciphertexts
from fheinfer.crypto.client_spec import FILE_NAME as CLIENT_FILE
from fheinfer.crypto.client_spec import MAX_BYTES as MAX_CLIENT
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.errors import InputError, MismatchError
from fheinfer.service.store import JobRow
from fheinfer.storage import read_small


@dataclass(frozen=True)
class Folders:
    """Where the files of plans, keys and jobs are in the service's data folder."""

    data: Path

    def plan(self, plan: str) -> Path:
        """The copy of the plan of that hash."""
        return self.data / "plans" / plan

    def keys(self, account: str, key_id: str) -> Path:
        """Complete keys, as a server folder."""
        return self.data / "keys" / account / key_id

    def job(self, job_id: str) -> Path:
        """A folder for input.ct, result.ct and block.ct."""
        return self.data / "jobs" / job_id

    def input(self, job_id: str) -> Path:
        """The encrypted input."""
        return self.job(job_id) / "input.ct"

    def result(self, job_id: str) -> Path:
        """The encrypted result."""
        return self.job(job_id) / "result.ct"

    def hide(self, message: str) -> str:
        """An error's message as clients may see it: names of files without the folders of this machine."""
        return re.sub(r"/\S*/", "", message.replace(f"{self.data.absolute()}/", "/"))


def check_result(folders: Folders, job: JobRow) -> tuple[str, int]:
    """SHA-256 (hex) and bytes of a job's result, which is whole and of this plan, these keys and this input.

    Raises:
        InputError: there is none, or no plan.
        CorruptArtifactError, MismatchError: it is not.
    """
    try:
        spec = ClientSpec.from_bytes(read_small(folders.plan(job.plan) / CLIENT_FILE, MAX_CLIENT))
    except FileNotFoundError:
        raise InputError("the plan of this job is gone; ask for the model again") from None
    data = read_ciphertexts(folders.result(job.id), spec.params, spec.result_ciphertexts)
    found = open_ciphertexts(data, spec.params, spec.backend, job.key_id)
    check_count(found, spec.result_ciphertexts)
    check_level(found, spec.params, 0)
    wanted = {"role": "result", "plan": job.plan, "request": job.request}
    if any(found.metadata.get(name) != value for name, value in wanted.items()):
        raise MismatchError("the result of this job is that of another one; encrypt and submit again")
    return request_id(data), len(data)
