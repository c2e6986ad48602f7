"""`python -m fheinfer` is `fheinfer`."""

from fheinfer.cli import main

if __name__ == "__main__":
    main()
