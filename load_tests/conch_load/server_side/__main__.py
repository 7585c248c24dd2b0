"""``python -m conch_load.server_side``."""

import sys

from conch_load.server_side.command import main

if __name__ == "__main__":
    sys.exit(main())
