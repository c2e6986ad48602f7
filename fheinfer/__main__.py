"""`python -m fheinfer` is `fheinfer`."""

from fheinfer.cli.entry import main

if __name__ == "__main__":
    main()
