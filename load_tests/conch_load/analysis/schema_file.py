"""Write ``summary.schema.json`` anew from the models: ``python -m conch_load.analysis.schema_file``."""

from __future__ import annotations

import json

from conch_load.analysis.summary import SCHEMA_FILE, schema


def text() -> str:
    """What the file must hold."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(text(), encoding="utf-8")
