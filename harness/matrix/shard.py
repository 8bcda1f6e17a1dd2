"""A share of a run, for one of several machines: `--shard I/N`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from harness.core.errors import UsageError
from harness.matrix import vm_order_and_row_division
from harness.matrix.cells.selection import CellId, cell_of
from harness.report.shard_file import CellOfShard, ShardRecord

_WORDS = re.compile(r"([0-9]{1,4})/([0-9]{1,4})")


@dataclass(frozen=True)
class Shard:
    """Shard `number` of `count`; `number` counts from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that `I/N` names. Raises UsageError."""
        found = _WORDS.fullmatch(text)
        shard = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not 1 <= shard.number <= shard.count:
            raise UsageError(f"{text[:40]!r} is no shard", where="--shard", mend="as --shard 2/4, from 1/4 to 4/4")
        return shard

    def keep_own_items(self, items: Sequence[pytest.Item]) -> tuple[list[pytest.Item], ShardRecord]:
        """Return the items of this shard, and the record of all shards.

        The same selection is divided in the same way on every machine: past durations, which differ, are not used. The
        cells stay in the order of VMs and cases, so that a shard needs few images. Other tests are in the first shard.
        """
        cells = {id(item): cell for item in items if (cell := cell_of(item))}
        order = sorted(cells.values(), key=lambda cell: cell.vm)
        parts = vm_order_and_row_division.part_index_of_each_cell(order, self.count, {}) if order else []
        shard_of = {cell.key: part + 1 for cell, part in zip(order, parts, strict=True)}

        def shard_of_item(item: pytest.Item) -> int:
            cell: CellId | None = cells.get(id(item))
            return shard_of[cell.key] if cell else 1

        return (
            [item for item in items if shard_of_item(item) == self.number],
            ShardRecord(
                shard=self.number,
                count=self.count,
                cells=[
                    CellOfShard(file=key.file, case=key.case, vm=key.vm, mutant=key.mutant, shard=shard)
                    for key, shard in shard_of.items()
                ],
            ),
        )
