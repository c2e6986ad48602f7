"""`fheinfer encrypt` and `decrypt`: the client as two commands, which need client.json and keys, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fheinfer.cli import choices, unlock
from fheinfer.cli.options import (
    ClientOption,
    DepthOption,
    ImageOption,
    JsonOption,
    KeysOption,
    OutputOption,
    PassphraseOption,
    SetOption,
    ValuesOption,
    refuse,
)
from fheinfer.errors import ArtifactError, InputError, RangeError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]


def encrypt(
    output: OutputOption,
    image: ImageOption = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE.npy|.csv",
            help="Array: pixels as uint8 (H, W, C), a vector's values, or an image's normalised values (C, H, W).",
        ),
    ] = None,
    depth: DepthOption = None,
    set_name: SetOption = None,
    client: ClientOption = None,
    keys: KeysOption = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Client: encrypt an image, or an array. The public key is enough; with the secret key files are half as large."""
    from fheinfer.cli.arrays import arrays_input
    from fheinfer.cli.display import err, size
    from fheinfer.cli.inputs import image_input
    from fheinfer.crypto.key_writer import SECRET_FILE, SECRET_FOLDER
    from fheinfer.storage import atomic_write

    if (image is None) == (source is None):
        raise UsageError("give an image by --image, or an array by --input")
    if image is None:
        refuse("it is of images, not of arrays", depth=depth)
    spec, folder = choices.client_and_keys(client, keys, set_name)
    x = image_input(image, spec, depth) if image is not None else _only(arrays_input(source or Path(), spec))
    opened = unlock.open_client(folder, spec, passphrase_file, ask=False)
    if not opened.can_decrypt and (folder / SECRET_FOLDER / SECRET_FILE).exists():
        err.print(
            "the secret key has a passphrase, which was not given: encrypting under the public key, to twice the bytes"
        )
    data = opened.encrypt(x)
    atomic_write(output, [data])
    err.print(f"{output}: {size(len(data))}")


def _only(inputs: dict[str, F64]) -> F64:
    if len(inputs) > 1:
        raise InputError(f"{len(inputs)} inputs in one file, and a ciphertext is of one; `fheinfer infer` takes many")
    return next(iter(inputs.values()))


def decrypt(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="What `fheinfer evaluate` wrote.")],
    request: Annotated[
        Path | None,
        typer.Option("--request", metavar="FILE", help="Input that this has to be the result of; checked."),
    ] = None,
    decimals: Annotated[
        int | None,
        typer.Option(
            "--decimals",
            min=0,
            max=17,
            help="Decimals of what is shown and written: more than a reader needs can give the key away (SECURITY.md).",
            show_default="what tells the class, or 6 where there is none",
        ),
    ] = None,
    output: ValuesOption = None,
    set_name: SetOption = None,
    client: ClientOption = None,
    keys: KeysOption = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Client: decrypt a result, and round it."""
    from fheinfer.cli import results
    from fheinfer.cli.display import err, print_json
    from fheinfer.client import decimals_of, rounded
    from fheinfer.crypto.artifact import request_id
    from fheinfer.crypto.ciphertexts import read_ciphertexts

    spec, folder = choices.client_and_keys(client, keys, set_name)
    if output is not None:
        results.require_arrays(output, spec.outputs)
    most = max(spec.input.ciphertexts, spec.result_ciphertexts)
    data = read_ciphertexts(result, spec.params, most)
    asked = None if request is None else request_id(read_ciphertexts(request, spec.params, most))
    opened = unlock.open_client(folder, spec, passphrase_file)
    try:
        exact = opened.outputs(data, request=asked)
    except (ArtifactError, RangeError) as error:
        raise type(error)(f"{result}: {error}") from None
    shown = decimals_of(exact, spec) if decimals is None else decimals
    values = {name: rounded(y, shown) for name, y in exact.items()}
    if output is not None:
        results.write_arrays(output, values)
    fields = results.all_fields(values, spec.outputs, None)
    if asked is None:
        err.print("which input this answers was not checked; name it with --request")
    if as_json:
        print_json({**fields, "decimals": shown, "request_checked": asked is not None})
    else:
        results.print_results(fields, spec.outputs, decimals=shown)
