"""JSON Schemas of what a run leaves and of what `verify --json` prints, generated from the models that write it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness.core import paths
from harness.core.files import write_text
from harness.report.bundle import BundleDescription
from harness.report.lost_cells import LostCell
from harness.report.metrics_with_goals import Figure
from harness.report.record import Cell
from harness.report.relocation_by_hand_table import TrialRow
from harness.report.timeline import Span
from harness.report.verify_record import VerifyRecord

PUBLISHED = paths.PROJECT / "docs" / "schema"
# The name of each schema: the file whose objects it describes, without its suffix.
MODELS: Mapping[str, type[BaseModel]] = {
    "bundle": BundleDescription,
    "figures": Figure,
    "lost": LostCell,
    "results": Cell,
    "timeline": Span,
    "trials": TrialRow,
}
# The schemas of what commands print.
PRINTED: Mapping[str, type[BaseModel]] = {"verify": VerifyRecord}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_by_name(name: str) -> Mapping[str, Any]:
    """The schema of one object: a line of `results.jsonl`, `figures.jsonl`, ..., a `bundle.json`, a printed record."""
    return {"$schema": _DIALECT, **{**MODELS, **PRINTED}[name].model_json_schema(by_alias=True, mode="serialization")}


def schema_text_by_name(name: str) -> str:
    """The schema as its published file has it."""
    return json.dumps(schema_by_name(name), indent=1) + "\n"


def write_published_schemas() -> list[Path]:
    """Write every schema to docs/schema/ and return the files. Raises OSError."""
    written = []
    for name in (*MODELS, *PRINTED):
        path = PUBLISHED / f"{name}.schema.json"
        write_text(path, schema_text_by_name(name))
        path.chmod(0o644)
        written.append(path)
    return written


if __name__ == "__main__":
    for made in write_published_schemas():
        print(made)
