"""``python -m conch_client`` is the command ``conch``."""

import sys

from conch_client.cli import main

sys.exit(main())
