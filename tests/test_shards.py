"""A row is divided into parts of about equal length; cases stay whole and in order."""

from __future__ import annotations

import pytest

from harness.matrix.cells.selection import CellId
from harness.matrix.vm_order_and_row_division import part_index_of_each_cell
from harness.report.cell_duration_cache import case_and_mutant_key


def row(*cases: tuple[str, int]) -> list[CellId]:
    """Return the cells of cases with these numbers of mutants; mutants come first."""
    return [
        CellId(case, "a-vm", mutant, "")
        for case, mutants in cases
        for mutant in (*(f"m{number}" for number in range(mutants)), "")
    ]


def test_one_part_is_the_whole_row() -> None:
    assert set(part_index_of_each_cell(row(("a", 2), ("b", 0)), 1, {})) == {0}


def test_a_case_and_its_mutants_stay_together() -> None:
    cells = row(("a", 3), ("b", 1), ("c", 5), ("d", 0), ("e", 2))
    for parts in range(2, 8):
        found = part_index_of_each_cell(cells, parts, {})
        assert found == sorted(found)
        assert all(0 <= part < parts for part in found)
        for case in "abcde":
            assert len({part for part, cell in zip(found, cells, strict=True) if cell.case == case}) == 1


def test_the_cells_of_a_case_need_not_be_adjacent() -> None:
    """pytest lists the mutants of all parameters before the honest cells."""
    cases = [f"case[{number}]" for number in range(5)]
    cells = [CellId(case, "a-vm", mutant, "") for mutant in ("m0", "") for case in cases]
    for parts in range(2, 6):
        found = part_index_of_each_cell(cells, parts, {})
        assert found[:5] == found[5:] == sorted(found[:5])
        assert len(set(found)) == parts


def test_parts_take_about_as_long_as_each_other() -> None:
    cells = row(*((f"case{number}", 1) for number in range(40)))
    seconds = {case_and_mutant_key(cell.case, cell.mutant): 1.0 + (number % 7) for number, cell in enumerate(cells)}
    found = part_index_of_each_cell(cells, 4, seconds)
    sums = [
        sum(
            seconds[case_and_mutant_key(cell.case, cell.mutant)]
            for cell, part in zip(cells, found, strict=True)
            if part == p
        )
        for p in range(4)
    ]
    assert max(sums) < 1.25 * min(sums)


def test_a_case_that_takes_longest_by_far_has_a_part_of_its_own() -> None:
    cells = row(("quick", 0), ("slow", 0), ("brief", 0))
    assert part_index_of_each_cell(cells, 3, {"slow": 1000.0}) == [0, 1, 2]


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("seconds", [1.0, 0.0])
def test_a_last_case_that_took_no_time_is_in_the_last_part(parts: int, seconds: float) -> None:
    cells = row(("a", 0), ("b", 0), ("c", 0), ("quick", 0))
    known = {"a": seconds, "b": seconds, "c": seconds, "quick": 0.0}
    assert set(part_index_of_each_cell(cells, parts, known)) == ({0} if not seconds else set(range(parts)))
