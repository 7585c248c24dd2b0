"""Writes a spec from others' settings: python build_scripts/import_config.py FILE [--from vllm] [--output spec.yaml]"""

import sys

try:
    from conch.importers.command import main
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed in {sys.executable}\nRun make setup, and use .venv/bin/python")

if __name__ == "__main__":
    sys.exit(main())
