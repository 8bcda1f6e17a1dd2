"""The types of the table of architectures (architecture_table.py): what differs, and in which units."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Literal, NamedTuple

from harness.core import paths
from harness.core.qemu_registers import RegisterParser
from harness.core.single_step_defect_types import Defect


class DecoderKind(Enum):
    """The decoder that finds the instruction boundaries of an architecture."""

    X86_64 = "x86_64"
    X86_32 = "x86_32"
    AARCH64 = "aarch64"
    ARM = "arm"
    RISCV = "riscv"
    MIPS_LITTLE = "mips-little"
    MIPS_BIG = "mips-big"
    PARISC = "parisc"
    S390 = "s390"
    PPC64 = "ppc64"
    LOONGARCH = "loongarch"
    PPC64_BIG = "ppc64-big"
    SPARC = "sparc"
    SUPERH = "superh"


class PatchPattern(NamedTuple):
    """What the kernel writes into code for a probe.

    `value` are the first bytes in memory, `size` is how many bytes of code are replaced, and `mask` has the bits of the
    first bytes that count, where not all of them do. The first `unchanged` bytes were there before the probe.
    """

    value: bytes
    size: int
    mask: bytes = b""
    unchanged: int = 0

    def matches(self, code: bytes) -> bool:
        """Return True if some bytes of code begin with the patch."""
        if not self.mask:
            return code.startswith(self.value)
        first = code[: len(self.mask)]
        return bytes(byte & bits for byte, bits in zip(first, self.mask, strict=False)) == self.value


class AddressTranslation(Enum):
    """The way to translate a kernel virtual address when memory is read through QEMU."""

    QEMU = "qemu"
    """QEMU walks the guest's own page tables (gva2gpa)."""
    PARISC_TABLES = "parisc-tables"
    """The TLB is software-managed: Pinpoint walks swapper_pg_dir (arch/parisc/include/asm/pgtable.h, 6.1)."""
    MIPS32_TABLES = "mips32-tables"
    """The same for 32-bit big-endian MIPS (arch/mips/include/asm/pgtable-32.h, 6.1)."""
    MIPS64_TABLES = "mips64-tables"
    """The same for 64-bit little-endian MIPS (arch/mips/include/asm/pgtable-64.h, 6.1)."""
    PARISC64_TABLES = "parisc64-tables"
    """The same with the three levels of a 64-bit kernel."""
    SPARC64_TABLES = "sparc64-tables"
    """The same, with other tables (KERN_PGTABLE_WALK(), arch/sparc/include/asm/tsb.h, 6.1)."""
    SUPERH_TABLES = "superh-tables"
    """The same for SuperH (arch/sh/include/asm/pgtable-2level.h, 6.1)."""


class FtraceCallInstruction(Enum):
    """The instruction that ftrace writes at a function's site to call the tracer."""

    X86_CALL = "x86-call"
    """`call rel32` at the site (ftrace_call_replace(), arch/x86/kernel/ftrace.c, 6.1)."""
    ARM64_BL = "arm64-bl"
    """`bl` in one of the site's two words (ftrace_make_call(), arch/arm64/kernel/ftrace.c, 6.1)."""
    ARM_BL = "arm-bl"
    """`bl` at the site (ftrace_call_replace(), arch/arm/kernel/ftrace.c, 6.1)."""
    S390_TRAMPOLINE = "s390-trampoline"
    """`brcl 15` to a trampoline of the site, which has the tracer's address (ftrace_make_call(),
    arch/s390/kernel/ftrace.c, 6.1)."""
    RISCV_AUIPC_JALR = "riscv-auipc-jalr"
    """`auipc t0; jalr t0` at the site (make_call_t0(), arch/riscv/include/asm/ftrace.h, 6.12)."""
    MIPS_JAL = "mips-jal"
    """`jal` in the kernel, or in a module the first of two instructions that load the tracer's address
    (ftrace_make_call(), arch/mips/kernel/ftrace.c, 6.1)."""
    MIPS32_JAL = "mips32-jal"
    """The same on big-endian 32-bit MIPS."""
    LOONGARCH_BL = "loongarch-bl"
    """`bl` in the second word of the site (ftrace_make_call(), arch/loongarch/kernel/ftrace_dyn.c, 6.12)."""
    PPC_BL = "ppc-bl"
    """`bl` at the site, to ftrace's entry code or to a stub that jumps there (__ftrace_make_call(),
    arch/powerpc/kernel/trace/ftrace.c, 6.1)."""


@dataclass(frozen=True)
class QemuMachine:
    """The QEMU machine that boots a kernel of this architecture.

    `nic_modules` are the modules, by file name without suffix, that a kernel without a built-in driver needs, in
    loading order; a module that the kernel has built in is passed over. `pvh` is true where an unpacked kernel can be
    started by its PVH entry. `disk` is the device of a read-only disk and `disk_modules` are the modules that a kernel
    needs to mount a squashfs from it below an overlay; empty where Debian has no packages that such a disk could hold.
    `machine_name_since_version` is the QEMU version from which on the machine has another name, and that name.
    `nic_has_rom` is true if the network card can have a boot ROM. `cannot_save_because` is why QEMU cannot write this
    machine's state to a file, empty where it can: then each guest is booted. `one_cpu_because` is why this machine has
    no second CPU, empty where it can have one. `console_port` is the number of the
    machine's serial port that the kernel's console is on, and `console_bytes_at_once` what that port takes before the
    guest must read, where QEMU drops what is more; 0 where it waits. `cpu_error_state` is a part of what QEMU prints
    before it aborts because the guest's CPU is in its error state, empty where such a CPU is reset.
    """

    qemu: str
    machine: str
    cpu: str
    console: str
    nic: str
    nic_modules: tuple[str, ...]
    pvh: bool = False
    kernel_arguments: tuple[str, ...] = ()
    disk: str = ""
    disk_modules: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    machine_name_since_version: tuple[tuple[int, int], str] | None = None
    nic_has_rom: bool = True
    cannot_save_because: str = ""
    one_cpu_because: str = ""
    console_port: int = 0
    console_bytes_at_once: int = 0
    cpu_error_state: str = ""

    def serial_ports(self, console: str) -> tuple[str, ...]:
        """Return QEMU's options for the serial ports up to that of the console, the only one that is connected."""
        return (*("-serial", "null") * self.console_port, "-serial", console)

    def for_qemu(self, program: str, version: tuple[int, int]) -> QemuMachine:
        """Return this machine with the path of a QEMU and the machine name that its version uses."""
        renamed = self.machine_name_since_version and version >= self.machine_name_since_version[0]
        return replace(
            self,
            qemu=program,
            machine=self.machine_name_since_version[1] if self.machine_name_since_version and renamed else self.machine,
        )


@dataclass(frozen=True)
class KprobeTraits:
    """What a kprobe looks like on this architecture (arch/*/kernel/kprobes.c, arch/x86/kernel/kprobes/core.c in 6.1).

    `breakpoints` are the patches at a probed address, one for each size of an instruction where the size decides;
    `patches` are all that the kernel may write there; `trap_offset` what the instruction pointer in a pre-handler
    stands past that address, and `trap_offset_by_flag` the same where the kernel lists a probe with a flag;
    `mid_instruction_errno` the errno for an offset inside an instruction, 0 where the kernel takes it, and
    `takes_misaligned` then the cause; `instruction_alignment` the bytes every
    instruction starts at a multiple of; `entry_landing_pad` the instruction that, standing at a function's entry, moves
    a probe on `symbol+0` past itself (x86 ENDBR64, arch_adjust_kprobe_addr); `first_argument_pt_regs_offset` and
    `second_argument_pt_regs_offset` are where struct pt_regs has those of a function, in bytes
    (arch/*/include/asm/ptrace.h); `register_parser` reads what QEMU's monitor answers to `info registers`;
    `ftrace_call_instruction` is how ftrace calls from a function's site; `patch_by_flag` is the patch where the kernel
    lists a probe with a flag; `reserved_text_areas` are the areas that the architecture refuses, besides those of every
    architecture, and `areas_missing_in_blacklist` those of them that the kernel's blacklist file does not have;
    `refused_symbol_ranges` are pairs of symbols between which it refuses probes, which that file does not have either;
    `trap_handlers_functions` are functions that the handler of a breakpoint calls, or the return from it, and that are
    not on the kernel's blacklist, each with the cause;
    `probes_local_entry` is true if a probe on `symbol+0`, by name only, is put on ftrace's site near the entry, or else
    on the function's local entry (ELFv2); `return_probe_entry_bytes` is the largest offset at which a return probe is
    taken for one on the entry, besides the landing pad; `defects` are the kinds of instruction that the kernel steps
    wrong (landing/code/instruction.py), `conditional-not-taken`, `return-into-next-function`, `nested`, a nested probe,
    `nested-twice`, one in a nested one, `task-freed`, one that is stepped while a softirq frees a task,
    and `trap-entry`, a probe on code that every trap runs through, which the kernel should refuse; `uprobe_breakpoint`
    is what a uprobe writes (UPROBE_SWBP_INSN), empty where the kernel has no uprobes; `uprobe_mid_instruction_errno` is
    the errno for a uprobe at an odd place inside an instruction, 0 where it is taken; `steps_traced_processes` is false
    where PTRACE_SINGLESTEP steps nothing; `most_kprobes_in_kernel_text` is how many kprobes the kernel has room for at
    once, not counting those on ftrace's sites, 0 where only memory limits them.
    """

    breakpoints: tuple[PatchPattern, ...]
    patches: tuple[PatchPattern, ...]
    trap_offset: int
    mid_instruction_errno: int
    instruction_alignment: int
    decoder: DecoderKind
    address_translation: AddressTranslation
    first_argument_pt_regs_offset: int
    second_argument_pt_regs_offset: int
    register_parser: RegisterParser
    uprobe_breakpoint: bytes = b""
    uprobe_condition_bits: bytes = b""
    uprobe_mid_instruction_errno: int = 0
    steps_traced_processes: bool = True
    most_kprobes_in_kernel_text: int = 0
    entry_landing_pad: bytes = b""
    takes_misaligned: str = ""
    trap_handlers_functions: Mapping[str, str] = field(default_factory=dict, hash=False)
    probes_local_entry: bool = False
    return_probe_entry_bytes: int = 0
    ftrace_call_instruction: FtraceCallInstruction | None = None
    patch_by_flag: Mapping[str, PatchPattern] = field(default_factory=dict, hash=False)
    trap_offset_by_flag: Mapping[str, int] = field(default_factory=dict, hash=False)
    reserved_text_areas: tuple[str, ...] = ()
    areas_missing_in_blacklist: tuple[str, ...] = ()
    refused_symbol_ranges: tuple[tuple[str, str], ...] = ()
    refuses_exception_table: bool = False
    defects: Mapping[str, Defect] = field(default_factory=dict, hash=False)

    @property
    def nested_hit_is_fatal(self) -> bool:
        """Whether a probe that is hit in the handler of another is a defect: many probes at once hang the guest."""
        return not {"nested", "nested-twice"}.isdisjoint(self.defects)

    def defect_of_kind(self, kind: str) -> Defect | None:
        """The defect that an instruction of a kind has, always or if a nop is in its delay slot."""
        return self.defects.get(kind) or self.defects.get(f"{kind}-before-nop")

    def uprobe_breakpoint_over(self, own: bytes) -> bytes:
        """Return what a uprobe writes over some bytes.

        The bits of `uprobe_condition_bits` are those of the probed instruction, unless these are not less than the
        breakpoint's own (arch_uprobe_analyze_insn(), arch/arm/probes/uprobes/core.c, 6.1).
        """
        places = list(zip(self.uprobe_breakpoint, own, self.uprobe_condition_bits, strict=False))
        if not places or bytes(byte & bits for _, byte, bits in places) >= bytes(
            code & bits for code, _, bits in places
        ):
            return self.uprobe_breakpoint
        return bytes(code & ~bits | byte & bits for code, byte, bits in places)


@dataclass(frozen=True)
class CompatPrograms:
    """The 32-bit programs that a 64-bit kernel runs.

    `cross_prefix` is what the names of their compiler and binutils begin with; `library_directory` is the host's
    directory with their C library, whose dynamic linker is `dynamic_linker`; `decoder` finds instruction boundaries,
    where one is needed; `uprobe_errno` is the errno of a registration when such a program has the code mapped, 0 where
    it succeeds; `compiler_flags` select code on which a uprobe can be asked for at all.
    """

    elf_machine: str
    cross_prefix: str
    library_directory: str
    dynamic_linker: str
    decoder: DecoderKind | None = None
    uprobe_errno: int = 0
    compiler_flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    `debian` is dpkg's name, None if Debian has no such port; `userland_suite` is the Debian release from which the
    userland comes, empty for the host's, and `userland_from_source` is true if Debian's userland cannot be used;
    `userland_architecture` is the entry whose programs its guests run, empty for its own; `suite_compiler_flags` make a
    newer suite's compiler write what the host's assembler can read;
    `cross_tools_suite` is the Debian release that has a compiler for it, empty where the host's release has one, and
    `cross_tools_compiler` that compiler (images/debian_suite_cross_tools.py); `elf_machine` is the machine in the
    header of an ELF file; `flat_image_base_address` is the link address of a flat kernel image if its own code does not
    show that address; `byte_order` is that of its kernels.
    `module_flags` are flags with which its kernels' headers compile without a warning.
    `program_flags` select code in which a uprobe can be asked for at all, `static_program_flags` a program without
    dynamic linker, at an address that is chosen at run time where the C library can. `compat_programs` describes the
    32-bit programs that its kernels may run, None for an architecture that has none. `errnos` maps the error numbers of
    its kernels to the host's, for the errors of a refused probe that have different numbers. `bug_prints_place` is true
    if BUG() prints its file and line without a table of BUGs (CONFIG_GENERIC_BUG). `llvm_suffix` is no entry of the
    table: a recipe that names a clang sets it, to the end of the names of LLVM's programs (`-19`).
    """

    name: str
    elf_machine: str
    debian: str | None
    kernel_arch: str
    gnu_triplet: str
    kernel_target: str
    kernel_file: str
    word_bytes: int
    qemu_machine: QemuMachine
    kprobe_traits: KprobeTraits
    userland_suite: str = ""
    userland_from_source: bool = False
    userland_architecture: str = ""
    suite_compiler_flags: tuple[str, ...] = ()
    cross_tools_suite: str = ""
    cross_tools_compiler: str = ""
    flat_image_base_address: int = 0
    byte_order: Literal["little", "big"] = "little"
    module_flags: tuple[str, ...] = ()
    program_flags: tuple[str, ...] = ()
    static_program_flags: tuple[str, ...] = ("-fPIE", "-static-pie")
    compat_programs: CompatPrograms | None = None
    errnos: Mapping[int, int] = field(default_factory=dict, hash=False)
    bug_prints_place: bool = False
    llvm_suffix: str = ""

    @property
    def arch_source_directory(self) -> str:
        """The directory of this architecture below `arch/` in a kernel source."""
        return self.kernel_file.split("/")[1] if self.kernel_file.startswith("arch/") else self.kernel_arch

    @property
    def native(self) -> bool:
        """True when the host has this architecture."""
        return platform.machine() == _UNAME.get(self.name, self.name)

    @property
    def cross_prefix(self) -> str:
        """The prefix of the names of gcc and the binutils; empty on a host of this architecture.

        If the programs are those of another Debian suite, it begins with the path of their directory in the store.
        """
        if self.native:
            return ""
        return f"{self.cross_tools.resolve()}/{self.gnu_triplet}-" if self.cross_tools_suite else f"{self.gnu_triplet}-"

    @property
    def cross_tools(self) -> Path:
        """The link in the cache to the directory with the cross compiler of another Debian suite."""
        return paths.cache() / "cross-tools" / self.name

    @property
    def has_static_userland(self) -> bool:
        """True if the programs of the userland are built here, each as one static file."""
        return self.debian is None or self.userland_from_source

    def host_errno(self, number: int) -> int:
        """Return the host's number of an error that a kernel of this architecture returned."""
        return self.errnos.get(number, number)


_UNAME = {"arm64": "aarch64", "armhf": "armv7l", "mips64el": "mips64"}
