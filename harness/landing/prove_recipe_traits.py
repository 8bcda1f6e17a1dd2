"""Proves the traits that a recipe claims, in the booted guest and before its first case."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from harness.core.elf import Elf
from harness.core.errors import WRONG_USE, DeadlineExceeded, GuestError
from harness.guest.guest import Guest
from harness.guest.result import parsing_guest_text
from harness.images.vm_recipe import Traits
from harness.landing import probe_module, prove_traits_by_programs
from harness.landing.checks.optimized_probes import JumpTraits, read_jump_traits
from harness.landing.code.function_selection import text_functions_named_once
from harness.landing.code.kernel_file import LLVM_SUFFIX, short_name
from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.landing.target import Target

# A kernel built with one section per function has thousands of text sections, even in our smallest configuration. Any
# other kernel has a few hundred at most (.text.unlikely and similar ones).
_MANY_SECTIONS = 1000


# On every kernel of the matrix this function exists, is traced if any function is, and is not called in an idle guest.
_FUNCTION = "clock_t_to_jiffies"

# Before each function of a kernel with clang's CFI is another symbol.
_PREAMBLE = f"__cfi_{_FUNCTION}"

# How long a guest may take to print a line on its console.
_PRINTING_SECONDS = 10.0


class TraitContradictedError(GuestError):
    """The booted kernel contradicts its recipe about `trait`, or several that are separated by commas.

    A command that boots one VM ends as for any other mistake in a recipe; in a run, the cells of the VM are
    harness errors.
    """

    exit_status = WRONG_USE

    def __init__(self, trait: str, what: str, *, where: str, mend: str) -> None:
        self.trait = trait
        super().__init__(what, where=where, mend=mend)


@dataclass(frozen=True)
class _Scene:
    """A guest in which the shapes target is loaded, with a probe on an exported function.

    `report` is that of the probe on its first instruction that ftrace does not patch, or patches as one of several.
    `entry_report` is that of symbol + 0. `initializer_report` is that of a probe on the target's initializer, which has
    run. `preamble_report` is that of a probe on the function's preamble, `short_name_report` that of a probe on a
    function that the kernel's file names `f.llvm.HASH`, by `f`; None if there is none.
    """

    guest: Guest
    layout: Layout
    target: Target
    apart: frozenset[str]
    """The sections that sysfs lists for `pinpoint_sections`, which is built with a section for each function."""
    report: probe_module.SiteReport
    entry_report: probe_module.SiteReport
    initializer_report: probe_module.SiteReport
    preamble_report: probe_module.SiteReport
    short_name_report: probe_module.SiteReport | None
    listed: tuple[probe_module.ListedProbe, ...]


def prove_traits(guest: Guest) -> None:
    """Compare each trait with the booted kernel. Raises TraitContradictedError with all that differ."""
    seen, evidence = _asked(guest)
    wrong = [trait for trait in Traits.model_fields if getattr(guest.traits, trait) != seen[trait]]
    if wrong:
        lines = ", ".join(f"{trait} = {str(seen[trait]).lower()}" for trait in wrong)
        raise TraitContradictedError(
            ", ".join(wrong),
            f"the recipe contradicts the booted kernel, which has {lines}",
            where=guest.name,
            mend=f"correct [traits] of the recipe, or the kernel ({evidence})",
        )


def read_booted_traits(guest: Guest) -> Traits:
    """Return the traits that the booted kernel has, whatever its recipe claims."""
    return Traits(**_asked(guest)[0])


def _asked(guest: Guest) -> tuple[dict[str, bool], str]:
    """Return each trait as the booted kernel has it, and the slide and the report of a probe as evidence."""
    _demand_warnings_on_console(guest)
    # Loaded before the target, so that what it leaves in memory does not follow the target's own data.
    with Target(guest, "pinpoint_sections") as sections:
        apart = frozenset(sections.sections)
    target = Target(guest, "pinpoint_target")
    target.load()
    layout = Layout(guest, [target])
    initializer = Site("pinpoint_target_init", module=target.module).spec
    entry, short = layout.entry_site(Site(_FUNCTION)).spec, _function_with_suffix(Elf.read_cached(guest.image.vmlinux))
    specs = dict.fromkeys((_FUNCTION, initializer, entry, _PREAMBLE, *([short] if short else [])))
    view = probe_module.load_probe_module(guest, list(specs))
    reports = dict(zip(specs, view.reports, strict=True))
    wanted = (reports[entry], reports[_FUNCTION], reports[initializer], reports[_PREAMBLE], reports.get(short))
    scene = _Scene(guest, layout, target, apart, *wanted, view.newly_listed(view.listed_before_load))
    try:
        try:
            seen = {trait: look(scene) for trait, look in _LOOKS.items()}
        finally:
            probe_module.unload_probe_module(guest)
        # It loads the probe module with other sites.
        jumps = read_jump_traits(layout, target) if seen["optimized_kprobes"] else JumpTraits(False, True)
        seen["jumps_displace_instructions"], seen["optimized_module_kprobes"] = jumps
    finally:
        target.unload()
    report = scene.report
    return seen, f"slide {layout.slide:#x}, a probe on {_FUNCTION}: errno {report.errno}, address {report.address:#x}"


def _function_with_suffix(kernel: Elf) -> str:
    """Return `f` for a function `f.llvm.HASH` of the kernel's text, where no symbol is named `f`; "" without one."""
    names = (each.name for each in text_functions_named_once(kernel) if LLVM_SUFFIX in each.name)
    return next((short_name(name) for name in names if not kernel.symbols_named(short_name(name))), "")


def _demand_warnings_on_console(guest: Guest) -> None:
    """Raise TraitContradictedError unless the console prints what the kernel logs at the level of a warning.

    A complaint of a kernel whose console leaves it out would not be read. The line has to have its time, because
    without times the kernel's lines are not distinguished from those of programs.
    """
    mark = f"pinpoint: warning {secrets.token_hex(8)}"
    guest.run_script(f"echo '<4>{mark}' >/dev/kmsg").check()
    timed = rf"\[ *\d+\.\d+\](?:\[ *[CT]\d+\])? {mark}\r?\n"
    try:
        guest.console.await_line([timed], guest.scaled_deadline(_PRINTING_SECONDS), since=guest.fence_position)
    except DeadlineExceeded:
        raise TraitContradictedError(
            "console",
            "its console does not print the kernel's warnings, each with its time, so complaints would be missed",
            where=guest.name,
            mend="remove what lowers the console's log level (sysctl.kernel.printk) from `append` of the recipe",
        ) from None


def _kprobes(scene: _Scene) -> bool:
    # Two may be at one address, which the list has once for each.
    asked = (scene.report, scene.entry_report, scene.initializer_report, scene.preamble_report, scene.short_name_report)
    accepted = {each.spec for each in asked if each and not each.errno}
    return scene.report.errno == 0 and len(scene.listed) == len(accepted)


def _kaslr(scene: _Scene) -> bool:
    return scene.layout.slide != 0


def _kernel_function_sections(scene: _Scene) -> bool:
    """True if the build recorded many text sections; the build-id, proved at boot, shows that this build runs."""
    return scene.guest.image.facts.get("text_sections", 0) > _MANY_SECTIONS


def _module_function_sections(scene: _Scene) -> bool:
    return ".text.pinpoint_leaf" in scene.target.sections


def _module_text_sections(scene: _Scene) -> bool:
    """True if a module that was built with a section for each function keeps them apart; since 6.19 it does not.

    TEXT_MAIN in scripts/module.lds.S (1ba9f8979426) merges them, except with ARCH_WANTS_MODULES_TEXT_SECTIONS (7.1).
    """
    return ".text.pinpoint_leaf" in scene.apart


def _module_initializers_freed(scene: _Scene) -> bool:
    """True if a module's initializer is gone after it ran. On 64-bit PowerPC its sections stay with all others.

    module_init_section(), arch/powerpc/kernel/module_64.c, 6.1.
    """
    return scene.initializer_report.errno != 0


def _module_stubs(scene: _Scene) -> bool:
    """True if the module loader put linker stubs between two sections of functions: the gap exceeds the alignment.

    Sections without functions are not compared. arm64 has its stubs in a separate section `.plt`, whose size and
    alignment the loader changes (module_frob_arch_sections(), arch/arm64/kernel/module-plts.c, 6.1). On 64-bit PowerPC
    sections of the initializer are between others (module_init_section(), arch/powerpc/kernel/module_64.c, 6.1).
    """
    own = scene.target.elf.sections_by_name
    loaded = sorted((start, own[name]) for name, start in scene.target.sections.items() if name in own)
    with_functions = {symbol.section for symbol in scene.target.elf.symbols if symbol.kind == "func"}
    with_functions &= set(scene.target.lasting_text_sections)
    return any(
        start - (before + left.size) >= right.alignment
        for (before, left), (start, right) in pairwise(loaded)
        if {left.name, right.name} <= with_functions
    )


def _optimized_kprobes(scene: _Scene) -> bool:
    result = scene.guest.run_script("cat /proc/sys/debug/kprobes-optimization 2>/dev/null || echo 0").check()
    return result.stdout.strip() == "1"


def _ftrace_kprobes(scene: _Scene) -> bool:
    return any("[FTRACE]" in listed.flags for listed in scene.listed)


def _traced_entry_kprobes(scene: _Scene) -> bool:
    """True if the kernel accepts a probe on symbol + 0 of a function that ftrace traces, if it traces any."""
    return scene.entry_report.errno == 0


@parsing_guest_text("/proc/kallsyms")
def _data_symbols(scene: _Scene) -> bool:
    """True with KALLSYMS_ALL: /proc/kallsyms lists data of the kernel and of modules, not only functions."""
    wanted = ("linux_banner", "pinpoint_data_word")
    # Fixed strings, because busybox under emulation takes 4 to 6 s to match 95,000 lines with a pattern, and 0.5 s with
    # a fixed string.
    listing = scene.guest.run("grep", "-F", "-e", wanted[0], "-e", wanted[1], "/proc/kallsyms").stdout
    return {line.split()[2] for line in listing.splitlines()} >= set(wanted)


def _cold_halves(scene: _Scene) -> bool:
    """True if gcc for this architecture moves unlikely parts of functions to separate symbols."""
    return bool(scene.target.elf.symbols_named("pinpoint_cold_part.cold"))


def _cfi_preambles(scene: _Scene) -> bool:
    """True if the kernel knows the symbol of a function's preamble, on which 6.1 refuses a probe with another errno."""
    return scene.preamble_report.errno != errno.ENOENT


def _llvm_suffixes_omitted(scene: _Scene) -> bool:
    """True if the kernel finds a function that its file names `f.llvm.HASH` by `f`."""
    return scene.short_name_report is not None and scene.short_name_report.errno != errno.ENOENT


def _livepatch(scene: _Scene) -> bool:
    """True if functions of this kernel can be replaced by a module (klp_init(), kernel/livepatch/core.c, 6.1)."""
    return scene.guest.run("test", "-d", "/sys/kernel/livepatch").ok


def _entry_landing_pad(scene: _Scene) -> bool:
    """True if the kernel put the probe on symbol + 0 after the symbol's address."""
    _, symbol = scene.layout.elf_and_symbol(Site(_FUNCTION))
    return scene.entry_report.address > scene.layout.symbol_address(symbol, "")


@parsing_guest_text("a reference count")
def _section_fd_pins(scene: _Scene) -> bool:
    """True if an open section file raises the module's reference count, as up to 2.6.22; 2.6.23 removed that."""
    module = f"/sys/module/{scene.target.module}"
    held = scene.guest.run_script(
        f"cd {module}; s=$(ls -A sections | head -n1); read a <refcnt; exec 3<sections/$s; read b <refcnt; echo $a $b"
    ).check()
    without, while_held = held.stdout.split()
    return int(while_held) > int(without)


_LOOKS: dict[str, Callable[[_Scene], bool]] = {
    "kprobes": _kprobes,
    "kaslr": _kaslr,
    "kernel_function_sections": _kernel_function_sections,
    "module_function_sections": _module_function_sections,
    "module_text_sections": _module_text_sections,
    "module_initializers_freed": _module_initializers_freed,
    "module_stubs": _module_stubs,
    "optimized_kprobes": _optimized_kprobes,
    "ftrace_kprobes": _ftrace_kprobes,
    "traced_entry_kprobes": _traced_entry_kprobes,
    "entry_landing_pad": _entry_landing_pad,
    "section_fd_pins": _section_fd_pins,
    "shared_loads": lambda scene: prove_traits_by_programs.shared_loads(scene.guest),
    "programs_32bit": lambda scene: prove_traits_by_programs.programs_32bit(scene.guest),
    "data_symbols": _data_symbols,
    "cold_halves": _cold_halves,
    "cfi_preambles": _cfi_preambles,
    "llvm_suffixes_omitted": _llvm_suffixes_omitted,
    "livepatch": _livepatch,
    "uprobes": lambda scene: prove_traits_by_programs.uprobes(scene.guest),
}
