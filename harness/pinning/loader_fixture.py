"""Runs loaders in a case and compares their results with the expected ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Self

from harness.core.elf import Symbol
from harness.core.errors import GuestLost
from harness.guest.guest import Guest
from harness.landing.code.instructions import first_accepted_offset
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.landing.target import Target
from harness.pinning.check_foreign_loader_command import ForeignLoaderProgramAndArguments
from harness.pinning.foreign_loader import ForeignLoader, ForeignResult
from harness.pinning.hold_module_in_state import delete_module
from harness.pinning.loaded_probe_landings import LoadedProbeRun
from harness.pinning.loader import PROBE, Loader, LoaderExitStatus, LoaderOrder, LoaderResult
from harness.pinning.mutants import HONEST, LoaderMutant

# The target of the control load, which no case that a foreign loader can run has loaded meanwhile.
_CONTROL = "pinpoint_second"


class Loaders:
    """Loaders in one guest; in a mutant's cell the loaders, or the probes that they load, are broken on purpose.

    With `foreign` they are somebody else's, and a refusal counts only after the same loader has loaded a probe for a
    target that is there.
    """

    def __init__(
        self, guest: Guest, mutant: LoaderMutant = HONEST, foreign: ForeignLoaderProgramAndArguments | None = None
    ) -> None:
        self.guest = guest
        self.mutant = mutant
        self.foreign = foreign
        self._control_done = False
        self._names = {PROBE}
        self._orders = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the probes that a mutant or a foreign loader may have left."""
        for name in self._names if self.mutant != HONEST or self.foreign else ():
            self.guest.run("rmmod", name)

    def __call__(self, order: LoaderOrder) -> Loader:
        """Return a loader with this order, for `with loading(order) as loader`."""
        self._names |= {order.module_name or PROBE}
        self._orders += 1
        broken = self.mutant.break_order(order, self._orders)
        return ForeignLoader(self.guest, broken, self.foreign) if self.foreign else Loader(self.guest, broken)

    def run(self, order: LoaderOrder) -> LoaderResult:
        """Run one loader from start to end."""
        with self(order) as loader:
            return loader.continue_to_end()

    def expect_refusal(self, order: LoaderOrder, status: LoaderExitStatus, errno: str) -> None:
        """Run one loader and check that it ends with this status and errno and leaves no probe. Raises Missed."""
        self.demand_control_load()
        expect_result(self.run(order), status, errno)
        expect_gone(self.guest, order.module_name or PROBE)

    def demand_control_load(self) -> None:
        """Check once that a foreign loader loads a probe for a target that is there.

        Otherwise a loader that always fails would pass each case that expects a refusal. Raises Missed.
        """
        if self.foreign is None or self._control_done:
            return
        with Target(self.guest, _CONTROL) as target:
            with ForeignLoader(self.guest, order_with_target_build_id(target, LoaderOrder()), self.foreign) as loader:
                result = loader.continue_to_end()
            self.guest.run("rmmod", PROBE)
        if result.status is not LoaderExitStatus.DONE:
            raise Missed(f"the loader loads no probe even for a target that is there: {result}")
        self._control_done = True

    def delete_module(self, module: str) -> str:
        """Remove a module. Returns the errno's name, empty on success."""
        return delete_module(self.guest, module, force=self.mutant.removes_by_force)

    def load_and_prove_landing(
        self, layout: Layout, site: Site, act: Callable[[], object], hits: int, order: LoaderOrder | None = None
    ) -> None:
        """Load a probe for one site in a target, call `act`, which runs the site, and unload the probe.

        `order` adds to the loader's order. Raises Missed unless all witnesses agree and the probe was hit `hits` times.
        """
        target = layout.targets[site.module]
        aimed = layout.next_instruction_site(site) if self.mutant.aims_past_site else site
        with LoadedProbeRun(layout, [site], PROBE) as probe:
            expect_result(self.run(order_for_site(layout, target, aimed, order)), LoaderExitStatus.DONE)
            probe.read_while_registered()
            act()
        probe.prove([hits])


def order_with_target_build_id(target: Target, order: LoaderOrder) -> LoaderOrder:
    """The same order for a probe that was compiled for exactly this build of its only target."""
    expected = f"module_build_ids={target.elf.build_id}"
    return replace(order, targets=[target.module], parameters=[expected, *order.parameters])


def order_for_site(layout: Layout, target: Target, site: Site, order: LoaderOrder | None = None) -> LoaderOrder:
    """An order for a probe on one site, given as the section of its function and the offset in the section."""
    _, symbol = layout.elf_and_symbol(site)
    inside = layout.probe_address(site) - target.sections[symbol.section]
    plain = order_with_target_build_id(target, order or LoaderOrder())
    return replace(
        plain,
        sections=[(target.module, symbol.section)],
        parameters=[*plain.parameters, f"site=0+{inside:#x}"],
    )


def site_parameter_at_entry(target: Target, function: Symbol) -> str:
    """The parameter for a probe on the entry of a function in the order's only section.

    It is the second instruction if the kernel refuses the first for ftrace.
    """
    decoder = target.guest.architecture.kprobe_traits.decoder
    offset = target.elf.offset_in_section(function) + first_accepted_offset(target.elf, function, decoder)
    return f"site=0+{offset:#x}"


def result_if_kernel_survives(loader: Loader) -> LoaderResult:
    """The result of a loader that may crash the kernel. Raises Missed if the kernel crashes."""
    try:
        return loader.continue_to_end()
    except GuestLost as lost:
        raise Missed(f"the kernel did not survive the load: {lost}") from lost


def expect_result(outcome: LoaderResult, status: LoaderExitStatus, errno: str = "") -> None:
    """Check that the loader ended with this status and errno. Raises Missed with all lines that it printed.

    A foreign loader has no statuses of ours: it must exit with 0 where DONE is expected, and with another status where
    any failure is.
    """
    if isinstance(outcome, ForeignResult):
        if (outcome.status is LoaderExitStatus.DONE) != (status is LoaderExitStatus.DONE):
            wanted = "0" if status is LoaderExitStatus.DONE else f"a failure, as ours does with {status.name} {errno}"
            raise Missed(f"{outcome}, not {wanted}")
        return
    if (outcome.status, outcome.errno_name) != (status, errno):
        wanted = f"{status.name} {errno}".strip()
        printed = "\n".join(map(str, outcome.lines))
        raise Missed(f"the loader ended with {outcome}, not {wanted}\n\n{printed}")


def expect_gone(guest: Guest, module: str) -> None:
    """Check that a module is not loaded. Raises Missed."""
    if not guest.run_script(f"[ ! -e /sys/module/{module} ]").ok:
        raise Missed(f"{module} is loaded but should not be")
