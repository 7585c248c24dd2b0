"""``python -m conch_load``."""

import sys

from conch_load.cli import main

sys.exit(main())
