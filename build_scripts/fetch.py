"""Fetches the model of a spec into the cache: python build_scripts/fetch.py --spec SPEC"""

import sys

try:
    from conch.build.commands import fetch_command
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed in {sys.executable}\nRun make setup, and use .venv/bin/python")

if __name__ == "__main__":
    sys.exit(fetch_command())
