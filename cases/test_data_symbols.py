"""Variables are found by name, and their values, read inside and outside the guest, are right.

A module's variable is at its section's address in sysfs + the ELF file's offset. A variable of vmlinux is at its linked
address + the slide. kallsyms lists data if the kernel has KALLSYMS_ALL (is_core_symbol(), kernel/module/kallsyms.c,
6.1).
"""

from collections.abc import Callable

import pytest

from harness.guest.guest import Guest
from harness.landing.layout import Layout
from harness.landing.lookup.data_check import DataReader
from harness.landing.lookup.data_symbol_address import Datum, count_variables_shifted_between_kernels
from harness.landing.target import Target
from harness.report.metrics_with_goals import Figure

# The values that probes/target/data_with_known_values.c puts into its words.
WORDS = {"data": 0x50494E01, "bss": 0x50494E02, "rodata": 0x50494E03}
PER_CPU = 0x50494E04
CHOSEN = 0x50494E05

# struct new_utsname has six fields of 65 characters; the first is the system, the third the release
# (include/uapi/linux/utsname.h).
SYSTEM = b"Linux\0"
RELEASE = 2 * 65
# More than any task_struct has before its comm[].
TASK = 8192


@pytest.mark.mutants("data-by-text-base", "reads-next-word", deep=("next-data-symbol",))
@pytest.mark.parametrize("kind", WORDS)
def test_module_data(target: Target, data_reader: DataReader, kind: str) -> None:
    """A module's variables in `.data`, `.bss` and `.rodata` have their known values."""
    data_reader.prove_datum(
        Datum(f"pinpoint_{kind}_word", 4, module=target.module), data_reader.encode_number(WORDS[kind], 4)
    )


@pytest.mark.mutants("next-data-symbol", deep=("reads-next-word",))
def test_module_code_and_data(target: Target, data_reader: DataReader) -> None:
    """A module's code has the addresses of its variables, and what it writes is there in the guest's memory.

    The code is relocated when the module is loaded (apply_relocate_add(), arch/*/kernel/module.c, 6.1).
    """
    for kind, value in WORDS.items():
        datum = Datum(f"pinpoint_{kind}_word", 4, module=target.module)
        data_reader.prove_datum_of_code(datum, data_reader.encode_number(value, 4))


@pytest.mark.mutants("next-data-symbol", deep=("reads-next-word",))
def test_module_per_cpu_data(target: Target, data_reader: DataReader) -> None:
    """A module's per-CPU word has its known value.

    With SMP sysfs does not list the per-CPU section; the word is found by a pointer that the module loader relocated.
    """
    datum = Datum("pinpoint_percpu_word", 4, module=target.module, cpu=0)
    data_reader.prove_datum(datum, data_reader.encode_number(PER_CPU, 4))


@pytest.mark.deep
@pytest.mark.requires("data_symbols")
@pytest.mark.mutants("next-data-symbol", deep=("reads-next-word",))
def test_kernel_rodata(guest: Guest, data_reader: DataReader) -> None:
    """linux_banner in `.rodata` equals /proc/version."""
    version = guest.read_text("/proc/version").encode()
    data_reader.prove_datum(Datum("linux_banner", len(version)), version)


@pytest.mark.requires("data_symbols")
@pytest.mark.mutants("next-data-symbol", deep=("reads-next-word",))
def test_kernel_data(guest: Guest, layout: Layout, data_reader: DataReader) -> None:
    """init_uts_ns in `.data` holds the kernel release.

    The ELF file shows where the names begin: up to 5.10 after a reference count.
    """
    names = layout.kernel.bytes_at(layout.kernel.symbols_named("init_uts_ns")[0].address, 16).index(SYSTEM)
    release = guest.image.release.encode() + b"\0"
    data_reader.prove_datum(Datum("init_uts_ns", len(release), offset=names + RELEASE), release)


@pytest.mark.deep
@pytest.mark.requires("data_symbols")
@pytest.mark.mutants("next-data-symbol", deep=("reads-next-word",))
def test_kernel_bss(guest: Guest, data_reader: DataReader) -> None:
    """core_pipe_limit, static in `.bss`, has the value that was set by sysctl (fs/coredump.c)."""
    limit = "/proc/sys/kernel/core_pipe_limit"
    if not guest.run("test", "-f", limit).ok:
        pytest.skip(f"{guest.name} has no core dumps (CONFIG_COREDUMP), and no such variable")
    before = guest.read_text(limit).strip()
    guest.run_script(f"echo {CHOSEN} >{limit}").check()
    try:
        data_reader.prove_datum(Datum("core_pipe_limit", 4), data_reader.encode_number(CHOSEN, 4))
    finally:
        guest.run_script(f"echo {before} >{limit}").check()


@pytest.mark.deep
@pytest.mark.requires("data_symbols")
@pytest.mark.mutants("next-data-symbol", deep=("reads-next-word",))
def test_kernel_pointer(guest: Guest, data_reader: DataReader) -> None:
    """saved_command_line points to the text that /proc/cmdline shows."""
    line = guest.read_text("/proc/cmdline").removesuffix("\n").encode() + b"\0"
    data_reader.prove_datum(Datum("saved_command_line", data_reader.word_bytes), data_reader.make_pointer_test(line))


@pytest.mark.requires("data_symbols")
@pytest.mark.mutants("next-data-symbol", deep=("reads-next-word",))
def test_kernel_per_cpu_data(data_reader: DataReader) -> None:
    """The per-CPU variable ksoftirqd points to the task of that name (kernel/softirq.c)."""
    datum = Datum("ksoftirqd", data_reader.word_bytes, cpu=0)
    data_reader.prove_datum(datum, data_reader.make_pointer_test(b"ksoftirqd/0\0", within=TASK))


@pytest.mark.requires("data_symbols")
def test_kernel_data_by_hand(layout: Layout, figure: Callable[..., Figure]) -> None:
    """`_stext` + offset and `_sdata` + offset from the sibling kernel miss variables.

    The misses are counted in the two ELF files.
    """
    if layout.sibling_kernel is None:
        pytest.skip(f"{layout.guest.name} has no sibling with another order of functions")
    found = count_variables_shifted_between_kernels(layout.kernel, layout.sibling_kernel)
    figure("byhand.data_variables", found.common_variables, "variables")
    figure("byhand.data_missed_from_stext", found.shifted_from_text, "variables")
    figure("byhand.data_missed_from_sdata", found.shifted_from_data, "variables")
    assert found.common_variables > 1000
