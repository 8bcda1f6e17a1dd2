"""A landing: a site with what all witnesses say, and whether they agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.landing.site import Site
from harness.landing.witness import Testimony

# Fewer witnesses than this cannot tell a landing from a coincidence of two.
QUORUM = 3


class Missed(AssertionError):
    """A probe that is not where its site says, or was not hit as often as its site ran."""


@dataclass(frozen=True)
class Landing:
    """Where one probe landed.

    `meaning` turns an address into symbol + offset for the table.
    """

    site: Site
    testimonies: Sequence[Testimony]
    hits: int
    meaning: Callable[[int], str]

    @property
    def speaking(self) -> list[Testimony]:
        """The witnesses that gave an address."""
        return [testimony for testimony in self.testimonies if testimony.address is not None]

    @property
    def complaint(self) -> str:
        """Why this is no landing, empty when all speaking witnesses agree and are enough."""
        addresses = {testimony.address for testimony in self.speaking}
        if len(addresses) > 1:
            return "the witnesses disagree"
        if len(self.speaking) < QUORUM:
            return f"only {len(self.speaking)} of {len(self.testimonies)} witnesses speak, {QUORUM} are needed"
        return ""

    def table(self) -> str:
        """Witness, address, what it means, what else it says: to be pasted into a bug report."""
        rows = [("witness", "address", "means", "says")]
        rows += [
            (
                testimony.witness,
                "-" if testimony.address is None else f"{testimony.address:#x}",
                "-" if testimony.address is None else self.meaning(testimony.address),
                testimony.says,
            )
            for testimony in self.testimonies
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
        ]
        return "\n".join(line.rstrip() for line in lines)

    def record(self) -> dict[str, Any]:
        """For the results file: the site and each witness's address in hex, or its reason."""
        return {
            "site": str(self.site),
            "hits": self.hits,
            **{
                testimony.witness: testimony.says if testimony.address is None else f"{testimony.address:#x}"
                for testimony in self.testimonies
            },
        }


def prove(landings: Iterable[Landing], hits: int | None = None) -> None:
    """Raise Missed, with the witness table, unless every probe landed and was hit `hits` times (None: any number)."""
    for landing in landings:
        complaint = landing.complaint
        if not complaint and hits is not None and landing.hits != hits:
            complaint = f"hit {landing.hits} times, its site ran {hits} times"
        if complaint:
            raise Missed(f"{landing.site}: {complaint}\n\n{landing.table()}")
