"""A landing: a site, the statements of its witnesses, and whether they agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.core.errors import PinpointError
from harness.core.text_table import align_columns
from harness.landing.five_address_witnesses import Statement
from harness.landing.site import Site

# Two witnesses may agree by coincidence; a landing needs three.
QUORUM = 3


# The name of the hit count among `only_killers`.
HITS = "hits"


class Missed(AssertionError):
    """A probe is not at its site, or its hit count differs from the number of times that the site ran.

    `only_killers` are the witnesses without any one of which the check would have passed; HITS is the hit count.
    """

    only_killers: tuple[str, ...] = ()


NOT_IN_FORCE = "the mutant was not in force"


class MutantNotInForceError(PinpointError):
    """A mutant that did nothing wrong: its probe was refused, so the check was not tried on it."""


def demand_registered_elsewhere(site: Site, address: int, errno: int, reported: int) -> None:
    """Raise MutantNotInForceError if a mutant's probe was refused, or was registered at its site's own `address`."""
    if errno or reported == address:
        fate = f"refused with errno {errno}" if errno else "left where it should be"
        raise MutantNotInForceError(f"{NOT_IN_FORCE}: its probe for {site} was {fate}")


@dataclass(frozen=True)
class Landing:
    """Where one probe landed.

    `describe_address` turns an address into symbol + offset for the table. `escaped_into` names what the probe is in if
    all witnesses agree that it is past the end of its function; such a probe has not landed.
    """

    site: Site
    statements: Sequence[Statement]
    hits: int
    describe_address: Callable[[int], str]
    escaped_into: str = ""

    @property
    def statements_with_address(self) -> list[Statement]:
        """The statements that have an address."""
        return [statement for statement in self.statements if statement.address is not None]

    @property
    def complaint(self) -> str:
        """Why the probe has not landed: the witnesses disagree, or agree on another place; empty if it has landed."""
        return self.disagreement or (f"escaped into {self.escaped_into}" if self.escaped_into else "")

    @property
    def disagreement(self) -> str:
        """Why the statements prove nothing.

        Empty when at least QUORUM witnesses have an address, all addresses agree and no witness contradicts.
        """
        addresses = {statement.address for statement in self.statements_with_address}
        contrary = next((statement for statement in self.statements if statement.contradicts), None)
        if len(addresses) > 1:
            return "the witnesses disagree"
        if contrary:
            return f"the {contrary.witness} witness contradicts: {contrary.detail}"
        count = len(self.statements_with_address)
        if count < QUORUM:
            return f"only {count} of {len(self.statements)} witnesses have an address, not {QUORUM}"
        return ""

    def format_witness_table(self) -> str:
        """Format witness, address, symbol + offset, bytes and detail as a table for a bug report."""
        rows = [("witness", "address", "means", "bytes", "detail"), *(self._row(each) for each in self.statements)]
        escaped = [f"escaped into {self.escaped_into}"] if self.escaped_into else []
        return "\n".join([*align_columns(rows), *escaped])

    def _row(self, statement: Statement) -> tuple[str, str, str, str, str]:
        if statement.address is None:
            return statement.witness, "-", "-", "-", statement.detail
        code = statement.code.hex() or "-"
        return (
            statement.witness,
            f"{statement.address:#x}",
            self.describe_address(statement.address),
            code,
            statement.detail,
        )

    @property
    def _symbol_confirmation(self) -> str:
        """What the `elf` witness adds to its address; "" for a module's site."""
        return next((each.detail for each in self.statements if each.witness == "elf" and each.address is not None), "")

    def record(self) -> dict[str, Any]:
        """The entry in the results file: the site, and each witness's address in hex or its reason for having none.

        `symbol` is by which other tables of a vmlinux the site's symbol is confirmed.
        """
        return {
            "site": str(self.site),
            "hits": self.hits,
            **({"escaped": self.escaped_into} if self.escaped_into else {}),
            **({"symbol": self._symbol_confirmation} if self._symbol_confirmation else {}),
            **{
                statement.witness: statement.detail
                if statement.address is None or statement.contradicts
                else f"{statement.address:#x}"
                for statement in self.statements
            },
        }


def prove_landings(landings: Iterable[Landing], hits: int | None = None) -> None:
    """Raise Missed, with the witness table, unless every probe landed and was hit `hits` times (None: any number)."""
    every = list(landings)
    for landing in every:
        complaint = _complaint(landing, hits)
        if complaint:
            missed = Missed(f"{landing.site}: {complaint}\n\n{landing.format_witness_table()}")
            missed.only_killers = _only_killers(every, hits)
            raise missed


def _complaint(landing: Landing, hits: int | None) -> str:
    wrong = hits is not None and landing.hits != hits
    return landing.complaint or (f"hit {landing.hits} times, its site ran {hits} times" if wrong else "")


def _only_killers(landings: Sequence[Landing], hits: int | None) -> tuple[str, ...]:
    """The witnesses whose absence alone makes every landing hold, or HITS if only the count is wrong."""
    if not any(each.complaint for each in landings):
        return (HITS,)
    names = dict.fromkeys(each.witness for landing in landings for each in landing.statements)
    return tuple(name for name in names if not any(_complaint(_without(each, name), hits) for each in landings))


def _without(landing: Landing, witness: str) -> Landing:
    return replace(landing, statements=[each for each in landing.statements if each.witness != witness])
