"""Uploads in any order, cut, repeated, damaged and killed, of two accounts whose keys have the same key id."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from fheinfer.crypto.manifest import Manifest
from fheinfer.errors import CorruptArtifactError, FheinferError, NotFoundError
from fheinfer.service.store import Store
from fheinfer.service.uploads import KeyUploads, OffsetError
from tests.service.small_keys import BASE, KEY_ID, MORE, small_keys, usable

OWNERS = st.sampled_from(("anna", "bob"))
NAMES = st.sampled_from(MORE)


class Uploading(RuleBasedStateMachine):
    """What the service has to have, beside what it has.

    listed   files of an owner's manifest
    used     files that a worker finds
    there    bytes of a file, by owner and name
    damaged  files of which a byte arrived wrong
    """

    real: Manifest

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fheinfer-uploads-"))
        self.open()
        self.keys = {"anna": small_keys(self.real, 1), "bob": small_keys(self.real, 2)}
        self.accounts = {}
        for name in self.keys:
            found = self.store.account_of(self.store.add_token(name))
            assert found is not None
            self.accounts[name] = found.id
        self.listed: dict[str, tuple[str, ...]] = {"anna": (), "bob": ()}
        self.used: dict[str, tuple[str, ...]] = {"anna": (), "bob": ()}
        self.there: dict[tuple[str, str], int] = {}
        self.damaged: set[tuple[str, str]] = set()

    def open(self) -> None:
        self.store = Store(self.folder / "service.db")
        self.store._database._sql.execute("PRAGMA synchronous = OFF")
        self.uploads = KeyUploads(self.folder, self.store)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(owner=OWNERS, names=st.sampled_from((BASE, MORE)))
    def begin(self, owner: str, names: tuple[str, ...]) -> None:
        self.uploads.begin(self.accounts[owner], KEY_ID, self.keys[owner].only(*names).manifest)
        self.listed[owner] = max(self.listed[owner], names, key=len)

    @rule(
        owner=OWNERS, name=NAMES, size=st.integers(0, 500), shift=st.sampled_from((0, 0, 0, -1, 7)), flip=st.booleans()
    )
    def append(self, owner: str, name: str, size: int, shift: int, flip: bool) -> None:
        data, file = bytearray(self.keys[owner].files[name]), (owner, name)
        at = self.there.get(file, 0)
        if flip and at < len(data):
            data[at] ^= 1
        chunk = bytes(data[at : at + size])
        damaged = file in self.damaged or (flip and chunk != b"")
        whole = at + len(chunk) == len(data)
        expected: type[FheinferError] | None = None
        if name not in self.listed[owner]:
            expected = NotFoundError
        elif shift:
            expected = OffsetError
        elif whole and damaged:
            expected = CorruptArtifactError
        try:
            found = self.uploads.append(self.accounts[owner], KEY_ID, name, at + shift, chunk)
        except FheinferError as error:
            assert type(error) is expected
            assert not isinstance(error, OffsetError) or error.received == at
            if expected is CorruptArtifactError:
                self.lose(owner, [name])
        else:
            assert expected is None
            assert found.received == at + len(chunk)
            self.arrived(file, found.received, damaged)

    @rule(owner=OWNERS)
    def append_all(self, owner: str) -> None:
        for name in self.listed[owner]:
            self.append(owner, name, 500, 0, False)

    def lose(self, owner: str, names: list[str] | tuple[str, ...]) -> None:
        for name in names:
            self.there.pop((owner, name), None)
            self.damaged.discard((owner, name))

    def arrived(self, file: tuple[str, str], received: int, damaged: bool) -> None:
        self.there[file] = received
        self.damaged |= {file} if damaged else set()
        owner = file[0]
        if all(self.there.get((owner, name)) == len(self.keys[owner].files[name]) for name in self.listed[owner]):
            self.used[owner] = self.listed[owner]

    @rule(owner=OWNERS, name=NAMES, written=st.integers(0, 500))
    def kill(self, owner: str, name: str, written: int) -> None:
        """The process ends in the middle of writing a chunk, or right before it verifies a file; and starts again."""
        file, data = (owner, name), self.keys[owner].files[name]
        self.store.close()
        at = self.there.get(file, 0)
        if name in self.listed[owner] and at < len(data):
            more = data[at : at + written]
            with (self.folder / "uploads" / self.accounts[owner] / KEY_ID / f"{name}.part").open("ab") as part:
                part.write(more)
            if at + len(more) == len(data) and file in self.damaged:
                self.lose(owner, [name])
            else:
                self.arrived(file, at + len(more), False)
        self.open()
        self.uploads.recover()

    @rule(owner=OWNERS)
    def delete(self, owner: str) -> None:
        try:
            self.uploads.delete(self.accounts[owner], KEY_ID)
        except NotFoundError:
            assert not self.listed[owner]
        self.lose(owner, MORE)
        self.listed[owner] = self.used[owner] = ()

    @rule(owner=OWNERS)
    def give_up(self, owner: str) -> None:
        """Nobody goes on with this upload."""
        account = self.accounts[owner]
        waits = (account, KEY_ID) in self.uploads.stale(time.time() + 1000)
        assert waits == (self.listed[owner] != self.used[owner])
        if waits:
            self.uploads.abandon(account, KEY_ID)
            self.listed[owner] = self.used[owner]
            self.lose(owner, [name for name in MORE if name not in self.used[owner]])

    @invariant()
    def what_is_there_is_what_was_sent(self) -> None:
        for owner, account in getattr(self, "accounts", {}).items():
            files = self.keys[owner].files
            assert usable(self.folder, account) == {name: files[name] for name in self.used[owner]}
            if not self.listed[owner]:
                assert self.uploads.statuses(account) == []
                continue
            status = self.uploads.status(account, KEY_ID)
            assert {file.name: file.received for file in status.files} == {
                name: self.there.get((owner, name), 0) for name in self.listed[owner]
            }
            parts = {path.stem for path in (self.folder / "uploads" / account / KEY_ID).glob("*.part")}
            assert not parts & {file.name for file in status.files if file.received == file.bytes}
            assert status.complete == (self.listed[owner] == self.used[owner])
            assert status.bytes == sum(len(files[name]) for name in self.listed[owner])


def test_uploads_in_any_order(tiny_keys: Path) -> None:
    Uploading.real = Manifest.load(tiny_keys / "server" / "manifest.json")
    run_state_machine_as_test(Uploading, settings=settings(max_examples=15, stateful_step_count=40, deadline=None))
