"""The same bytes of a precompiled probe module land wherever the kernel and the targets are loaded.

Each site is requested twice: by symbol + offset, which the kernel resolves, and by section + offset, which the probe
carries with the module's build-id and adds to the section's address in sysfs. Both were fixed before any of these
guests booted.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from harness.core import paths
from harness.core.elf import Elf
from harness.core.files import sha256
from harness.guest.guest import Guest
from harness.landing.code.source_line_lookup import find_line_number
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.section_sites import PrecompiledSite, by_section
from harness.landing.site import Site
from harness.landing.target import Target

TIMES = 2
MODULES = ("pinpoint_target", "pinpoint_second", "pinpoint_sections")
Fresh = Callable[..., AbstractContextManager[Guest]]
Probing = Callable[..., Kprobes]


def carried(guest: Guest, module: str = "pinpoint_target") -> list[PrecompiledSite]:
    """Return two sites in pinpoint_leaf() of a module, computed from its file alone."""
    elf = Elf.read_cached(guest.image.modules[module])
    lines = [find_line_number(paths.PROBES / "target" / "shapes.h", text) for text in ("x ^= x << 13;", "x += salt;")]
    return [PrecompiledSite.at_line(module, elf, "shapes.h", line, "pinpoint_leaf") for line in lines]


def prove_landing(kprobes: Kprobes, target: Target) -> None:
    """Raise Missed unless probes on the sites land by symbol and by section and are hit once for each call."""
    sites = carried(target.guest, target.module)
    for relocation in (None, by_section):
        with kprobes.on(*sites, relocation=relocation) as probes:
            target.call("leaf", TIMES)
        probes.prove(hits=TIMES)


def elsewhere(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Return True if no section with code is at its earlier address."""
    text = [name for name in one if name.startswith(".text")]
    return all(one[name] != other[name] for name in text)


def probe_bytes(guest: Guest) -> str:
    """Return the SHA-256 of pinpoint_probe.ko, which must be the same in the guest as on the host."""
    there = guest.run("sha256sum", guest.copy_module("pinpoint_probe")).check().stdout.split()[0]
    assert there == sha256(guest.image.modules["pinpoint_probe"])
    return there


@contextmanager
def rebooted(fresh: Fresh, guest: Guest, mutant: str) -> Iterator[Guest]:
    """Yield a guest of the VM that was booted again, with another slide if the kernel has KASLR.

    About one boot in some hundreds has the same slide by chance. A mutant is caught in any other guest, so it gets a
    thawed one.
    """
    if mutant:
        with fresh() as other:
            yield other
        return
    for _ in range(3):
        with fresh(anew=True) as other:
            if not guest.traits.kaslr or Layout(other).slide != Layout(guest).slide:
                yield other
                return
    pytest.fail("three boots have the same slide")


@pytest.mark.deep
@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off")
def test_after_a_reboot(guest: Guest, fresh: Fresh, kprobes_in: Probing, mutant: str) -> None:
    """The same bytes land in two boots, in the kernel and in a target that is at another address in each."""
    seen = []
    with rebooted(fresh, guest, mutant) as other:
        assert probe_bytes(other) == probe_bytes(guest)
        # Without KASLR the two boots are the same, so another module is loaded before the target in the second.
        with (
            Target(guest, "pinpoint_target") as here,
            Target(other, "pinpoint_second"),
            Target(other, here.build) as there,
        ):
            for target in (here, there):
                kprobes = kprobes_in(target.guest, target)
                prove_landing(kprobes, target)
                with kprobes.on(Site("clock_t_to_jiffies")) as probes:
                    target.call("clock_t_to_jiffies", TIMES)
                probes.prove(hits=TIMES)
                seen.append(target.sections)
    assert elsewhere(*seen), f"the target is at the same address in both boots: {seen}"


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-instruction-off")
def test_load_order(guest: Guest, kprobes_in: Probing) -> None:
    """The same bytes land in three modules loaded in two orders, which put them at different addresses."""
    seen: list[Mapping[str, Mapping[str, int]]] = []
    for order in (MODULES, MODULES[::-1]):
        with ExitStack() as loaded:
            targets = [loaded.enter_context(Target(guest, module)) for module in order]
            for target in targets:
                prove_landing(kprobes_in(guest, target), target)
            seen.append({target.module: target.sections for target in targets})
    first, last = MODULES[0], MODULES[-1]
    for module in (first, last):
        assert elsewhere(seen[0][module], seen[1][module]), f"{module} is at its earlier address: {seen}"


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("previous-instance", "one-instruction-off")
def test_target_reloaded_elsewhere(guest: Guest, kprobes_in: Probing) -> None:
    """If a target is unloaded and loaded again at another address, the same bytes land at the new address."""
    target = Target(guest, "pinpoint_target")
    with target:
        prove_landing(kprobes_in(guest, target), target)
    # The module that is loaded in between occupies the target's old address.
    with Target(guest, "pinpoint_second"), target:
        assert elsewhere(target.previous, target.sections), f"the target is at its earlier address: {target.sections}"
        prove_landing(kprobes_in(guest, target), target)
