"""``python -m conch_load.search``."""

import signal
import sys

from conch_load.search.command import main

if __name__ == "__main__":
    # Told to end, it ends its run and says what it has, as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
