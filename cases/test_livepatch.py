"""While a live patch is applied, a call of the old function runs the new one, and probes land in both.

ftrace calls the live patch at the old function's entry, which changes the instruction pointer
(klp_ftrace_handler(), kernel/livepatch/patch.c, 6.1). A kprobe there is called by ftrace, too, so each call hits it.
Later instructions of the old function do not run. The module is made like one of klp-build: a section for each
function, and relocations for symbols that are not exported (Documentation/livepatch/module-elf-format.rst, 6.1).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from harness.core import paths
from harness.core.elf import Elf
from harness.guest.guest import Guest
from harness.landing.checks import kretprobes
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.livepatch import LivePatch
from harness.landing.livepatch_relocations import LivePatchSymbol, with_livepatch_relocations
from harness.landing.mutants import mutant_or_honest
from harness.landing.probe_run import Kprobes, ProbeRun
from harness.landing.target import Target

TARGET, PATCH, NEW, POST = "pinpoint_target", "pinpoint_livepatch", "pinpoint_new_leaf", "pinpoint_post"
SOURCE, POST_SOURCE = (paths.CASES / "livepatch" / name for name in ("patch", "post_handler"))
# The symbols of the module's source, and what they stand for: the first of two static functions, and a variable.
SYMBOLS = {
    "pinpoint_klp_twin": LivePatchSymbol(TARGET, "pinpoint_twin", 1),
    "pinpoint_klp_banner": LivePatchSymbol("vmlinux", "linux_banner"),
}
TIMES = 3

pytestmark = pytest.mark.requires("kprobes", "livepatch", "ftrace_kprobes")


@pytest.fixture
def patch_file(build_module: Callable[..., Path], mutant: str, tmp_path: Path) -> Path:
    """The file of a live patch that replaces the function `leaf`, or another one in a mutant's cell."""
    old = "pinpoint_alternate" if mutant_or_honest(mutant).patches_another else "pinpoint_leaf"
    built = Elf.read_cached(build_module(SOURCE, f"-DPINPOINT_OLD={old}"))
    file = tmp_path / f"{PATCH}.ko"
    file.write_bytes(with_livepatch_relocations(built, SYMBOLS))
    return file


def expect_hits(probes: ProbeRun, counts: list[int]) -> None:
    """Raise Missed unless the kprobes were hit this often, in the order of their sites."""
    for landing, report, count in zip(probes.landings, probes.final_reports, counts, strict=True):
        if report.hits != count:
            raise Missed(f"{landing.site}: {report.hits} hits instead of {count}\n\n{landing.format_witness_table()}")


@pytest.mark.mutants("patches-another", deep=("one-instruction-off",))
def test_patched_function(
    fresh: Callable[..., AbstractContextManager[Guest]], kprobes_in: Callable[..., Kprobes], patch_file: Path
) -> None:
    """Probes land in the old function, in the new one, and in the static function that only the new one calls.

    The entry of the old function is hit by each call, its other instructions only after the patch is disabled.
    """
    with fresh() as guest, Target(guest, TARGET) as target, LivePatch(guest, PATCH, patch_file) as patch:
        kprobes = kprobes_in(guest, target, patch)
        old = kprobes.layout.once_per_call_sites(target.shape_site("leaf"), 3)
        new = kprobes.layout.once_per_call_sites(patch.function_site(NEW), 3)
        called = kprobes.layout.entry_site(target.shape_site("twin"))
        # With a landing pad, symbol + 0 and ftrace's site behind the pad are one place.
        places = [kprobes.layout.probe_address(site) for site in old]
        on_entry = [TIMES if place == places[0] else 0 for place in places]
        assert 0 in on_entry, "every site is the entry"
        with kprobes.on(*old, *new, called) as probes:
            patched = target.call_for_checksum("leaf", TIMES)
        probes.prove()
        expect_hits(probes, [*on_entry, *[TIMES] * 4])
        with kprobes.on(*old, *new, called) as probes:
            patch.disable()
            restored = target.call_for_checksum("leaf", TIMES)
        probes.prove()
        expect_hits(probes, [TIMES] * 3 + [0] * 4)
        if patched == restored:
            raise Missed(f"the old and the new function both return {patched}")


@pytest.mark.deep
@pytest.mark.mutants("patches-another", deep=("blind-to-returns",))
def test_returned_value(
    fresh: Callable[..., AbstractContextManager[Guest]], kprobes_in: Callable[..., Kprobes], patch_file: Path
) -> None:
    """A kretprobe on the old function's entry sees the return of the new function, and its value."""
    with fresh() as guest, Target(guest, TARGET) as target:
        before = target.call_for_checksum("leaf", 1)
        with LivePatch(guest, PATCH, patch_file) as patch:
            kprobes = kprobes_in(guest, target, patch)
            with kprobes.on(target.shape_site("leaf"), relocation=kretprobes.kretprobe_module_request) as probes:
                result = target.call_for_checksum("leaf", 1)
            probes.prove(hits=1)
            kretprobes.expect_returns(probes, 1)
            kretprobes.expect_returned_value(probes, result)
        if result == before:
            raise Missed(f"the function was not replaced: it returns {result}, as before")


@pytest.mark.deep
@pytest.mark.mutants("patches-another")
def test_post_handler(
    fresh: Callable[..., AbstractContextManager[Guest]], build_module: Callable[..., Path], patch_file: Path
) -> None:
    """A kprobe with a post-handler on the entry of a function keeps a live patch from replacing it: EBUSY.

    Both would change the instruction pointer, which ftrace allows one user of a function
    (__ftrace_hash_update_ipmodify(), kernel/trace/ftrace.c, 6.1). After the probe is removed, the patch is accepted.
    """
    with fresh() as guest, Target(guest, TARGET):
        guest.put(build_module(POST_SOURCE), f"/tmp/{POST}.ko")
        guest.put(patch_file, f"/tmp/{PATCH}.ko")
        guest.run("insmod", f"/tmp/{POST}.ko").check()
        tried = guest.run("insmod", f"/tmp/{PATCH}.ko")
        if tried.ok:
            guest.run_script(f"echo 0 >/sys/kernel/livepatch/{PATCH}/enabled").check()
            raise Missed("the kernel accepted a live patch of a function that a kprobe with a post-handler is on")
        if "Device or resource busy" not in tried.stderr:
            raise Missed(f"refused for another reason: {tried.stderr}")
        guest.run("rmmod", POST).check()
        with LivePatch(guest, PATCH, patch_file):
            pass


@pytest.mark.deep
@pytest.mark.requires("module_text_sections")
@pytest.mark.mutants("one-instruction-off")
def test_sections_of_a_live_patch(
    fresh: Callable[..., AbstractContextManager[Guest]], kprobes_in: Callable[..., Kprobes], patch_file: Path
) -> None:
    """The new function has a section of its own, and the module's `.klp.rela` sections stay loaded next to it."""
    with fresh() as guest, Target(guest, TARGET) as target, LivePatch(guest, PATCH, patch_file) as patch:
        own = f".text.{NEW}"
        kept = {f".klp.rela.{owner}.{own}" for owner in ("vmlinux", TARGET)}
        assert kept <= patch.sections.keys(), sorted(patch.sections)
        layout = Layout(guest, [target, patch])
        _, symbol = layout.elf_and_symbol(patch.function_site(NEW))
        listed = int(guest.run("grep", "-w", NEW, "/proc/kallsyms").check().stdout.split()[0], 16)
        # Since 6.2 a function can have a prefix at the start of its section (CONFIG_CALL_PADDING).
        assert (symbol.section, listed) == (own, patch.sections[own] + symbol.address)
        with kprobes_in(guest, target, patch).on(*layout.once_per_call_sites(patch.function_site(NEW), 3)) as probes:
            target.call_for_checksum("leaf", TIMES)
        probes.prove(hits=TIMES)
