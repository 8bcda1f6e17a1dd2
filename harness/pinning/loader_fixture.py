"""Runs loaders in a case and compares their results with the expected ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Self

from harness.core.errors import GuestLost
from harness.guest.guest import Guest
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.landing.target import Target
from harness.pinning.hold_module_in_state import delete_module
from harness.pinning.loaded_probe_landings import LoadedProbe
from harness.pinning.loader import PROBE, Loader, LoaderOrder, LoaderResult, LoaderStatus
from harness.pinning.mutants import HONEST, LoaderMutant


class Loaders:
    """Loaders in one guest; in a mutant's cell the loaders, or the probes that they load, are broken on purpose."""

    def __init__(self, guest: Guest, mutant: LoaderMutant = HONEST) -> None:
        self.guest = guest
        self.mutant = mutant
        self._names = {PROBE}
        self._orders = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the probes that a mutant may have left."""
        for name in self._names if self.mutant != HONEST else ():
            self.guest.run("rmmod", name)

    def __call__(self, order: LoaderOrder) -> Loader:
        """Return a loader with this order, for `with loading(order) as loader`."""
        self._names |= {order.module_name or PROBE}
        self._orders += 1
        return Loader(self.guest, self.mutant.break_order(order, self._orders))

    def run(self, order: LoaderOrder) -> LoaderResult:
        """Run one loader from start to end."""
        with self(order) as loader:
            return loader.finish()

    def expect_refusal(self, order: LoaderOrder, status: LoaderStatus, errno: str) -> None:
        """Run one loader and check that it ends with this status and errno and leaves no probe. Raises Missed."""
        expect_result(self.run(order), status, errno)
        expect_gone(self.guest, order.module_name or PROBE)

    def delete_module(self, module: str) -> str:
        """Remove a module. Returns the errno's name, empty on success."""
        return delete_module(self.guest, module, force=self.mutant.removes_by_force)

    def prove_landing(
        self, layout: Layout, site: Site, act: Callable[[], object], hits: int, order: LoaderOrder | None = None
    ) -> None:
        """Load a probe for one site in a target, call `act`, which runs the site, and unload the probe.

        `order` adds to the loader's order. Raises Missed unless all witnesses agree and the probe was hit `hits` times.
        """
        target = layout.targets[site.module]
        aimed = layout.next_instruction_site(site) if self.mutant.aims_past_site else site
        with LoadedProbe(layout, [site], PROBE) as probe:
            expect_result(self.run(order_for_site(layout, target, aimed, order)), LoaderStatus.DONE)
            probe.read_while_registered()
            act()
        probe.prove([hits])


def order_for_build(target: Target, order: LoaderOrder) -> LoaderOrder:
    """The same order for a probe that was compiled for exactly this build of its only target."""
    expected = f"module_build_ids={target.elf.build_id}"
    return replace(order, targets=[target.module], parameters=[expected, *order.parameters])


def order_for_site(layout: Layout, target: Target, site: Site, order: LoaderOrder | None = None) -> LoaderOrder:
    """An order for a probe on one site, given as the section of its function and the offset in the section."""
    _, symbol = layout.elf_and_symbol(site)
    inside = layout.probe_address(site) - target.sections[symbol.section]
    plain = order_for_build(target, order or LoaderOrder())
    return replace(
        plain,
        sections=[(target.module, symbol.section)],
        parameters=[*plain.parameters, f"site=0+{inside:#x}"],
    )


def demand_survival(loader: Loader) -> LoaderResult:
    """The result of a loader that may crash the kernel. Raises Missed if the kernel crashes."""
    try:
        return loader.finish()
    except GuestLost as lost:
        raise Missed(f"the kernel did not survive the load: {lost}") from lost


def expect_result(outcome: LoaderResult, status: LoaderStatus, errno: str = "") -> None:
    """Check that the loader ended with this status and errno. Raises Missed with all lines that it printed."""
    if (outcome.status, outcome.errno_name) != (status, errno):
        wanted = f"{status.name} {errno}".strip()
        printed = "\n".join(map(str, outcome.lines))
        raise Missed(f"the loader ended with {outcome}, not {wanted}\n\n{printed}")


def expect_gone(guest: Guest, module: str) -> None:
    """Check that a module is not loaded. Raises Missed."""
    if not guest.run_script(f"[ ! -e /sys/module/{module} ]").ok:
        raise Missed(f"{module} is loaded but should not be")
