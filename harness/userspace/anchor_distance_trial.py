"""A trial of relocation by hand in user space: where it puts a probe on every function of a file, right or wrong.

By hand means: take the running address of one symbol of the file, the anchor, and add the distance between anchor and
function in the build that the probe was made for. The pointers of the process, which ld.so relocated, show where each
function is in fact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.errors import GuestError
from harness.images.user_targets import PLAIN
from harness.landing.code.function_selection import evenly_spread
from harness.landing.landing_judgment import Missed
from harness.landing.site import Site
from harness.userspace import mapped_pages
from harness.userspace.runner import Runner
from harness.userspace.uprobes_fixture import Uprobes
from harness.userspace.user_file import UserFile

SAMPLE = 6


@dataclass(frozen=True)
class FunctionOffsetsByMethod:
    """One function of a running file, as offsets into the file: where it is, and where each way to relocate puts it.

    `true_offset` is where it is, `offset_by_hand` the result by hand, `offset_by_symbol` by symbol table and segments,
    `offset_by_address` by its link address used as the offset.
    """

    site: Site
    true_offset: int
    offset_by_hand: int
    offset_by_symbol: int
    offset_by_address: int


@dataclass(frozen=True)
class UserTrial:
    """All functions of one file in one process, relocated by hand from the plain build."""

    file: UserFile
    functions: Sequence[FunctionOffsetsByMethod]

    @classmethod
    def of_file(cls, uprobes: Uprobes, process: Runner, name: str, variant: str) -> UserTrial:
        """Compute where each function is in the process, and where each way to relocate puts it. Raises GuestError."""
        mutant = uprobes.mutant
        plain, file = (
            uprobes.target_file(name, variant if mutant.uses_running_build else PLAIN),
            uprobes.target_file(name, variant),
        )
        view = mapped_pages.read_file_view(uprobes.guest, file, [process.pid], [])
        prefix = f"pinpoint_{name.removeprefix('lib').removeprefix('pinpoint_').removesuffix('.so')}_"
        pointers = {name: found for name, found in process.function_pointers().items() if name.startswith(prefix)}
        anchor = f"{prefix}leaf"
        truths = {name: view.file_offset(address) for name, address in pointers.items()}
        lost = [name for name, offset in truths.items() if offset is None]
        if lost or anchor not in truths:
            raise GuestError(f"the process has {', '.join(lost) or anchor} outside of {name}", where=uprobes.guest.name)
        here = truths[next(other for other in truths if other != anchor) if mutant.uses_wrong_anchor else anchor] or 0
        base = plain.symbol_of_site(Site(anchor)).address
        aims = []
        for function, truth in truths.items():
            site = file.site(function)
            distance = plain.symbol_of_site(site).address - base
            aims.append(
                FunctionOffsetsByMethod(
                    site, truth or 0, here + distance, file.offset_of_site(site), file.symbol_of_site(site).address
                )
            )
        return cls(file, aims)

    @property
    def functions_missed_by_hand(self) -> list[FunctionOffsetsByMethod]:
        """The functions that relocation by hand puts at a wrong offset."""
        return [aim for aim in self.functions if aim.offset_by_hand != aim.true_offset]

    def prove_missed_count_between(self, *, least: int, most: int) -> None:
        """Relocation by hand misses so many functions. Raises Missed."""
        if not least <= len(self.functions_missed_by_hand) <= most:
            missed = len(self.functions_missed_by_hand)
            raise Missed(f"{self.file.name}: by hand {missed} of {len(self.functions)} functions are missed")

    @property
    def functions_missed_by_symbol(self) -> list[FunctionOffsetsByMethod]:
        """The functions that the symbol table and the segments put at a wrong offset."""
        return [aim for aim in self.functions if aim.offset_by_symbol != aim.true_offset]

    @property
    def functions_misplaced_by_link_address(self) -> list[FunctionOffsetsByMethod]:
        """The functions whose link address, used as an offset into the file, is a wrong offset."""
        return [aim for aim in self.functions if aim.offset_by_address != aim.true_offset]

    def prove_sample_in_guest(self, uprobes: Uprobes, process: Runner) -> None:
        """Register a sample by hand and by symbol. Raises Missed unless each probe ends up as computed.

        By hand, the witnesses must report a miss for each computed miss, and a landing for each computed landing. By
        symbol, every probe must land.
        """
        for aims, lands in (
            (self.functions_missed_by_hand, False),
            ([aim for aim in self.functions if aim not in self.functions_missed_by_hand], True),
        ):
            sample = evenly_spread(aims, SAMPLE)
            if not sample:
                continue
            sites = [aim.site for aim in sample]
            with uprobes.on(
                self.file, sites, "module", aims=[aim.offset_by_hand for aim in sample]
            ).record_pages_before(process) as run:
                run.record_pages(process)
            wrong = [each for each in run.landings if bool(each.complaint) == lands]
            if wrong:
                evidence = f"{wrong[0].complaint}\n\n{wrong[0].format_witness_table()}"
                raise Missed(f"{wrong[0].site}, put by hand: should {'land' if lands else 'miss'}: {evidence}")
            run.prove_restored()
            with uprobes.on(self.file, sites, "module") as run:
                run.record_pages(process)
            run.prove_landings()
