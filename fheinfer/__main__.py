"""`python -m fheinfer` is `fheinfer`."""

from fheinfer.cli.main import main

if __name__ == "__main__":
    main()
