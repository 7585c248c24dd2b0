

import conch  # noqa: F401 - before OpenVINO: it switches the telemetry of that off
