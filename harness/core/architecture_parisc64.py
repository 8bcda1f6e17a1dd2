"""The entry of 64-bit PA-RISC; a part of the table of architectures. All lines and functions are those of 6.1."""

from __future__ import annotations

from dataclasses import replace

from harness.core.architecture import AddressTranslation
from harness.core.architecture_defects import PARISC_DEFECTS
from harness.core.architecture_parisc import PARISC

# Vectors and TLB handlers of PA-RISC 2.0 (arch/parisc/kernel/entry.S), where 32-bit kernels run those of 1.1.
_TRAP_ENTRY = replace(
    PARISC_DEFECTS["trap-entry"],
    hangs_in=(
        "handle_interruption",
        "fault_vector_20",
        "intr_save",
        "intr_save2",
        "skip_save_ior",
        "dtlb_miss_20w",
        "dtlb_check_alias_20w",
    ),
)

PARISC64 = replace(
    PARISC,
    name="parisc64",
    # Debian has no 64-bit C library for PA-RISC. With CONFIG_COMPAT the kernel runs 32-bit programs.
    userland_architecture="parisc",
    kernel_arch="parisc",  # with CONFIG_64BIT (arch/parisc/Kconfig:235)
    gnu_triplet="hppa64-linux-gnu",
    word_bytes=8,
    qemu_machine=replace(
        PARISC.qemu_machine,
        machine="C3700",
        machine_name_since_version=None,
        # elroy's interrupts do not arrive unless slots 0 and 1 have a device (seen with QEMU 10 and 11).
        nic="tulip,addr=1",
        devices=("virtio-rng-pci,addr=0",),
        cannot_save_because="QEMU 11.1.3 ends with a segmentation fault while it saves a C3700, also without a kernel",
    ),
    kprobe_traits=replace(
        PARISC.kprobe_traits,
        address_translation=AddressTranslation.PARISC64_TABLES,
        first_argument_pt_regs_offset=26 * 8,  # gr[26] (arch/parisc/include/uapi/asm/ptrace.h)
        second_argument_pt_regs_offset=25 * 8,  # gr[25]
        defects=PARISC_DEFECTS | {"trap-entry": _TRAP_ENTRY},
    ),
)
