"""How a small command ends: a line or two for a person, an exit status, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from conch.errors import ConchError

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130


def run(command: Callable[[], int]) -> int:
    """Run a command that changes nothing but what it was told to write; returns the exit status."""
    try:
        return command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ConchError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.mend:
            print(error.mend, file=sys.stderr)
        return EXIT_ERROR
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return EXIT_ERROR
