"""Uploads evaluation keys: what the service lacks, in chunks, from the offset on that it names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fheinfer.crypto.manifest import FILE_NAME, MAX_BYTES, Manifest
from fheinfer.errors import CorruptArtifactError, FheinferError, MismatchError, NotFoundError, UnreachableError
from fheinfer.evaluating import Event
from fheinfer.service.connection import Answer, Connection
from fheinfer.service.protocol import CHUNK_BYTES, PREFIX, KeyFile, KeyStatus, Problem
from fheinfer.storage import open_regular, read_small

TRIES = 3
"""Times that a file is sent whose bytes arrived damaged, and answers in a row without any bytes taken."""


def upload(connection: Connection, folder: Path, manifest: Manifest, on_event: Callable[[Event], None]) -> None:
    """Sends the keys in a server folder that the service lacks. Whoever is interrupted calls it again.

    Raises:
        LimitError: more bytes than this client may have there.
        UnreachableError: the connection broke too often, or what is there does not take the keys.
        FheinferError: what the service says is wrong.
    """
    path = f"{PREFIX}/keys/{manifest.key_id}"
    try:
        _upload(connection, path, folder, manifest, on_event)
    except (CorruptArtifactError, MismatchError):  # a manifest that arrived damaged makes every file seem so
        if _complete(connection, path):  # then it did not, and jobs may wait for those keys
            raise
        connection.request(lambda answer: None, "DELETE", path, also=(404,))
        _upload(connection, path, folder, manifest, on_event)


def _upload(
    connection: Connection, path: str, folder: Path, manifest: Manifest, on_event: Callable[[Event], None]
) -> None:
    try:
        there = _files(connection.json(KeyStatus, "GET", path))
    except NotFoundError:
        there = {}
    sizes = {name: entry.bytes for name, entry in manifest.files.items()}
    if not _same(there, sizes):
        raw = read_small(folder / FILE_NAME, MAX_BYTES, "a manifest")
        there = _files(connection.json(KeyStatus, "PUT", path, content=raw))
    if not _same(there, sizes):
        raise MismatchError(f"{connection.url}: it takes other keys than it was told of; try again later")
    done = {name: there[name].received for name in sizes}
    for name in sizes:
        for received in _send(connection, folder, path, there[name], away(on_event)):
            done[name] = received
            on_event({"event": "upload", "done": sum(done.values()), "total": sum(sizes.values())})


def _complete(connection: Connection, path: str) -> bool:
    try:
        return connection.json(KeyStatus, "GET", path).complete
    except NotFoundError:
        return False


def _files(status: KeyStatus) -> dict[str, KeyFile]:
    return {file.name: file for file in status.files}


def _same(there: Mapping[str, KeyFile], sizes: Mapping[str, int]) -> bool:
    return all(name in there and there[name].bytes == size for name, size in sizes.items())


def _send(
    connection: Connection, folder: Path, path: str, file: KeyFile, on_away: Callable[[FheinferError], None]
) -> Iterator[int]:
    """Sends the rest of a file, from its start where it arrived damaged: bytes that are there after each chunk."""
    received, damaged, stuck = file.received, 0, 0
    fd, _ = open_regular(folder / file.name, "a key")
    try:
        while received < file.bytes:
            chunk = os.pread(fd, min(CHUNK_BYTES, file.bytes - received), received)
            try:
                now = _chunk(connection, f"{path}/files/{file.name}", received, chunk, on_away)
            except CorruptArtifactError:
                damaged += 1
                if damaged == TRIES:
                    raise
                now = 0
            stuck = 0 if now > received else stuck + 1
            if stuck > TRIES or now > file.bytes:
                raise UnreachableError(f"{connection.url}: it does not take {file.name}; try again later")
            received = now
            yield received
    finally:
        os.close(fd)


def away(on_event: Callable[[Event], None]) -> Callable[[FheinferError], None]:
    """Tells `on_event` that the service does not answer, and why."""
    return lambda reason: on_event({"event": "away", "reason": str(reason)})


def _chunk(
    connection: Connection, path: str, offset: int, chunk: bytes, on_away: Callable[[FheinferError], None]
) -> int:
    """Bytes of the file that the service has after this chunk; other ones than it should where it has others."""

    def received(answer: Answer) -> int:
        if answer.status != 409:
            return KeyFile.model_validate_json(answer.body).received
        problem = Problem.model_validate_json(answer.body)
        if problem.received is None:
            raise connection.error(problem)
        return problem.received

    return connection.request(
        received, "PUT", path, params={"offset": offset}, content=chunk, also=(409,), on_away=on_away
    )
