"""Checks the model repository: python build_scripts/check.py"""

import sys

try:
    from conch.build.commands import check_command
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed in {sys.executable}\nRun make setup, and use .venv/bin/python")

if __name__ == "__main__":
    sys.exit(check_command())
