"""`python -m fewbits` is the command line."""

import sys

from fewbits.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
