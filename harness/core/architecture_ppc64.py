"""The entry of 64-bit big-endian PowerPC with function descriptors (ELFv1); a part of the table of architectures."""

from __future__ import annotations

from dataclasses import replace

from harness.core.architecture import DecoderKind
from harness.core.architecture_ppc64le import PPC64LE
from harness.core.kprobe_patch_patterns import PPC_BRANCH_BIG, PPC_TRAP_BIG

# Debian's releases have no port of it. A function's symbol is `.f`, its descriptor's is `f`, and kprobe_lookup_name()
# (arch/powerpc/kernel/kprobes.c:66, 6.1) accepts both. A function has one entry, and ftrace has no call with registers
# there (MPROFILE_KERNEL, arch/powerpc/Kconfig:525).
PPC64 = replace(
    PPC64LE,
    name="ppc64",
    debian=None,
    byte_order="big",
    gnu_triplet="powerpc64-linux-gnu",
    qemu_machine=replace(PPC64LE.qemu_machine, nic_modules=(), disk="", disk_modules=()),
    kprobe_traits=replace(
        PPC64LE.kprobe_traits,
        breakpoints=(PPC_TRAP_BIG,),
        patches=(PPC_TRAP_BIG, PPC_BRANCH_BIG),
        decoder=DecoderKind.PPC64_BIG,
        patch_by_flag={"[OPTIMIZED]": PPC_BRANCH_BIG},
        ftrace_call_instruction=None,
        probes_local_entry=False,
        return_probe_entry_bytes=0,
        uprobe_breakpoint=bytes.fromhex("7fe00008"),
    ),
    # With this option the code of a program's functions has symbols, too, as in the kernel (arch/powerpc/Makefile).
    program_flags=("-mcall-aixdesc",),
)

POWERPC = (PPC64LE, PPC64)
