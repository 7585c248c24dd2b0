"""Says how to launch a release of the runtime tensorrtllm: python build_scripts/launch.py [--repository R] [--check]"""

import sys

try:
    from conch.server.launch_command import launch_command
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name} is not installed in {sys.executable}\nRun make setup, and use .venv/bin/python")

if __name__ == "__main__":
    sys.exit(launch_command())
