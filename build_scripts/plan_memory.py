"""Plans GPU memory: python build_scripts/plan_memory.py --config config.json --gpu H100-80GB [--tp-size 4] [--json]"""

import sys

try:
    from conch.memory_plan.command import main
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed in {sys.executable}\nRun make setup, and use .venv/bin/python")

if __name__ == "__main__":
    sys.exit(main())
