"""Load tests with Locust: for ``make load-test``, ``make load-ui``, and ``locust -f load_tests/locustfile.py``.

All of it is in the package conch_load beside this file; docs/load_testing.md tells how to use it.
"""

from __future__ import annotations

from conch_load.users.app import Generation

__all__ = ["Generation"]
