"""Precompiled means precompiled: the same bytes of a probe module land wherever kernel and targets are this time.

Each place is asked for twice, by symbol + offset, which the kernel resolves, and by section + offset, which the probe
carries with the module's build-id and adds to what sysfs shows. Both were fixed before any of these guests booted.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from harness.core import paths
from harness.core.elf import Elf
from harness.core.files import sha256
from harness.guest.guest import Guest
from harness.landing.code.dwarf import line_of
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
    """Two places in pinpoint_leaf() of a module, known from its file alone."""
    elf = Elf.kept(guest.image.modules[module])
    lines = [line_of(paths.PROBES / "target" / "shapes.h", text) for text in ("x ^= x << 13;", "x += salt;")]
    return [PrecompiledSite.at_line(module, elf, "shapes.h", line, "pinpoint_leaf") for line in lines]


def prove_landing(kprobes: Kprobes, target: Target) -> None:
    """Probes on the places land by symbol and by section, and are hit as often as the function is called."""
    sites = carried(target.guest, target.module)
    for relocation in (None, by_section):
        with kprobes.on(*sites, relocation=relocation) as probes:
            target.call("leaf", TIMES)
        probes.prove(hits=TIMES)


def elsewhere(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """True when no section with code stands where it stood."""
    text = [name for name in one if name.startswith(".text")]
    return all(one[name] != other[name] for name in text)


def probe_bytes(guest: Guest) -> str:
    """The SHA-256 of pinpoint_probe.ko, the same in the guest as on the host."""
    there = guest.run("sha256sum", guest.ship("pinpoint_probe")).check().stdout.split()[0]
    assert there == sha256(guest.image.modules["pinpoint_probe"])
    return there


@contextmanager
def rebooted(fresh: Fresh, guest: Guest, mutant: str) -> Iterator[Guest]:
    """The VM booted again; where there is KASLR, at another slide: one boot in some hundreds hits upon the same.

    A mutant is caught in any other guest: one that is thawed.
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
    """The same bytes land in two boots of a kernel, in it and in a target that is at another address in each."""
    seen = []
    with rebooted(fresh, guest, mutant) as other:
        assert probe_bytes(other) == probe_bytes(guest)
        # Without KASLR the second boot is as the first was: another module before the target makes the difference.
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
    """The same bytes land in three modules loaded in one order and in the other, which puts them at other addresses."""
    seen: list[Mapping[str, Mapping[str, int]]] = []
    for order in (MODULES, MODULES[::-1]):
        with ExitStack() as loaded:
            targets = [loaded.enter_context(Target(guest, module)) for module in order]
            for target in targets:
                prove_landing(kprobes_in(guest, target), target)
            seen.append({target.module: target.sections for target in targets})
    first, last = MODULES[0], MODULES[-1]
    for module in (first, last):
        assert elsewhere(seen[0][module], seen[1][module]), f"{module} is where it was: {seen}"


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("previous-instance", "one-instruction-off")
def test_target_reloaded_elsewhere(guest: Guest, kprobes_in: Probing) -> None:
    """A target that is unloaded and comes back at another address: the same bytes land there, not where it was."""
    target = Target(guest, "pinpoint_target")
    with target:
        prove_landing(kprobes_in(guest, target), target)
    # What is loaded in between takes the target's old place.
    with Target(guest, "pinpoint_second"), target:
        assert elsewhere(target.previous, target.sections), f"the target is where it was: {target.sections}"
        prove_landing(kprobes_in(guest, target), target)
