"""``python -m conch_load.cost``."""

import sys

from conch_load.cost.command import main

if __name__ == "__main__":
    sys.exit(main())
