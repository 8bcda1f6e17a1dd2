"""Readers of untrusted input survive mutations of good input and noise. `--fuzz N` feeds N inputs to each."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzzing import Fuzz, mutations
from hypothesis import strategies as st

from harness.core import line_table, paths
from harness.core.elf import Elf
from harness.core.errors import PinpointError
from harness.guest import booted_kernel_check
from harness.guest.terminal import Filter
from harness.images import vm_recipe
from harness.landing import probe_module
from harness.landing.code import kprobe_sites_in_module_file
from harness.landing.code.patch_sites import patch_sites
from harness.landing.code.system_map import SystemMap
from harness.landing.lookup import data_module
from harness.landing.target import Target
from harness.landing.verify import registrations, traced_functions
from harness.landing.verify.listed_probes_and_modules import GuestLists
from harness.matrix.commands import bundle_trust, replay_options
from harness.matrix.guests.guest_state import GuestState
from harness.matrix.verify import systemtap_run
from harness.pinning.loader import LoaderLine
from harness.report import bundle, cell_duration_cache, jsonl
from harness.report.bundle import BundleDescription
from harness.report.record import Cell
from harness.userspace.ways import UprobesByModule, UprobesByTracefs
from harness.verdict.complaints import confirmed_by_dmesg, read_complaints
from harness.verdict.printk import read_records, without_control_codes
from harness.verdict.traces import frames

LISTINGS: dict[str, tuple[str, Callable[[str], object]]] = {
    "kprobes": (
        "ffffffff81000000  k  leaf+0x4  pinpoint_target [DISABLED][FTRACE]\nffffffff81000010  r  f+0x0\n",
        probe_module.parse_kprobe_list,
    ),
    "report": (
        "spec=leaf+0x4 errno=0 address=ffffffff81000000 hits=3 ip=ffffffff81000001 missed=0 returns=1 value=7\n",
        probe_module.parse_report,
    ),
    "sections": (
        "/sys/module/x/sections/.text:0xffffffffc0000000\n/sys/module/x/sections/.data:0xffffffffc0001000\n",
        lambda text: Target.__new__(Target)._parsed(text) if _named() else None,
    ),
    "data": ("address=c0000000 bytes=0011aabb errno=0 symbol=banner+0x0/0x10 [x]\n", data_module.parse_results),
    "traced functions": (
        "vfs_read (1) R I     \ttramp: 0xffffffffc0200000 (kprobe_ftrace_handler+0x0/0x10) ->f+0x0/0x9\n"
        "leaf [x] (2)   D  \n\tdirect-->bpf_trampoline_1+0x0/0x9\n",
        traced_functions.parse_enabled_functions,
    ),
    "registrations": (
        "time=1 errno=0 address=ffffffff81000000 symbol=leaf offset=4 handler=0 kprobe=0 command=a\\040b disabled=0\n"
        "time=1 errno=0 device=8:1 inode=7 offset=1f file=/tmp/x command=sh\nlost=0 now=2\n",
        registrations.parse_registrations,
    ),
    "modules": ("x 61440 1 y, Live 0xffffffffc0000000\n", systemtap_run._use_counts),
    "names of modules": (
        "x 61440 1 y, Live 0xffffffffc0000000\n",
        lambda text: GuestLists((), (), registrations.Records(), text).module_names,
    ),
    "strace": (
        '7 openat(AT_FDCWD, "/sys/module/x/sections/.text", O_RDONLY) = 3</sys/module/x/sections/.text>\n'
        "7 init_module(0x1, 2, 3) = 0\n7 close(3</sys/module/x/sections/.text>) = 0\n",
        systemtap_run.parse_held_files_from_strace,
    ),
    "uprobe module": (
        "site=0 errno=0 offset=0x4\nhit=0 pid=7 ip=1000 hits=2 returns=1 func=1000 lost=0\n",
        UprobesByModule(None)._parsed,  # type: ignore[arg-type]
    ),
    "uprobe trace": ("  x-7 [000] d... 1.5: s0: (0x401000)\n", UprobesByTracefs(None)._parsed),  # type: ignore[arg-type]
    "loader": ("did load target pid=7 errno=0\n", LoaderLine.parse),
}
STATE = """\
/proc/modules:virtio_net 61440 0 - Live 0xffffffffc0000000
/sys/kernel/debug/kprobes/list:00010000  k  __kretprobe_trampoline+0x0
/proc/mounts:tmpfs /tmp tmpfs rw,relatime 0 0
/proc/sys/kernel/tainted:4096
/proc/meminfo:Slab:             15472 kB
/proc/80/cmdline:dropbear\0-E
"""
MAP = "".join(f"{0xFFFFFFFF81000000 + 16 * number:x} T function_{number}\n" for number in range(120))
SOURCE = """\
struct probe { void *list[5]; void *address; const char *name; unsigned int offset; };
struct probe one = { .name = "hex2bin", .offset = 4 };
int leaf(int x) { return x * 7; }
int other(int x) { return leaf(x) + leaf(x + 1); }
"""


def _named() -> bool:
    Target.module = "x"
    return True


def text_of(seed: str) -> st.SearchStrategy[str]:
    """Return mutations of a text and noise, decoded like a guest's output."""
    return st.one_of(mutations(seed.encode()).map(lambda content: content.decode(errors="replace")), st.text())


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Fuzz:
    return Fuzz(request.node)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    """Return a function that writes each content to a new file, because readers cache by file name."""
    number = itertools.count()

    def written(content: bytes) -> Path:
        path = tmp_path / f"file-{next(number) % 64}"
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        return path

    return written


@pytest.mark.parametrize("name", LISTINGS)
def test_listings_of_guests(fuzz: Fuzz, name: str) -> None:
    seed, reader = LISTINGS[name]
    reader(seed)
    fuzz(text_of(seed), reader)


def test_the_state_of_a_guest(fuzz: Fuzz) -> None:
    def reader(text: str) -> None:
        try:
            GuestState.parse_listing(text)
        except ValueError as error:
            raise PinpointError("its state cannot be read") from error

    GuestState.parse_listing(STATE)
    fuzz(text_of(STATE), reader)


def test_notes_of_a_kernel(fuzz: Fuzz) -> None:
    note = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0" + bytes(range(20))
    assert booted_kernel_check.build_id(note)
    fuzz(mutations(note), booted_kernel_check.build_id)


def test_system_maps(fuzz: Fuzz, write: Callable[[bytes], Path]) -> None:
    SystemMap.read(write(MAP.encode()))
    fuzz(
        mutations(MAP.encode()),
        lambda content: SystemMap.read(write(content)).describe_address(0xFFFFFFFF81000008),
    )


@pytest.mark.parametrize(
    "log", sorted((paths.TESTS / "console_logs").rglob("*.console"))[::9], ids=lambda path: path.name
)
def test_consoles(fuzz: Fuzz, log: Path) -> None:
    def reader(content: bytes) -> None:
        for timed in (True, None):
            found = read_complaints(content, timed=timed)
            frames([line for complaint in found for line in complaint.lines], {})
        confirmed_by_dmesg(found, content)
        for record in read_records(content):
            assert len(record.text) <= 2048
        terminal = Filter()
        shown = terminal.feed(content[: len(content) // 2]) + terminal.feed(content[len(content) // 2 :])
        shown.decode()
        assert not set(re.sub(r"[\n\t]", "", without_control_codes(content.decode(errors="replace")))) & set(
            "\x1b\x9b\x07\r\0"
        )

    fuzz(mutations(log.read_bytes()[: 1 << 14]), reader)


@pytest.fixture
def module(tmp_path: Path) -> bytes:
    """Return a relocatable file with debug information, a data probe and relocations."""
    if not shutil.which("gcc"):
        pytest.skip("no compiler is installed")
    (tmp_path / "x.c").write_text(SOURCE)
    subprocess.run(["gcc", "-c", "-g", "-O2", "-fno-inline", tmp_path / "x.c", "-o", tmp_path / "x.ko"], check=True)
    return (tmp_path / "x.ko").read_bytes()


def test_a_line_table_that_advances_by_nothing_is_damaged(module: bytes, write: Callable[[bytes], Path]) -> None:
    elf = Elf.read(write(module))
    lines = bytearray(elf.section_bytes(".debug_line", 0, elf.sections_by_name[".debug_line"].size))
    # DWARF 5, 6.2.4: line_range is the fifth byte after header_length, which is at 8; in version 4 it is at 6.
    version = int.from_bytes(lines[4:6], "little")
    lines[16 if version >= 5 else 14] = 0
    damaged = module.replace(elf.section_bytes(".debug_line", 0, len(lines)), bytes(lines))
    assert damaged != module
    with pytest.raises(PinpointError, match="its DWARF is damaged"):
        line_table.statement_rows(Elf.read(write(damaged)))


def test_modules(fuzz: Fuzz, module: bytes, write: Callable[[bytes], Path]) -> None:
    def reader(content: bytes) -> None:
        elf = Elf.read(write(content))
        for name, section in elf.sections_by_name.items():
            for part in (lambda: elf.section_bytes(name, 0, section.size), lambda: elf.relocations(name)):  # noqa: B023
                try:
                    part()
                except PinpointError:
                    continue
        for part in (kprobe_sites_in_module_file.find_kprobe_sites, patch_sites, line_table.statement_rows):
            try:
                part(elf)
            except PinpointError:
                continue
        assert len(elf.symbols) >= 0

    reader(module)
    headers = len(module) - 64 * int.from_bytes(module[60:62], "little")
    table = st.tuples(st.integers(0, 63), mutations(module[headers:])).map(
        lambda drawn: (module[:headers] + drawn[1])[: len(module)]
    )
    fuzz(st.one_of(mutations(module), table), reader)


def test_recipes(fuzz: Fuzz, tmp_path: Path) -> None:
    seeds = [path.read_bytes() for path in sorted(paths.RECIPES.glob("*.toml"))]
    place = tmp_path / "vm.toml"

    def reader(content: bytes) -> None:
        place.write_bytes(content)
        loaded = vm_recipe.load(place)
        assert not set("$;|&`()<>\"'\\\n") & set(loaded.kernel.cflags)

    fuzz(st.one_of(st.sampled_from(seeds).flatmap(mutations), st.binary(max_size=200)), reader)


def test_bundles(fuzz: Fuzz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_replay import FILE, ITEM, cell

    monkeypatch.setattr(bundle_trust, "collect_case_file_cells", lambda _: {})
    about = BundleDescription(cell=cell(), file=FILE, items=[ITEM], options=["--stress=7"], schedule="open read")
    place = bundle.write_bundle(tmp_path, about, {"console.log": b"x"})
    description = place / bundle.ABOUT

    def reader(content: bytes) -> None:
        description.write_bytes(content)
        found = bundle.read(place)
        replay_options.first_unrecorded_option(found.options)
        bundle_trust.demand_cells(found)

    seed = description.read_bytes()
    fuzz(st.one_of(mutations(seed), _json(json.loads(seed))), reader)


def _json(good: dict[str, object]) -> st.SearchStrategy[bytes]:
    """Return the description with values of other types in it."""
    other = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(), below, max_size=3),
        max_leaves=6,
    )
    changes = st.dictionaries(st.sampled_from(sorted(good)), other, min_size=1, max_size=3)
    return changes.map(lambda changed: json.dumps({**good, **changed}).encode())


def test_results_of_earlier_runs(fuzz: Fuzz, write: Callable[[bytes], Path]) -> None:
    from test_replay import cell

    line = cell().model_dump_json().encode() + b"\n"
    fuzz(mutations(line * 3), lambda content: jsonl.read(write(content), Cell))
    kept = json.dumps({"parisc": {"test_x": 1.5}}).encode()
    anything = st.one_of(mutations(kept), _json({"parisc": 1}))
    fuzz(anything, lambda content: cell_duration_cache.seconds_by_vm(write(content)))
