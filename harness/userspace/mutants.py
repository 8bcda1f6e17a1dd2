"""Uprobes broken on purpose: each claims the requested site and does something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.landing.landing_judgment import NOT_IN_FORCE, NotInForceError
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

    `registered_twice` registers each probe once more. `left_registered` leaves a uprobe of a process that does not map
    the file. `keeps_copy` leaves the process a private copy of the page, with the bytes of the file. `one_mapping`
    restores the byte of the file in one of two mappings. `writes_file` changes the file, `writes_data` the data of the
    process. `base_for_bias` takes the address of a mapping for the load bias. `same_address` starts programs without
    ASLR. `spares` leaves out what should happen during a hit. `signals` sends a signal to the traced child.
    `leaves_event` leaves an event in uprobe_events. `wrong_anchor` measures distances by hand from another function.
    `same_build` takes the distances from the build that runs.
    """

    aims: Callable[[UserFile, Site], int] = _honest
    unarmed: bool = False
    other_file: bool = False
    stays: bool = False
    stale_view: bool = False
    gate_open: bool = False
    good_request: bool = False
    trusts_anything: bool = False
    registered_twice: bool = False
    left_registered: bool = False
    keeps_copy: bool = False
    one_mapping: bool = False
    writes_file: bool = False
    writes_data: bool = False
    base_for_bias: bool = False
    same_address: bool = False
    spares: bool = False
    signals: bool = False
    leaves_event: bool = False
    wrong_anchor: bool = False
    same_build: bool = False

    def offsets(self, file: UserFile, sites: tuple[Site, ...]) -> list[int]:
        """The offsets to register. Raises NotInForceError when a mutant that should aim elsewhere aims at a site."""
        found = [self.aims(file, site) for site in sites]
        if self.aims is not _honest and any(
            there == file.offset(site) for there, site in zip(found, sites, strict=True)
        ):
            raise NotInForceError(f"{NOT_IN_FORCE}: it aims at the site itself")
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
    "user-registered-twice": UserMutant(registered_twice=True),
    "user-left-registered": UserMutant(left_registered=True),
    "user-keeps-copy": UserMutant(keeps_copy=True),
    "user-one-mapping": UserMutant(one_mapping=True),
    "user-writes-file": UserMutant(writes_file=True),
    "user-writes-data": UserMutant(writes_data=True),
    "user-base-for-bias": UserMutant(base_for_bias=True),
    "user-same-address": UserMutant(same_address=True),
    "user-spares-it": UserMutant(spares=True),
    "user-signals-child": UserMutant(signals=True),
    "user-leaves-event": UserMutant(leaves_event=True),
    "user-wrong-anchor": UserMutant(wrong_anchor=True),
    "user-same-build": UserMutant(same_build=True),
}


def named(name: str) -> UserMutant:
    """The mutant with this name; HONEST for a cell that has no mutant, or one that another package defines."""
    return MUTANTS.get(name, HONEST)
