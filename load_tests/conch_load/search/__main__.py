"""``python -m conch_load.search``."""

import sys

from conch_load.search.command import main

if __name__ == "__main__":
    sys.exit(main())
