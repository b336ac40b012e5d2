"""`python -m simgap`: the command line."""

import sys

from simgap.cli import main

if __name__ == "__main__":
    sys.exit(main())
