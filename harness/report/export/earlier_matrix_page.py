"""Reads back a page of the matrix, so that the columns of VMs that newer runs leave out can be kept."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from harness.core.errors import UsageError

# A bar that escape_table_text() has not escaped.
_BAR = re.compile(r"(?<!\\)\|")
_RULE = "| ---"


class EarlierPage(NamedTuple):
    """The page's tables; every text is Markdown, as the page has it.

    `vms` maps the name of a VM that was run to the fields of its row, without the first. `claims` maps a claim to the
    verdicts by VM.
    """

    vms: Mapping[str, Sequence[str]]
    claims: Mapping[str, Mapping[str, str]]

    def only(self, names: Collection[str]) -> EarlierPage:
        """Return the page with no other columns than those of some VMs."""
        vms = {vm: fields for vm, fields in self.vms.items() if vm in names}
        claims = {text: {vm: shown[vm] for vm in vms} for text, shown in self.claims.items()}
        return EarlierPage(vms, claims)


def read_earlier_page(page: str, columns: Sequence[str]) -> EarlierPage:
    """Read a page whose table of VMs has `columns`. Raises UsageError if it has another form."""
    tables = tables_of_page(page)
    if len(tables) < 2 or tables[0][0] != list(columns) or tables[-1][0][:1] != ["claim"]:
        raise UsageError("the page does not have the tables that this version writes", mend="write it without --update")
    (_, *rows), (heads, *claims) = tables[0], tables[-1]
    by_code_span = {row[0]: row[0].strip("`") for row in rows}
    named = [by_code_span.get(head, "") for head in heads[1:]]
    if not all(named) or any(len(row) != len(heads) for row in claims):
        raise UsageError(
            "the page's table of claims has other VMs than its first one", mend="write it without --update"
        )
    ran = {by_code_span[row[0]]: row[1:] for row in rows if by_code_span[row[0]] in named}
    return EarlierPage(ran, {text: dict(zip(named, shown, strict=True)) for text, *shown in claims})


def tables_of_page(page: str) -> list[list[list[str]]]:
    """Return the tables of a page: each has rows, each of them fields, without the row of dashes."""
    found: list[list[list[str]]] = []
    before = ""
    for line in page.splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            if not line.startswith(_RULE):
                found[-1].append([field.strip() for field in _BAR.split(line)[1:-1]])
        before = line
    return found
