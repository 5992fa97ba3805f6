"""``python -m quantizable`` is the command ``quantizable``."""

import sys

from quantizable.cli import main

sys.exit(main())
