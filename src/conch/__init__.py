"""Conch: from a Hugging Face checkpoint to a versioned Triton model repository, served."""

import sys

# OpenVINO counts its uses and reports them to Google Analytics unless somebody has opted out. It does without where
# this module cannot be imported (openvino/tools/ovc/utils.py).
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
