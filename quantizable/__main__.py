"""``python -m quantizable``: the command."""

import sys

from quantizable.cli import main

if __name__ == "__main__":
    sys.exit(main())
