"""``python -m quantizable`` is the command ``quantizable``."""

import sys

from quantizable.cli.main import main

sys.exit(main())
