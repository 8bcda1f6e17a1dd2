"""The same bytes of a precompiled probe module land wherever the kernel and the targets are loaded.

The module was compiled for one build of two targets: it contains their build-ids, the names of two sections of each,
and offsets into them, and nothing else of them (harness/images/precompiled_table.py). Each of its kprobes is placed by
itself, at section + offset, where the targets are at the time of the load.
"""

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from harness.core import paths
from harness.core.elf import Elf
from harness.core.files import sha256
from harness.core.source_line_to_offset import find_line_number
from harness.guest.guest import Guest
from harness.images.kernel_mutant_table import PARAMETER_FILE
from harness.images.precompiled_table import PLACES
from harness.landing import probe_module
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.precompiled_sites import PrecompiledSite, request_by_section
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target
from harness.matrix.guests import kernel_mutant_switch
from harness.pinning import precompiled_probe_run
from harness.pinning.loader import LoaderExitStatus
from harness.pinning.loader_fixture import Loaders
from harness.pinning.mutants import mutant_or_honest
from harness.report.metrics_with_goals import Figure

TIMES = 2
# The number of that rule in vm_images/patches/kernel-mutants.toml.
NO_SYMBOL_NAMES = 202
# pinpoint_cold_taken() enters pinpoint_rare() twice (probes/target/cold.c).
RARE_ENTRIES = 2
BETWEEN = "pinpoint_sections"
Fresh = Callable[..., AbstractContextManager[Guest]]
Probing = Callable[..., Kprobes]


def hits_of(targets: Mapping[str, Target]) -> Callable[[], list[int]]:
    """Return a function that runs every site of the precompiled module, and returns how often each ran."""

    def run() -> list[int]:
        first, second = (targets[name] for name in PLACES)
        for target, shape in ((first, "leaf"), (first, "cold_taken"), (second, "leaf"), (second, "second_rare")):
            target.call_for_checksum(shape, TIMES)
        return [TIMES, TIMES, RARE_ENTRIES * TIMES, TIMES, TIMES, TIMES]

    return run


@contextmanager
def loaded(guest: Guest, *modules: str) -> Iterator[dict[str, Target]]:
    """Load target modules in this order while the block runs."""
    with ExitStack() as held:
        yield {module: held.enter_context(Target(guest, module)) for module in modules}


def prove_landing(loaders: Loaders, targets: Mapping[str, Target], *, in_memory: bool) -> None:
    """Raise Missed unless the precompiled module lands in these targets; it must be the same file as on the host."""
    guest, how = loaders.guest, precompiled_probe_run.precompiled_order(loaders.guest, in_memory=in_memory)
    there = guest.run("sha256sum", how.probe).check().stdout.split()[0]
    assert there == sha256(precompiled_probe_run.module_file(guest))
    targets = {name: targets[name] for name in PLACES}
    precompiled_probe_run.load_and_prove_landing(loaders, targets, hits_of(targets), how)


def elsewhere(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Return True if no section with code is at its earlier address."""
    text = [name for name in one if name.startswith(".text")]
    return all(one[name] != other[name] for name in text)


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
@pytest.mark.own_loader("the claim is about a probe that was compiled for its targets")
def test_after_a_reboot(guest: Guest, fresh: Fresh, kprobes_in: Probing, mutant: str) -> None:
    """The same bytes land in two boots, with other slides, load orders and addresses, as does a probe by symbol."""
    seen = []
    with rebooted(fresh, guest, mutant) as other:
        # Without KASLR the two boots are the same, so the load orders differ.
        for running, order in ((guest, tuple(PLACES)), (other, (BETWEEN, *reversed(tuple(PLACES))))):
            with loaded(running, *order) as targets, Loaders(running, mutant_or_honest(mutant)) as loaders:
                prove_landing(loaders, targets, in_memory=running is other)
                target = targets[order[-1]] if running is other else targets[order[0]]
                kprobes = kprobes_in(running, target)
                with kprobes.on(kprobes.layout.entry_site(Site("clock_t_to_jiffies"))) as probes:
                    target.call_for_checksum("clock_t_to_jiffies", TIMES)
                probes.prove(hits=TIMES)
                seen.append({name: targets[name].sections for name in PLACES})
    moved = {module for module in PLACES if elsewhere(seen[0][module], seen[1][module])}
    # Without KASLR the allocator's holes decide which module moves; with it both move.
    assert moved == set(PLACES) if guest.traits.kaslr else moved, f"only {sorted(moved)} moved between the boots"


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("swaps-handles", deep=("one-instruction-off",))
@pytest.mark.parametrize(
    "in_memory",
    [pytest.param(False, id="finit_module"), pytest.param(True, id="init_module", marks=pytest.mark.deep)],
)
@pytest.mark.own_loader("the claim is about a probe that was compiled for its targets")
def test_load_order(guest: Guest, probe_loaders: Loaders, *, in_memory: bool) -> None:
    """The same bytes land, by either system call, in two targets loaded in three orders, which move a target."""
    seen: list[Mapping[str, Mapping[str, int]]] = []
    other_way = tuple(reversed(tuple(PLACES)))
    # Which module moves depends on the holes that the allocator has: on parisc the larger one fits into one only.
    for order in (tuple(PLACES), (BETWEEN, *other_way), (*other_way, BETWEEN)):
        with loaded(guest, *order) as targets:
            prove_landing(probe_loaders, targets, in_memory=in_memory)
            seen.append({name: targets[name].sections for name in PLACES})
    moved = [module for module in PLACES for each in seen[1:] if elsewhere(seen[0][module], each[module])]
    assert moved, f"{' and '.join(PLACES)} are at their first addresses in each order"


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("one-base", deep=("one-instruction-off",))
@pytest.mark.own_loader("the claim is about a probe that was compiled for its targets")
def test_kernel_without_symbol_names(guest: Guest, fresh: Fresh, mutant: str) -> None:
    """On a kernel that takes addresses only, as until 2.6.16, a probe by name is EINVAL, and the module lands.

    Kernels with the patch kernel-mutants restore that rule (docs/kernel-mutants.md); others take names.
    """
    if not guest.run("test", "-e", PARAMETER_FILE).ok:
        pytest.skip("the kernel is built without the patch kernel-mutants")
    with fresh() as old:
        kernel_mutant_switch.switch_on(old, NO_SYMBOL_NAMES)
        by_name = probe_module.load_probe_module(old, ["clock_t_to_jiffies"]).reports[0]
        probe_module.unload_probe_module(old)
        if by_name.errno != errno.EINVAL:
            raise Missed(f"a probe by name: errno {by_name.errno} instead of EINVAL")
        with loaded(old, *PLACES) as targets, Loaders(old, mutant_or_honest(mutant)) as loaders:
            prove_landing(loaders, targets, in_memory=False)


def is_cold_code_apart(guest: Guest) -> bool:
    """Return True if the targets' `__cold` functions are in another section than the others.

    The attribute is empty if functions are aligned by a gcc that does not align cold ones, as gcc 12
    (include/linux/compiler_types.h, 6.12). A section for each function keeps them apart in any case.
    """
    config = guest.image.config
    aligned = config.get("CONFIG_FUNCTION_ALIGNMENT", "0") != "0"
    is_empty = aligned and config.get("CONFIG_CC_HAS_SANE_FUNCTION_ALIGNMENT") != "y"
    return guest.traits.module_function_sections or not is_empty


@pytest.mark.requires("kprobes", "module_text_sections")
@pytest.mark.mutants("one-base")
@pytest.mark.own_loader("the claim is about a probe that was compiled for its targets")
def test_two_sections_of_each(guest: Guest, probe_loaders: Loaders) -> None:
    """The module has sites in two sections of each target; with one base for both it is refused or misses.

    In one section of each target they are where the kernel's headers make `__cold` empty.
    """
    apart = is_cold_code_apart(guest)
    for site in precompiled_probe_run.site_sections_by_target(guest).values():
        assert len(set(site)) == 1 + apart, f"the sites are in {site}"
    if not apart:
        pytest.skip(f"{guest.name}: __cold is empty, so each target has one section of text")
    with loaded(guest, *PLACES) as targets:
        prove_landing(probe_loaders, targets, in_memory=False)


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("no-build-id")
@pytest.mark.own_loader("the claim is about a probe that was compiled for its targets")
def test_other_build_is_refused(guest: Guest, probe_loaders: Loaders) -> None:
    """If another build of one target is loaded, the module itself compares build-ids, and its initializer refuses.

    Name and base of the other build are as the loader has them.
    """
    first, second = PLACES
    with Target(guest, f"rebuilt/{first}"), Target(guest, second):
        probe_loaders.expect_refusal(precompiled_probe_run.precompiled_order(guest), LoaderExitStatus.LOAD, "ESTALE")


@pytest.mark.requires("kprobes")
@pytest.mark.mutants("with-symbols")
@pytest.mark.own_loader("the claim is about a probe that was compiled for its targets")
def test_carries_nothing_of_its_targets(guest: Guest, probe_loaders: Loaders, figure: Callable[..., Figure]) -> None:
    """The module has no symbol of its targets; one that relocates by hand lands the same probes and is larger."""
    plain = precompiled_probe_run.module_file(guest, with_symbols=probe_loaders.mutant.embeds_target_symbols)
    precompiled_probe_run.expect_no_target_symbols(guest, plain)
    with loaded(guest, *PLACES) as targets:
        how = precompiled_probe_run.precompiled_order(guest, with_symbols=True)
        precompiled_probe_run.load_and_prove_landing(probe_loaders, targets, hits_of(targets), how)
    by_hand = precompiled_probe_run.module_file(guest, with_symbols=True)
    small, large = (sum(each.size for each in Elf.read_cached(path).allocated_sections) for path in (plain, by_hand))
    figure("precompiled.bytes", small, "bytes")
    figure("precompiled.bytes_by_hand", large, "bytes")
    if small >= large:
        raise Missed(f"{plain.name} has {small} bytes, {by_hand.name} with its table of symbols {large}")


def carried(guest: Guest, module: str = "pinpoint_target") -> list[PrecompiledSite]:
    """Return two sites in pinpoint_leaf() of a module, computed from its file alone."""
    elf = Elf.read_cached(guest.image.modules[module])
    lines = [find_line_number(paths.PROBES / "target" / "shapes.h", text) for text in ("x ^= x << 13;", "x += salt;")]
    return [PrecompiledSite.at_line(module, elf, "shapes.h", line, "pinpoint_leaf") for line in lines]


@pytest.mark.deep
@pytest.mark.requires("kprobes")
@pytest.mark.mutants("previous-instance", deep=("one-instruction-off",))
def test_target_reloaded_elsewhere(guest: Guest, kprobes_in: Probing) -> None:
    """Sites by section + offset, fixed before any load, land in a target that is loaded again at another address.

    Here the harness adds the sections' addresses, which it reads from sysfs after each load.
    """
    target = Target(guest, "pinpoint_target")
    with target:
        prove_both(kprobes_in(guest, target), target)
    # What is loaded in between occupies the target's old address, or other holes that it could get instead.
    for occupants in (("pinpoint_second",), ("pinpoint_second", BETWEEN), (BETWEEN,)):
        with loaded(guest, *occupants), target:
            if elsewhere(target.previous, target.sections):
                prove_both(kprobes_in(guest, target), target)
                return
    pytest.fail(f"{target.module} is at its earlier address, whatever is loaded before it")


def prove_both(kprobes: Kprobes, target: Target) -> None:
    """Raise Missed unless probes on the sites land by symbol and by section and are hit once for each call."""
    sites = carried(target.guest, target.module)
    for relocation in (None, request_by_section):
        with kprobes.on(*sites, relocation=relocation) as probes:
            target.call_for_checksum("leaf", TIMES)
        probes.prove(hits=TIMES)
