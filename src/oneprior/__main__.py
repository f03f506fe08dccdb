"""`python -m oneprior` is the command `oneprior`."""

import sys

from oneprior.cli import main

if __name__ == "__main__":
    sys.exit(main())
