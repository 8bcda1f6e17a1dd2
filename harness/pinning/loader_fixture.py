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
from harness.pinning.hold_module_in_state import delete
from harness.pinning.loaded_probe_landings import LoadedProbe
from harness.pinning.loader import PROBE, Loader, LoaderOrder, LoaderResult, Status
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
        self._names |= {order.name or PROBE}
        self._orders += 1
        return Loader(self.guest, self.mutant.break_order(order, self._orders))

    def run(self, order: LoaderOrder) -> LoaderResult:
        """Run one loader from start to end."""
        with self(order) as loader:
            return loader.finish()

    def expect_refusal(self, order: LoaderOrder, status: Status, errno: str) -> None:
        """Run one loader and check that it ends with this status and errno and leaves no probe. Raises Missed."""
        expect_result(self.run(order), status, errno)
        expect_gone(self.guest, order.name or PROBE)

    def delete(self, module: str) -> str:
        """Remove a module. Returns the errno's name, empty on success."""
        return delete(self.guest, module, force=self.mutant.forces)

    def prove_landing(
        self, layout: Layout, site: Site, act: Callable[[], object], hits: int, order: LoaderOrder | None = None
    ) -> None:
        """Load a probe for one site in a target, call `act`, which runs the site, and unload the probe.

        `order` adds to the loader's order. Raises Missed unless all witnesses agree and the probe was hit `hits` times.
        """
        target = layout.targets[site.module]
        aimed = layout.following(site) if self.mutant.misses else site
        with LoadedProbe(layout, [site], PROBE) as probe:
            expect_result(self.run(for_site(layout, target, aimed, order)), Status.DONE)
            probe.look()
            act()
        probe.prove([hits])


def for_build(target: Target, order: LoaderOrder) -> LoaderOrder:
    """The same order for a probe that was compiled for exactly this build of its only target."""
    expected = f"module_build_ids={target.elf.build_id}"
    return replace(order, targets=[target.module], parameters=[expected, *order.parameters])


def for_site(layout: Layout, target: Target, site: Site, order: LoaderOrder | None = None) -> LoaderOrder:
    """An order for a probe on one site, given as the section of its function and the offset in the section."""
    _, symbol = layout.symbol(site)
    inside = layout.address(site) - target.sections[symbol.section]
    plain = for_build(target, order or LoaderOrder())
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


def expect_result(outcome: LoaderResult, status: Status, errno: str = "") -> None:
    """Check that the loader ended with this status and errno. Raises Missed with all lines that it printed."""
    if (outcome.status, outcome.errno) != (status, errno):
        wanted = f"{status.name} {errno}".strip()
        printed = "\n".join(map(str, outcome.steps))
        raise Missed(f"the loader ended with {outcome}, not {wanted}\n\n{printed}")


def expect_gone(guest: Guest, module: str) -> None:
    """Check that a module is not loaded. Raises Missed."""
    if not guest.script(f"[ ! -e /sys/module/{module} ]").ok:
        raise Missed(f"{module} is loaded but should not be")
