"""docs/matrix.md has the form that `./pinpoint matrix` writes, and names every VM."""

from __future__ import annotations

import re

import pytest

from harness import cli_reports
from harness.core import paths
from harness.images.vm_recipe import select
from harness.report.export.earlier_matrix_page import tables_of_page
from harness.report.export.newest_results_of_runs_markdown import results_by_vm_markdown
from harness.report.export.vms_without_recipe import VMS_WITHOUT_RECIPE
from harness.report.page.case_docstrings import CaseFileClaims

PAGE = paths.PROJECT / "docs" / "matrix.md"


def problems(page: str) -> list[str]:
    """What differs from the form of a page that is made from no results."""
    recipes = [recipe.name for recipe in select([], matrix="full")]
    # Every VM was run there, or is named as not run.
    form = results_by_vm_markdown([], {}, recipes, VMS_WITHOUT_RECIPE)
    found = [f"lacks the line {line!r}" for line in form.splitlines() if line and line[0] != "|" and line not in page]
    vms, absent, claims = tables_of_page(page)
    if vms[0] != (wanted := tables_of_page(form)[0][0]):
        found.append(f"the table of VMs has the columns {vms[0]}, not {wanted}")
    named = [row[0].strip("`") for row in vms[1:]]
    found += [
        f"{name}: run it, or add the row {' | '.join(row)}"
        for row in tables_of_page(form)[0][1:]
        if (name := row[0].strip("`")) not in named
    ]
    found += [f"{name} has no recipe" for name in named if name not in recipes]
    found += [f"{row[0]} has a recipe" for row in absent[1:] if row[0].strip("`") in recipes]
    ran = [row[0] for row in vms[1:] if "not run" not in row]
    if claims[0] != ["claim", *ran]:
        found.append(f"the table of claims has the columns {claims[0][1:]}, and the VMs that ran are {ran}")
    for table in (vms, absent, claims):
        found += [f"blank or missing field: {row}" for row in table if len(row) != len(table[0]) or not all(row)]
    return found


def test_the_page_is_in_the_form_that_the_command_writes() -> None:
    assert not problems(PAGE.read_text())


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (r"^\| `parisc` .*\n", "", "parisc: run it, or add the row `parisc` | - | - | - | not run"),
        (r"^\| `parisc` ", "| `vax` ", "vax has no recipe"),
        (r"^\| `parisc-7.0` ", "| `parisc` ", "`parisc` has a recipe"),
        (r"^(\| `parisc` \|) [^|]* \|", r"\1  |", "blank or missing field"),
        (r"^(\| claim.*) \| [^|]* \|$", r"\1 |", "the table of claims has the columns"),
        (r" \| seconds \|", " |", "the table of VMs has the columns"),
        (r"^`claims`: the case files", "`claims`: files", "lacks the line"),
    ],
)
def test_a_page_in_another_form_is_reported(old: str, new: str, problem: str) -> None:
    page = re.sub(old, new, PAGE.read_text(), count=1, flags=re.MULTILINE)
    assert any(problem in each for each in problems(page)), problems(page)


def test_case_files_with_one_claim_have_rows_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    claims = {"cases/test_a.py": "It lands.", "mine/cases/test_a.py": "It lands.", "cases/test_b.py": "It misses."}
    monkeypatch.setattr(cli_reports, "read_claims", lambda file: CaseFileClaims(claims.get(file, "")))
    assert cli_reports._distinct_claims([*claims, "cases/test_c.py"]) == {
        "cases/test_a.py": "It lands. (cases/test_a.py)",
        "mine/cases/test_a.py": "It lands. (mine/cases/test_a.py)",
        "cases/test_b.py": "It misses.",
        "cases/test_c.py": "test_c.py",
    }
