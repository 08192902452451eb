"""The schemas of what the command prints as JSON: one file for each verb, in JSON Schema, below tests/cli/schemas/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

SCHEMAS = Path(__file__).resolve().parents[1] / "cli" / "schemas"


def read_json(verb: str, text: str) -> list[dict[str, Any]]:
    """Return the objects that a verb has printed, one a line, each checked against the schema of the verb."""
    schema = json.loads((SCHEMAS / f"{verb}.json").read_text(encoding="utf-8"))
    found = [json.loads(line) for line in text.splitlines()]
    for each in found:
        jsonschema.validate(each, schema)
        assert each["schema"] == f"picas.{verb}/1"
    return found
