"""Clang's symbols: the preamble of a function is refused, and a static function with a suffix is found without it.

With CFI, each function that can be called indirectly has a preamble `__cfi_f` (is_cfi_preamble_symbol(),
kernel/kprobes.c, 6.1). With thin link-time optimization, a static function that another file of the link uses is named
`f.llvm.HASH` (cleanup_symbol_name(), kernel/kallsyms.c, 6.1).
"""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core import paths
from harness.guest.guest import Guest
from harness.landing.checks.evenly_spread_accepted_entries import sample_entries
from harness.landing.checks.refusals import expect_specs_refused
from harness.landing.clang_symbols import (
    kernel_functions_with_preamble,
    kernel_functions_with_suffix,
    preamble,
    request_behind_preambles,
)
from harness.landing.code.function_selection import evenly_spread
from harness.landing.code.kernel_file import LLVM_SUFFIX, short_name
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target
from harness.report.metrics_with_goals import Figure

LTO_MODULE, LTO_SOURCE, PROMOTED = "pinpoint_lto", paths.CASES / "thin_lto_module", "pinpoint_promoted"
TIMES = 3
# Functions of the kernel, evenly spread over its text.
SAMPLE = 24


@pytest.mark.requires("kprobes", "cfi_preambles")
@pytest.mark.mutants("registers-last", deep=("registers-anyway",))
def test_preamble(layout: Layout, target: Target, kprobes: Kprobes, figure: Callable[..., Figure]) -> None:
    """A probe on any byte of a preamble is EINVAL, in the kernel and in a module."""
    functions = kernel_functions_with_preamble(layout)
    figure("clang.functions_with_preamble", len(functions), "functions")
    sites = [target.shape_site("leaf"), *(Site(each.name) for each in evenly_spread(functions, SAMPLE))]
    specs = []
    for site in sites:
        before = preamble(layout, site)
        assert before is not None, f"{site.symbol} has no preamble"
        size = layout.elf_and_symbol(site)[1].address - before.address
        specs += [Site(before.name, offset, module=site.module).spec for offset in range(size)]
    expect_specs_refused(kprobes, *specs, wanted=errno.EINVAL, parameters=["disabled=1"])


@pytest.mark.requires("kprobes", "cfi_preambles")
@pytest.mark.mutants("from-preamble", deep=("one-instruction-off",))
def test_behind_preamble(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """The preamble's symbol + the preamble's size + an offset lands where the function + the offset does.

    At offset 0 this is after the landing pad. The kernel sees only the address, which belongs to the function.
    """
    sites = layout.once_per_call_sites(target.shape_site("leaf"), 4)
    with kprobes.on(*sites, relocation=request_behind_preambles) as probes:
        target.call_for_checksum("leaf", TIMES)
    probes.prove(hits=TIMES)


@pytest.mark.requires("kprobes", "llvm_suffixes_omitted")
@pytest.mark.mutants("keeps-suffix", deep=("one-instruction-off",))
def test_suffix_omitted(layout: Layout, kprobes: Kprobes, figure: Callable[..., Figure]) -> None:
    """`f` finds the function that the kernel's file names `f.llvm.HASH`, and kprobes/list names it `f`."""
    named = kernel_functions_with_suffix(layout)
    figure("clang.functions_with_suffix", len(named), "functions")
    in_file = {short_name(each.name): each for each in named}
    sites = sample_entries(layout, [each._replace(name=short_name(each.name)) for each in named], SAMPLE)
    with kprobes.on(*sites) as probes:
        listed = {each.address: each.symbol_offset for each in probes.listed_probes}
    probes.prove()
    for site, report in zip(sites, probes.final_reports, strict=True):
        expected = in_file[site.symbol].address + layout.slide + site.offset + layout.landing_pad_size(site)
        if report.address != expected or listed.get(report.address, "").partition("+")[0] != site.symbol:
            raise Missed(f"{site} is at {expected:#x} in the file; listed are {listed}")


@pytest.mark.requires("kprobes", "llvm_suffixes_omitted")
@pytest.mark.mutants("registers-last", deep=("registers-anyway",))
def test_whole_name(layout: Layout, kprobes: Kprobes) -> None:
    """`f.llvm.HASH`, as /proc/kallsyms shows it, is ENOENT: the kernel compares the name with `f`."""
    names = [each.name for each in evenly_spread(kernel_functions_with_suffix(layout), SAMPLE)]
    assert names, "no function has a suffix"
    expect_specs_refused(kprobes, *names, wanted=errno.ENOENT, parameters=["disabled=1"])


@pytest.mark.requires("kprobes", "llvm_suffixes_omitted")
@pytest.mark.mutants("one-instruction-off", deep=("only-reported",))
def test_suffix_in_a_module(
    guest: Guest, kprobes_in: Callable[..., Kprobes], build_module: Callable[..., Path]
) -> None:
    """A module's function is found by its whole name only, `MOD:f.llvm.HASH`, but kprobes/list names it `f`.

    find_kallsyms_symbol_value() (kernel/module/kallsyms.c, 6.1) compares whole names, and kallsyms_lookup() omits the
    suffix of what it returns. So what the kernel prints is no name that it finds.
    """
    with Target(guest, LTO_MODULE, build_module(LTO_SOURCE)) as target:
        (name,) = (each.name for each in target.functions() if each.name.startswith(f"{PROMOTED}{LLVM_SUFFIX}"))
        kprobes = kprobes_in(guest, target)
        with kprobes.on(*kprobes.layout.once_per_call_sites(target.function_site(name), 3)) as probes:
            guest.run_script(f"echo {TIMES} >/sys/module/{LTO_MODULE}/parameters/calls").check()
            listed = {each.symbol_offset.partition("+")[0] for each in probes.listed_probes}
        probes.prove(hits=TIMES)
        if listed != {PROMOTED}:
            raise Missed(f"listed as {listed}, not as {PROMOTED}")
        expect_specs_refused(kprobes, f"{LTO_MODULE}:{PROMOTED}", wanted=errno.ENOENT)
