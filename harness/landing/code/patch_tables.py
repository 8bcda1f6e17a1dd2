"""The tables by which a kernel patches its own text at run time, in the formats of Linux 5.10, 6.1 and 6.12.

Formats: arch/*/include/asm/alternative.h; apply_retpolines(), apply_returns() and alternatives_smp_lock() in
arch/x86/kernel/alternative.c; struct paravirt_patch_site; include/linux/jump_label.h and static_call_types.h;
scripts/recordmcount.h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.landing.code.loader_filled_section import JumpForm, LoaderFilledSection
from harness.landing.code.patch_table_format import CodeReader, PatchSizeFunction, PatchTableFormat, PatchTables


def _always(size: int) -> PatchSizeFunction:
    return lambda _, __: size


def _alternative_size(row: Sequence[int], _: CodeReader) -> int:
    return row[3]


def _section_size(row: Sequence[int], _: CodeReader) -> int:
    """The distance from the start to the end of a feature section (struct fixup_entry, arch/powerpc/lib, 6.1)."""
    return row[1] - row[0]


def _holds_its_replacement(row: Sequence[int]) -> bool:
    return 0 < row[3] >= row[4]


def _paravirt_size(row: Sequence[int], _: CodeReader) -> int:
    return row[2]


def _jump_size(_: Sequence[int], code: CodeReader) -> int:
    """2 for a short jump or nop, 5 for a long one (arch_jump_entry_size(), arch/x86/kernel/jump_label.c)."""
    return 2 if code().startswith((b"\xeb", b"\x66\x90")) else 5


def _branch_size(_: Sequence[int], code: CodeReader) -> int:
    """5 for a call or a jump; 6 if it has a prefix or a condition."""
    return 5 if code().startswith((b"\xe8", b"\xe9")) else 6


def _arm64_ftrace_skip(code: bytes) -> int:
    """The distance from the two nops before a function to those after its entry and landing pad, or 0.

    The nops before it become a pointer (ftrace_call_adjust(), arch/arm64/kernel/ftrace.c, 6.12): both are there since
    6.4, by -fpatchable-function-entry=4,2.
    """
    if not code.startswith(2 * _ARM64_NOP):
        return 0
    return next((at for at in (8, 12) if code[at:].startswith(2 * _ARM64_NOP) and code[8:at] in _ARM64_PADS), 0)


def _parisc_alternative_size(row: Sequence[int], _: CodeReader) -> int:
    """The bytes of -length words if the length is negative, else of one word.

    See apply_alternatives() in arch/parisc/kernel.
    """
    return 4 * max(1, -row[1])


def _between(name: str) -> tuple[str, str]:
    return f"__start_{name}", f"__stop_{name}"


_ARM64_NOP = bytes.fromhex("1f2003d5")
_ARM64_PADS = (b"", bytes.fromhex("5f2403d5"))  # bti c

# Additions of the distance between physical and virtual addresses (__pv_stub(), arch/arm/include/asm/memory.h), and
# instructions that a kernel for several processors replaces on one (ALT_SMP(), asm/assembler.h, fixup_smp()).
ARM_PHYSICAL, ARM_PROCESSORS = "__pv_table_begin", "__smpalt_begin"
# RISC-V has other names for the table of alternatives (arch/riscv/kernel/vmlinux.lds.S, 6.12).
RISCV_ALTERNATIVES = "__alt_start"
ALTERNATIVES, JUMPS, FTRACE = "__alt_instructions", "__start___jump_table", "__start_mcount_loc"
STATIC_CALLS = "__start_static_call_sites"
_ALTERNATIVES = (ALTERNATIVES, "__alt_instructions_end", ".altinstructions")
# struct alt_instr of other versions: up to 5.12 it ends with the length of the padding; since 6.3 it has 16 flag bits
# after the feature.
_OTHER_ALTERNATIVES = ("iiHBBB", "iiIBB")
_PARAVIRT = ("__parainstructions", "__parainstructions_end", ".parainstructions")
_JUMPS = (*_between("__jump_table"), "__jump_table")

# Calls of the tracer in ftrace's own entry code (ftrace_update_ftrace_func(), arch/*/kernel/ftrace.c).
_FTRACE_CALLS = frozenset({"ftrace_call", "ftrace_regs_call", "ftrace_graph_call"})
# The same on ARM, and the division that becomes two instructions (patch_aeabi_idiv(), arch/arm/kernel/setup.c, 6.1).
_ARM_PATCHED = _FTRACE_CALLS | {"ftrace_graph_regs_call", "__aeabi_uidiv", "__aeabi_idiv"}
# The branch in ftrace's entry code, the trampolines of all ftrace sites (arch/s390/kernel/ftrace.c, 6.1), and the page
# with copies of probed instructions (alloc_s390_insn_page(), arch/s390/kernel/kprobes.c).
_S390_PATCHED = frozenset({"ftrace_graph_caller", "__ftrace_hotpatch_trampolines_start", "kprobes_insn_page"})
# Calls of the tracer, what jumps to it, and the copies of ftrace's and of optimized probes' code in .text
# (ftrace_dyn_arch_init(), arch/powerpc/kernel/trace/ftrace.c; alloc_optinsn_page(), optprobes.c, 6.1).
_PPC_PATCHED = _FTRACE_CALLS | {"ftrace_tramp_text", "ftrace_tramp_init", "optinsn_slot"}
# ftrace's own code (ftrace_dyn_arch_init(), arch/mips/kernel/ftrace.c), the handlers of the TLB and of pages, which the
# kernel writes for its processor at boot (build_r4000_tlb_load_handler(), arch/mips/mm/tlbex.c; build_clear_page(),
# mm/page.c), and the instruction that waits (check_wait(), kernel/idle.c; 6.1).
_MIPS_PATCHED = _FTRACE_CALLS | {
    *("_mcount", "handle_tlbl", "handle_tlbs", "handle_tlbm", "tlbmiss_handler_setup_pgd"),
    *("clear_page", "copy_page", "__clear_page_start", "__copy_page_start"),
}
# R_PPC64_REL24.
_PPC_STUBS = LoaderFilledSection(
    frozenset({10}), jump_targets=("ftrace_caller", "ftrace_regs_caller"), form=JumpForm.PPC64
)
# R_ARM_PC24, CALL, JUMP24.
_ARM_CALLS = frozenset({1, 28, 29})
_ARM_PLT = LoaderFilledSection(_ARM_CALLS, jump_targets=("ftrace_caller", "__gnu_mcount_nc"), form=JumpForm.ARM)
# R_AARCH64_CALL26 and JUMP26; ADR_PREL_PG_HI21 and its variant without a check of overflow.
_ARM64_CALLS, _ARM64_PAGES = frozenset({283, 282}), frozenset({275, 276})
# Data in .text: initialize_ivt(), arch/parisc/kernel/traps.c, and the checksum of setup_toc_handler(), toc.c.
_WRITTEN_AT_BOOT = frozenset({"fault_vector_11", "fault_vector_20", "toc_handler_csum"})

_X86_ALTERNATIVES = PatchTableFormat(
    *_ALTERNATIVES,
    "iiHBB",
    _alternative_size,
    other_row_formats=_OTHER_ALTERNATIVES,
    is_sound_row=_holds_its_replacement,
)
_X86_LOCKS = PatchTableFormat("__smp_locks", "__smp_locks_end", ".smp_locks", "i", _always(1))

# Tables of feature sections (asm/feature-fixups.h): a mask and a value of features, and four distances from the row.
PPC_FEATURES = tuple(f"__start___{name}ftr_fixup" for name in ("", "mmu_", "fw_"))
# Tables of distances, each with the number of patched instructions (lib/feature-fixups.c).
_PPC_FLUSHES = {
    "lwsync": 1,
    "stf_entry_barrier": 3,
    "stf_exit_barrier": 6,
    "uaccess_flush": 4,
    "entry_flush": 3,
    "scv_entry_flush": 3,
    "rfi_flush": 3,
    "barrier_nospec": 1,
}


# Instructions that depend on the processor: rows and patched bytes (arch/sparc/include/asm/trap_block.h, tsb.h, 6.1).
_SPARC_PATCHES = {
    **dict.fromkeys(("sun4v_1insn", "fast_win_ctrl_1insn", "sun_m7_1insn", "tsb_phys"), ("I4x", _always(4))),
    **dict.fromkeys(("sun4v_2insn", "sun_m7_2insn"), ("I8x", _always(8))),
    **dict.fromkeys(("popc_3insn", "pause_3insn"), ("I12x", _always(12))),
    **dict.fromkeys(("swapper_tsb_phys", "swapper_4m_tsb_phys"), ("I", _always(16))),
    **{"tsb_ldquad_phys": ("I8x", _always(4)), "get_tick": ("I104x", _always(52))},
    **{"cpuid": ("I64x", _always(16)), "popc_6insn": ("I24x", _always(24)), "pud_huge": ("I4x", _always(4))},
}


def _is_trampoline_of_static_call_or_tracer(name: str) -> bool:
    """Return True for the trampolines of static calls (include/linux/static_call.h) and for calls of the tracer."""
    return name.startswith("__SCT__") or name in _FTRACE_CALLS


MACHINES: Mapping[str, PatchTables] = {
    "EM_X86_64": PatchTables(
        tables=(
            _X86_ALTERNATIVES,
            PatchTableFormat(*_PARAVIRT, "QBB6x", _paravirt_size, holds_addresses=True),
            _X86_LOCKS,
            PatchTableFormat("__retpoline_sites", "__retpoline_sites_end", ".retpoline_sites", "i", _branch_size),
            PatchTableFormat("__return_sites", "__return_sites_end", ".return_sites", "i", _always(5)),
            PatchTableFormat("__ibt_endbr_seal", "__ibt_endbr_seal_end", ".ibt_endbr_seal", "i", _always(4)),
            PatchTableFormat(*_between("static_call_sites"), ".static_call_sites", "ii", _branch_size),
            PatchTableFormat(*_JUMPS, "iiq", _jump_size),
            PatchTableFormat(*_between("mcount_loc"), "__mcount_loc", "Q", _always(5), holds_addresses=True),
        ),
        # Constants that are known only after boot (arch/x86/include/asm/runtime-const.h, since 6.11).
        table_families=(
            PatchTableFormat(*_between("runtime_ptr_"), "", "i", _always(8)),
            PatchTableFormat(*_between("runtime_shift_"), "", "i", _always(1)),
            PatchTableFormat(*_between("runtime_mask_"), "", "i", _always(4)),  # since 7.2
        ),
        is_patched_whole=_is_trampoline_of_static_call_or_tracer,
    ),
    # Without objtool there are no tables of retpolines, returns and calls of static calls.
    "EM_386": PatchTables(
        tables=(
            _X86_ALTERNATIVES,
            PatchTableFormat(*_PARAVIRT, "IBB2x", _paravirt_size, holds_addresses=True),
            _X86_LOCKS,
            PatchTableFormat(*_JUMPS, "iii", _jump_size),
            PatchTableFormat(*_between("mcount_loc"), "__mcount_loc", "I", _always(5), holds_addresses=True),
        ),
        is_patched_whole=_is_trampoline_of_static_call_or_tracer,
    ),
    "EM_AARCH64": PatchTables(
        tables=(
            PatchTableFormat(*_ALTERNATIVES, "iiHBB", _alternative_size),
            PatchTableFormat(*_JUMPS, "iiq", _always(4)),
            # The two nops of -fpatchable-function-entry=2, or the last two of =4,2.
            PatchTableFormat(
                *_between("mcount_loc"),
                "__patchable_function_entries",
                "Q",
                _always(8),
                holds_addresses=True,
                skip=_arm64_ftrace_skip,
            ),
        ),
        # arch/arm64/include/asm/runtime-const.h, since 6.11: four moves, a shift, a bit field
        table_families=(
            PatchTableFormat(*_between("runtime_ptr_"), "", "i", _always(16)),
            PatchTableFormat(*_between("runtime_shift_"), "", "i", _always(4)),
            PatchTableFormat(*_between("runtime_mask_"), "", "i", _always(4)),  # since 7.2
        ),
        is_patched_whole=_FTRACE_CALLS.__contains__,
        loader_filled_sections={
            ".plt": LoaderFilledSection(_ARM64_CALLS, _ARM64_PAGES),
            ".text.ftrace_trampoline": LoaderFilledSection(jump_targets=("ftrace_caller", "ftrace_regs_caller")),
        },
    ),
    "EM_ARM": PatchTables(
        tables=(
            PatchTableFormat(ARM_PHYSICAL, "__pv_table_end", ".pv_table", "i", _always(4)),
            PatchTableFormat(ARM_PROCESSORS, "__smpalt_end", ".alt.smp.init", "iI", _always(4)),
            PatchTableFormat(*_JUMPS, "III", _always(4), holds_addresses=True),
            PatchTableFormat(*_between("mcount_loc"), "__mcount_loc", "I", _always(4), holds_addresses=True),
        ),
        is_patched_whole=_ARM_PATCHED.__contains__,
        loader_filled_sections={".plt": _ARM_PLT, ".init.plt": _ARM_PLT},
    ),
    "EM_S390": PatchTables(
        tables=(
            PatchTableFormat(*_ALTERNATIVES, "iiHB", _alternative_size),
            PatchTableFormat(*_JUMPS, "iiq", _always(6)),
            PatchTableFormat(*_between("mcount_loc"), "__mcount_loc", "Q", _always(6), holds_addresses=True),
        ),
        is_patched_whole=_S390_PATCHED.__contains__,
    ),
    "EM_RISCV": PatchTables(
        tables=(
            # struct alt_entry, arch/riscv/include/asm/alternative.h, 6.12
            PatchTableFormat(RISCV_ALTERNATIVES, "__alt_end", ".alternative", "iiHHI", _alternative_size),
            PatchTableFormat(*_JUMPS, "iiq", _always(4)),
            # MCOUNT_INSN_SIZE, arch/riscv/include/asm/ftrace.h, 6.12
            PatchTableFormat(
                *_between("mcount_loc"), "__patchable_function_entries", "Q", _always(8), holds_addresses=True
            ),
        ),
        is_patched_whole=_FTRACE_CALLS.__contains__,
    ),
    "EM_LOONGARCH": PatchTables(
        tables=(
            PatchTableFormat(*_ALTERNATIVES, "iiHBB", _alternative_size),
            PatchTableFormat(*_JUMPS, "iiq", _always(4)),
            # Two nops, of which the kernel replaces the first at boot (ftrace_init_nop(), ftrace_dyn.c, 6.12).
            PatchTableFormat(
                *_between("mcount_loc"), "__patchable_function_entries", "Q", _always(8), holds_addresses=True
            ),
        ),
        is_patched_whole=_FTRACE_CALLS.__contains__,
        # R_LARCH_B26
        loader_filled_sections={".plt": LoaderFilledSection(frozenset({66}), form=JumpForm.LOONGARCH)},
    ),
    "EM_PPC64": PatchTables(
        tables=(
            *(
                PatchTableFormat(
                    begin,
                    begin.replace("start", "stop"),
                    begin.removeprefix("__start_"),
                    "16xqqqq",
                    _section_size,
                    place_at=16,
                    end_at=24,
                )
                for begin in PPC_FEATURES
            ),
            *(
                PatchTableFormat(*_between(f"__{name}_fixup"), f"__{name}_fixup", "q", _always(4 * count))
                for name, count in _PPC_FLUSHES.items()
            ),
            PatchTableFormat(*_JUMPS, "iiq", _always(4)),
            PatchTableFormat(*_between("mcount_loc"), "__mcount_loc", "Q", _always(4), holds_addresses=True),
        ),
        is_patched_whole=_PPC_PATCHED.__contains__,
        # The copies of optimized probes: the linker's symbol of them has no size (optprobes_head.S).
        written_ranges=(("optinsn_slot", "optprobe_template_entry"),),
        loader_filled_sections={".stubs": _PPC_STUBS},
    ),
    "EM_MIPS": PatchTables(
        tables=(
            PatchTableFormat(*_JUMPS, "WWW", _always(4), holds_addresses=True),
            PatchTableFormat(*_between("mcount_loc"), "__mcount_loc", "W", _always(4), holds_addresses=True),
        ),
        is_patched_whole=_MIPS_PATCHED.__contains__,
    ),
    "EM_PARISC": PatchTables(
        tables=(
            PatchTableFormat(*_ALTERNATIVES, "ihHI", _parisc_alternative_size),
            PatchTableFormat(*_JUMPS, "iii", _always(4)),
        ),
        # R_PARISC_PCREL32, arch/parisc/kernel/module.c.
        relocation_distance_bias=8,
        is_patched_whole=_WRITTEN_AT_BOOT.__contains__,
    ),
    # No static branches and no alternatives (arch/sh/Kconfig, 6.1), and our kernels have no ftrace.
    "EM_SH": PatchTables(tables=()),
    "EM_SPARCV9": PatchTables(
        tables=(
            PatchTableFormat(*_JUMPS, "III", _always(4), holds_addresses=True),
            *(
                PatchTableFormat(f"__{n}_patch", f"__{n}_patch_end", f".{n}_patch", row, size, holds_addresses=True)
                for n, (row, size) in _SPARC_PATCHES.items()
            ),
        ),
        is_patched_whole="kvmap_linear_patch".__eq__,  # by paging_init(), arch/sparc/mm/init_64.c, 6.1
        # swapper_tsb and swapper_4m_tsb: what the handlers of TLB misses have found (arch/sparc/kernel/head_64.S).
        written_ranges=(("swapper_tsb", "sparc64_ttable_tl0"),),
    ),
}


def _with_table(machine: str, table: PatchTableFormat) -> PatchTables:
    """Return the tables of a machine, with one of another format instead of that at the same symbol."""
    tables = (table if each.begin_symbol == table.begin_symbol else each for each in MACHINES[machine].tables)
    return MACHINES[machine]._replace(tables=tuple(tables))


_BY_WORD_BYTES = {
    # The nop in the delay slot is written, too (ftrace_modify_code_2(), arch/mips/kernel/ftrace.c, 6.1).
    ("EM_MIPS", 4): _with_table(
        "EM_MIPS", PatchTableFormat(*_between("mcount_loc"), "__mcount_loc", "W", _always(8), holds_addresses=True)
    ),
    # A row ends with a distance of 64 bits (ASM_ULONG_INSN, arch/parisc/include/asm/jump_label.h, 6.1).
    ("EM_PARISC", 8): _with_table("EM_PARISC", PatchTableFormat(*_JUMPS, "iiq", _always(4))),
}


def patch_tables_of(machine: str, word_bytes: int) -> PatchTables:
    """Return the tables of an ELF machine with words of this size. Raises KeyError for an unknown machine."""
    return _BY_WORD_BYTES.get((machine, word_bytes)) or MACHINES[machine]


def jump_label_address_bytes(machine: str, word_bytes: int) -> int:
    """Return the size of an address in the table of jump labels: 4 in SPARC's 64-bit kernel, else a word.

    It is also a word for a machine without such a table.
    """
    tables = patch_tables_of(machine, word_bytes).tables
    row = next((table.row_format for table in tables if table.begin_symbol == JUMPS), "")
    return 4 if row.startswith("I") else word_bytes
