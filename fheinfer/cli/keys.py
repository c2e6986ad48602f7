"""`fheinfer keygen` and `fheinfer export`: keys as files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fheinfer.cli import choices, unlock
from fheinfer.cli.options import (
    ActOption,
    BackendOption,
    BitsOption,
    JsonOption,
    KeysOption,
    ModelOption,
    OutputFolderOption,
    PassphraseOption,
    RotationsOption,
    SetOption,
    refuse,
)

if TYPE_CHECKING:
    from fheinfer.crypto.client_spec import ClientSpec
    from fheinfer.crypto.manifest import Manifest


def keygen(
    client_json: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CLIENT_JSON]",
            help="The plan's client.json, or its folder; by default the set's own model is compiled.",
            show_default=False,
        ),
    ] = None,
    set_name: SetOption = None,
    model: ModelOption = None,
    act: ActOption = None,
    backend: BackendOption = None,
    bits: BitsOption = None,
    rotations: RotationsOption = None,
    add: Annotated[
        bool, typer.Option("--add", help="Make only the keys that keys in DIR lack for this plan, under their secret.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace keys that are there.")] = False,
    passphrase_file: PassphraseOption = None,
    output: OutputFolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the secret key, and the keys that a server needs to evaluate a plan.

    DIR (by default keys/set<S>) gets secret/, which stays with you, server/, which a server needs, and client.json,
    by which `encrypt` and `decrypt` know the plan. For a set that keeps to a memory limit or a ring, `fheinfer compile`
    first, and name its client.json.
    """
    from fheinfer.cli.display import err, spinner, steps_bar
    from fheinfer.crypto.client_spec import ClientSpec
    from fheinfer.crypto.key_writer import SERVER_FOLDER
    from fheinfer.crypto.keygen import add_keys, missing_keys
    from fheinfer.crypto.keygen import keygen as make
    from fheinfer.crypto.manifest import FILE_NAME, Manifest
    from fheinfer.crypto.passphrase import read_passphrase

    if add:
        refuse("--add keeps the keys that are there, and their kind", rotations=rotations, force=force)
    if client_json is not None:
        refuse("client.json says it", set=set_name, model=model, act=act, backend=backend, bits=bits)
        spec = ClientSpec.load(client_json)
    else:
        with spinner("compiling"):
            spec = choices.spec_of(choices.plan_folder(None, set_name, model, act, backend, bits=bits))
    folder = choices.keys_folder(output, spec.params.name)
    opens = add and missing_keys(spec, Manifest.load(folder / SERVER_FOLDER / FILE_NAME))
    passphrase = unlock.passphrase_of(folder, passphrase_file) if opens else read_passphrase(passphrase_file)
    for line in _clear_leftovers(folder):
        err.print(line)
    began = time.perf_counter()
    with steps_bar("making keys") as progress:
        if add:
            manifest = add_keys(spec, folder, passphrase=passphrase, progress=progress)
        else:
            manifest = make(
                spec, folder, policy=rotations or "auto", force=force, passphrase=passphrase, progress=progress
            )
    client = _keep_client(spec, folder)
    _report(manifest, spec, folder, client, time.perf_counter() - began, as_json)


def _keep_client(spec: ClientSpec, folder: Path) -> Path:
    """Leaves client.json among the keys; that of another plan, which was there first, stays."""
    from fheinfer.crypto.client_spec import FILE_NAME, ClientSpec
    from fheinfer.errors import FheinferError

    path = folder / FILE_NAME
    try:
        other = ClientSpec.load(path).plan != spec.plan
    except FheinferError:
        other = False
    if other:
        path = folder / f"client-{spec.plan[:16]}.json"
    spec.save(path)
    return path


def _clear_leftovers(folder: Path) -> list[str]:
    """Removes what killed key generations left beside `folder`; lines about that, and about what has to be looked at.

    Replaced keys that were not deleted any more are named only: they may be all that opens old results.
    """
    from fheinfer.storage import leftovers, remove_leftovers

    parent = folder.absolute().parent
    lines = [f"removed {path}, which a killed process left" for path in remove_leftovers(parent)]
    lines += [f"{path} was left by a killed process and may hold a secret key; delete it" for path in leftovers(parent)]
    try:
        old = sorted(path for path in parent.iterdir() if path.name.startswith(f"{folder.absolute().name}.old-"))
    except OSError:
        old = []
    return lines + [f"{path} holds keys that were replaced, with their secret; delete it" for path in old]


def _report(manifest: Manifest, spec: ClientSpec, folder: Path, client: Path, seconds: float, as_json: bool) -> None:
    from fheinfer.cli.display import out, print_json, size, table

    if as_json:
        print_json(
            {
                "folder": str(folder),
                "client": str(client),
                "set": manifest.set_name,
                "model": spec.model,
                "plan": spec.plan,
                "rotations": manifest.policy,
                "seconds": seconds,
                "bytes": manifest.total_bytes,
                "key_id": manifest.key_id,
                "files": {name: entry.bytes for name, entry in manifest.files.items()},
            }
        )
        return
    groups: dict[str, list[int]] = {}
    for name, entry in manifest.files.items():
        group = "rotation keys" if name.startswith("rotation") else name.removesuffix(".key")
        groups.setdefault(group, []).append(entry.bytes)
    table(
        f"{manifest.policy} keys of set {manifest.set_name} for {', '.join(entry.model for entry in manifest.plans)}",
        ["key", "files", "size"],
        [[name, len(sizes), size(sum(sizes))] for name, sizes in groups.items()]
        + [["all", len(manifest.files), size(manifest.total_bytes)]],
    )
    out.print(f"{folder}/secret stays with you; {folder}/server is for the server. {seconds:.0f} s")
    if client.name != "client.json":
        out.print(f"for this plan: --client {client}")


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where context.bin, public.bin and the rest go.")],
    set_name: SetOption = None,
    keys: KeysOption = None,
    ciphertext: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Export this ciphertext, too; repeat.")
    ] = None,
    secret: Annotated[bool, typer.Option("--secret", help="Export the secret key, too.")] = False,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Write context, public key and ciphertexts in OpenFHE's own binary form."""
    from fheinfer.cli.display import out
    from fheinfer.crypto.export import export_openfhe

    if keys is not None:
        refuse("--keys says which keys", set=set_name)
    if not secret:
        refuse("only --secret exports the secret key", passphrase_file=passphrase_file)
    where = choices.keys_folder(keys, set_name)
    passphrase = unlock.passphrase_of(where, passphrase_file) if secret else None
    for path in export_openfhe(where, folder, ciphertext or [], secret=secret, passphrase=passphrase):
        out.print(str(path))
