"""`shard.json` of a run with --shard: which cells the whole run has, and which shard runs each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.core.files import read_regular_file, sha256_of_strings, write_text
from harness.report import jsonl
from harness.report.record import CellKey
from harness.report.run_dir import RunDirectory

# A run of the full matrix has 13,000 cells, with some 150 bytes each.
_LARGEST = 64 << 20
_MOST_SHARDS = 10_000


class CellOfShard(BaseModel):
    """One cell of the whole run; `shard` counts from 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    case: str
    vm: str
    mutant: str
    shard: int

    @property
    def key(self) -> CellKey:
        """The key of the cell in its run."""
        return CellKey(self.file, self.case, self.vm, self.mutant)


class ShardRecord(BaseModel):
    """Shard `shard` of `count`; `cells` are the cells of all shards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    shard: int = Field(ge=1)
    count: int = Field(ge=1, le=_MOST_SHARDS)
    cells: Sequence[CellOfShard]

    @property
    def whole_run(self) -> str:
        """A digest of the whole run: the shards that belong together have the same."""
        parts = (f"{each.key} {each.shard}" for each in self.cells)
        return sha256_of_strings([str(self.count), *sorted(parts)])


def write_shard_record(directory: RunDirectory, record: ShardRecord) -> None:
    """Write the record when the run ends; a run that was killed has none. Raises OSError."""
    write_text(directory.shard_file, jsonl.ascii_json(record) + "\n")


def read_shard_record(directory: RunDirectory) -> ShardRecord | None:
    """Return the record; None for a run without --shard, for one that did not end, and for a damaged file."""
    try:
        return ShardRecord.model_validate_json(read_regular_file(directory.shard_file, _LARGEST))
    except (OSError, ValidationError):
        return None
