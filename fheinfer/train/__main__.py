"""`python -m fheinfer.train`: the training of `fheinfer train` without the rest of the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fheinfer.errors import FheinferError
from fheinfer.frontends import zoo
from fheinfer.train.console import progress_bar
from fheinfer.train.loop import train
from fheinfer.train.recipe import Recipe


def main() -> int:
    recipe = Recipe()
    parser = argparse.ArgumentParser(prog="python -m fheinfer.train", description=__doc__)
    parser.add_argument("--network", default="resnet20", choices=zoo.names())
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 sheets (default: $FHEINFER_DATA)")
    parser.add_argument("--out", type=Path, default=Path("weights/resnet20.safetensors"))
    parser.add_argument("--epochs", type=int, default=recipe.epochs)
    parser.add_argument("--lr", type=float, default=recipe.peak_lr)
    parser.add_argument("--seed", type=int, default=recipe.seed)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint of an interrupted run")
    args = parser.parse_args()
    try:
        with progress_bar() as observe:
            train(args.network, args.out, args.data, Recipe(epochs=args.epochs, peak_lr=args.lr, seed=args.seed),
                  args.resume, observe)
    except FheinferError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; go on with --resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
