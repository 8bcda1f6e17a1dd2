"""Uprobes broken on purpose: each claims the requested site and does something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.core.errors import GuestError
from harness.landing.site import Site
from harness.userspace.user_file import UserFile


def _honest(file: UserFile, site: Site) -> int:
    return file.offset(site)


def _one_instruction_off(file: UserFile, site: Site) -> int:
    return file.offset(file.following(site))


def _next_symbol(file: UserFile, site: Site) -> int:
    here = file.symbol(site).address
    after = next((each for each in file.functions if each.address > here), file.functions[0])
    return file.elf.file_offset(after.address)


def _link_address(file: UserFile, site: Site) -> int:
    """Ignore the segment and use the address as the offset. In force only in a file linked at another base."""
    return file.symbol(site).address + site.offset


def _other_build(file: UserFile, site: Site) -> int:
    """Use the offset that the site has in another build."""
    return UserFile.built(file.guest, "rebuilt", file.name).offset(site)


@dataclass(frozen=True)
class UserMutant:
    """What a broken uprobe does instead.

    `aims` returns the offset that is registered in fact. `unarmed` reports probes that are not there. `other_file`
    probes a copy of the file, which no process maps. `stays` leaves the probes in place when they should be removed.
    `stale_view` is a defect of the harness: it shows the pages from before registration as the pages during it.
    `gate_open` leaves open the gate at which hits should wait. `good_request` sends a request that the kernel accepts
    where a refusal is expected. `trusts_anything` accepts a file of any build as the build that the sites belong to.
    """

    aims: Callable[[UserFile, Site], int] = _honest
    unarmed: bool = False
    other_file: bool = False
    stays: bool = False
    stale_view: bool = False
    gate_open: bool = False
    good_request: bool = False
    trusts_anything: bool = False

    def offsets(self, file: UserFile, sites: tuple[Site, ...]) -> list[int]:
        """The offsets to register. Raises GuestError when a mutant that should aim elsewhere aims at a site itself."""
        found = [self.aims(file, site) for site in sites]
        if self.aims is not _honest and any(
            there == file.offset(site) for there, site in zip(found, sites, strict=True)
        ):
            raise GuestError("the mutant is not in force: it aims at the site itself", where=file.guest.name)
        return found


HONEST = UserMutant()

MUTANTS: dict[str, UserMutant] = {
    "user-one-instruction-off": UserMutant(aims=_one_instruction_off),
    "user-next-symbol": UserMutant(aims=_next_symbol),
    "user-link-address": UserMutant(aims=_link_address),
    "user-other-build": UserMutant(aims=_other_build),
    "user-unarmed": UserMutant(unarmed=True),
    "user-other-file": UserMutant(other_file=True),
    "user-stays": UserMutant(stays=True),
    "user-stale-view": UserMutant(stale_view=True),
    "user-gate-open": UserMutant(gate_open=True),
    "user-good-request": UserMutant(good_request=True),
    "user-trusts-any-build": UserMutant(trusts_anything=True),
}


def named(name: str) -> UserMutant:
    """The mutant with this name; HONEST for a cell that has no mutant, or one that another package defines."""
    return MUTANTS.get(name, HONEST)
