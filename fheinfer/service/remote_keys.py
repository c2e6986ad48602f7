"""Keys for one model of a service: made once, opened, uploaded, and replaced after so many results."""

from __future__ import annotations

from collections.abc import Callable

from fheinfer.client import Client
from fheinfer.crypto.client_spec import ClientSpec
from fheinfer.crypto.key_policy import KeyPolicy, choose
from fheinfer.crypto.key_writer import SECRET_FILE, SECRET_FOLDER, SERVER_FOLDER
from fheinfer.crypto.keygen import add_keys, keygen
from fheinfer.crypto.manifest import Manifest
from fheinfer.crypto.passphrase import VARIABLE
from fheinfer.errors import KeyStoreError, NotEnoughMemoryError, UsageError
from fheinfer.evaluating import Event
from fheinfer.service.connection import Connection
from fheinfer.service.protocol import FINAL, PREFIX, JobInfo
from fheinfer.service.remembered import ModelFolder
from fheinfer.service.uploading import upload
from fheinfer.storage import shown


class RemoteKeys:
    """The keys of this client for one model.

    folder      where they are kept
    passphrase  of their secret
    """

    def __init__(
        self,
        connection: Connection,
        spec: ClientSpec,
        folder: ModelFolder,
        passphrase: str | bytes | None,
        renew_after: int,
        rotations: str = "auto",
        worker_memory: int | None = None,
    ) -> None:
        self.folder, self.passphrase = folder, passphrase
        self._connection, self._spec, self._renew_after = connection, spec, renew_after
        self._rotations, self._worker_memory = rotations, worker_memory
        self._clients: dict[str, Client] = {}
        self._present = ""

    @property
    def present(self) -> Client:
        """The client with the keys that `prepare` left.

        Raises:
            UsageError: it was not called yet.
        """
        if not self._present:
            raise UsageError("no keys are open yet; call prepare() first")
        return self._clients[self._present]

    def client_of(self, key_id: str) -> Client:
        """The client with these keys, which may have been replaced meanwhile.

        Raises:
            UsageError: they were never open here.
        """
        if key_id not in self._clients:
            raise UsageError("an input of other keys; decrypt with the RemoteModel that encrypted it")
        return self._clients[key_id]

    def used_up(self, waiting: int) -> bool:
        """Whether the present keys have to be replaced before another input, with so many results still to come."""
        return self.folder.results(self._present) + waiting >= self._renew_after

    def prepare(self, on_event: Callable[[Event], None]) -> None:
        """Makes keys where there are none, or none that still serve, and uploads what the service lacks of them.

        One process at a time does it; others wait.

        Raises:
            KeyStoreError, ArtifactError: a secret that does not open, or damaged keys.
            NotEnoughMemoryError: no worker of the service has the memory; or see `keygen`.
            StorageError: see `keygen`.
            ServiceError: see `uploading.upload`.
        """
        with self.folder.making_keys():
            found = self._made(on_event)
            self._open(found.key_id)
            for replaced in self.folder.begin(found.key_id):
                self._delete(replaced)
            upload(self._connection, self.folder.keys / SERVER_FOLDER, found, on_event)
            self._present = found.key_id

    def _made(self, on_event: Callable[[Event], None]) -> Manifest:
        """Keys that serve the plan: those that are there, more of them, or new ones."""

        def tell(done: int, total: int) -> None:
            on_event({"event": "keygen", "fraction": done / total})

        folder, spec, there = self.folder, self._spec, self.folder.manifest()
        if there is not None:
            serve = there.identity == spec.identity and there.policy in spec.keys and self._suits(there.policy)
            self._open(there.key_id)  # with a passphrase that is known here, new keys can be opened, too
            if serve and folder.results(there.key_id) < self._renew_after:
                return add_keys(spec, folder.keys, passphrase=self.passphrase, progress=tell)
        policy = self._policy()
        if there is not None:
            folder.begin(there.key_id)
        made = keygen(spec, folder.keys, policy=policy, force=True, passphrase=self.passphrase, progress=tell)
        folder.remove_replaced()
        return made

    def _suits(self, policy: KeyPolicy) -> bool:
        """Whether keys of that kind are what was asked for, and workers of the service have the memory for them."""
        most = self._worker_memory
        return self._rotations in ("auto", policy) and (most is None or self._spec.keys[policy].peak_memory <= most)

    def _policy(self) -> KeyPolicy:
        """The kind of keys to make: by the memory of the service's workers, not by this machine's."""
        keys, most = self._spec.keys, self._worker_memory
        policy = choose(keys, self._rotations, most)
        if most is not None and keys[policy].peak_memory > most:
            fits = any(needs.peak_memory <= most for needs in keys.values())
            advice = "make others by --rotations auto" if fits else "ask its owner for workers with more"
            raise NotEnoughMemoryError(
                f"{self._connection.url}: a worker there has {most / 1e6:.0f} MB, and {self._spec.model} takes "
                f"{keys[policy].peak_memory / 1e6:.0f} MB with {policy} keys; {advice}"
            )
        return policy

    def _open(self, key_id: str) -> None:
        """Opens keys that are there now, with their secret."""
        if key_id not in self._clients:
            manifest = self.folder.manifest()
            same = manifest is not None and manifest.identity == self._spec.identity
            client = Client(self.folder.keys, self._spec if same else None, passphrase=self.passphrase)
            if not client.can_decrypt:
                there = (self.folder.keys / SECRET_FOLDER / SECRET_FILE).exists()
                reason = "the secret key is gone; put it back, or delete that folder to make new keys"
                sealed = f"the secret key has a passphrase; name its file by --passphrase-file, or set {VARIABLE}"
                raise KeyStoreError(f"{shown(self.folder.keys)}: {sealed if there else reason}")
            self._clients[key_id] = client

    def _delete(self, replaced: str) -> None:
        """Deletes replaced keys at the service; where a job of another process still needs them, the next time."""
        jobs = self._connection.json(list[JobInfo], "GET", f"{PREFIX}/jobs")
        if not any(job.key_id == replaced and job.state not in FINAL for job in jobs):
            path = f"{PREFIX}/keys/{replaced}"
            self._connection.request(lambda answer: None, "DELETE", path, also=(404,))
            self.folder.deleted(replaced)
