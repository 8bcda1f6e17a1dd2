"""Uprobes broken on purpose: each claims the requested site and does something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.landing.landing_judgment import NOT_IN_FORCE, MutantNotInForceError
from harness.landing.site import Site
from harness.userspace.user_file import UserFile


def _honest(file: UserFile, site: Site) -> int:
    return file.offset_of_site(site)


def _one_instruction_off(file: UserFile, site: Site) -> int:
    return file.offset_of_site(file.next_instruction_site(site))


def _next_symbol(file: UserFile, site: Site) -> int:
    here = file.symbol_of_site(site).address
    after = next(
        (each for each in file.functions_of_target_source if each.address > here), file.functions_of_target_source[0]
    )
    return file.elf.file_offset(after.address)


def _link_address(file: UserFile, site: Site) -> int:
    """Ignore the segment and use the address as the offset. In force only in a file linked at another base."""
    return file.symbol_of_site(site).address + site.offset


def _other_build(file: UserFile, site: Site) -> int:
    """Use the offset that the site has in another build."""
    return UserFile.copy_build_to_guest(file.guest, "rebuilt", file.name).offset_of_site(site)


@dataclass(frozen=True)
class UserMutant:
    """What a broken uprobe does instead.

    `offset_to_register` returns the offset that is registered in fact. `reports_without_registering` reports probes
    that are not there. `probes_other_file` probes a copy of the file, which no process maps. `stays_registered` leaves
    the probes in place when they should be removed. `stale_view` is a defect of the harness: it shows the pages from
    before registration as the pages during it. `leaves_gate_open` leaves open the gate at which hits should wait.
    `sends_accepted_request` sends a request that the kernel accepts where a refusal is expected. `accepts_any_build`
    accepts a file of any build as the build that the sites belong to.

    `registers_twice` registers each probe once more. `leaves_idle_uprobe` leaves a uprobe of a process that does not
    map the file. `keeps_private_copy` leaves the process a private copy of the page, with the bytes of the file.
    `restores_one_mapping` restores the byte of the file in one of two mappings. `writes_file` changes the file,
    `writes_data` the data of the process. `uses_base_as_bias` takes the address of a mapping for the load bias.
    `disables_aslr` starts programs without ASLR. `skips_event_during_hit` leaves out what should happen during a hit.
    `signals_traced_child` sends a signal to the traced child. `leaves_event` leaves an event in uprobe_events.
    `uses_wrong_anchor` measures distances by hand from another function. `uses_running_build` takes the distances from
    the build that runs.
    """

    offset_to_register: Callable[[UserFile, Site], int] = _honest
    reports_without_registering: bool = False
    probes_other_file: bool = False
    stays_registered: bool = False
    stale_view: bool = False
    leaves_gate_open: bool = False
    sends_accepted_request: bool = False
    accepts_any_build: bool = False
    registers_twice: bool = False
    leaves_idle_uprobe: bool = False
    keeps_private_copy: bool = False
    restores_one_mapping: bool = False
    writes_file: bool = False
    writes_data: bool = False
    uses_base_as_bias: bool = False
    disables_aslr: bool = False
    skips_event_during_hit: bool = False
    signals_traced_child: bool = False
    leaves_event: bool = False
    uses_wrong_anchor: bool = False
    uses_running_build: bool = False

    def offsets_to_register(self, file: UserFile, sites: tuple[Site, ...]) -> list[int]:
        """The offsets to register.

        Raises MutantNotInForceError when a mutant that should aim elsewhere aims at a site.
        """
        found = [self.offset_to_register(file, site) for site in sites]
        if self.offset_to_register is not _honest and any(
            there == file.offset_of_site(site) for there, site in zip(found, sites, strict=True)
        ):
            raise MutantNotInForceError(f"{NOT_IN_FORCE}: it aims at the site itself")
        return found


HONEST = UserMutant()

MUTANTS: dict[str, UserMutant] = {
    "user-one-instruction-off": UserMutant(offset_to_register=_one_instruction_off),
    "user-next-symbol": UserMutant(offset_to_register=_next_symbol),
    "user-link-address": UserMutant(offset_to_register=_link_address),
    "user-other-build": UserMutant(offset_to_register=_other_build),
    "user-unarmed": UserMutant(reports_without_registering=True),
    "user-other-file": UserMutant(probes_other_file=True),
    "user-stays": UserMutant(stays_registered=True),
    "user-stale-view": UserMutant(stale_view=True),
    "user-gate-open": UserMutant(leaves_gate_open=True),
    "user-good-request": UserMutant(sends_accepted_request=True),
    "user-trusts-any-build": UserMutant(accepts_any_build=True),
    "user-registered-twice": UserMutant(registers_twice=True),
    "user-left-registered": UserMutant(leaves_idle_uprobe=True),
    "user-keeps-copy": UserMutant(keeps_private_copy=True),
    "user-one-mapping": UserMutant(restores_one_mapping=True),
    "user-writes-file": UserMutant(writes_file=True),
    "user-writes-data": UserMutant(writes_data=True),
    "user-base-for-bias": UserMutant(uses_base_as_bias=True),
    "user-same-address": UserMutant(disables_aslr=True),
    "user-spares-it": UserMutant(skips_event_during_hit=True),
    "user-signals-child": UserMutant(signals_traced_child=True),
    "user-leaves-event": UserMutant(leaves_event=True),
    "user-wrong-anchor": UserMutant(uses_wrong_anchor=True),
    "user-same-build": UserMutant(uses_running_build=True),
}


def mutant_or_honest(name: str) -> UserMutant:
    """The mutant with this name; HONEST for a cell that has no mutant, or one that another package defines."""
    return MUTANTS.get(name, HONEST)
