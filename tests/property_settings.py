"""How many examples a property test tries: moderate by default, more where the environment asks for it."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXAMPLES_VARIABLE = "CONCH_HYPOTHESIS_EXAMPLES"


def examples(default: int) -> settings:
    """Settings of one property test.

    Args:
        default: examples to try, unless EXAMPLES_VARIABLE says another number.
    """
    count = int(os.environ.get(EXAMPLES_VARIABLE, default))
    # No deadline: the machine may be busy with something else.
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])
