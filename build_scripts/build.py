"""Builds a release: python build_scripts/build.py --spec SPEC [--dry-run]"""

import sys

try:
    from conch.build.commands import build_command
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed in {sys.executable}\nRun make setup, and use .venv/bin/python")

if __name__ == "__main__":
    sys.exit(build_command())
