"""Uprobe witnesses judge pages, reports are parsed, and the debug file of a stripped file is found."""

from __future__ import annotations

import errno
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from sample_runs import cell

from harness.core.elf import Elf
from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.landing.landing_judgment import Landing, MutantNotInForceError
from harness.landing.site import Site
from harness.matrix.cells.cell_phases_and_verdict import first_line_of_error, verdict_of_error
from harness.matrix.exit_status_and_counts import record_mutant_figures
from harness.report.metrics_with_goals import Figures
from harness.report.run_dir import RunDirectory
from harness.userspace import debug_files, mapped_pages, mutants, witness
from harness.userspace.mapped_pages import FileView, Mapping, Page
from harness.userspace.user_file import UserFile
from harness.userspace.ways import Hit, OffsetRegistrationResult, UprobesByModule, UprobesByTracefs, _errors
from harness.userspace.witness import BreakpointEncoding
from harness.verdict.cell_verdict_enum import Verdict

INT3 = BreakpointEncoding(b"\xcc", 1)
BRK = BreakpointEncoding(bytes.fromhex("a00020d4"), 4)
CONTENT = bytes(range(1, 129)) * 64
PLACE = 0x1040


def page(memory: bytes, *, private: bool = True) -> Page:
    return Page(7, 0x7F0000001000, 0x1000, 5, private, memory, memory)


def view(*changes: tuple[int, bytes], private: bool = True) -> FileView:
    memory = bytearray(CONTENT[0x1000:0x2000])
    for place, code in changes:
        memory[place - 0x1000 : place - 0x1000 + len(code)] = code
    return FileView(
        "1:2", [Mapping(7, 0x7F0000001000, 0x7F0000002000, 0x1000, "r-xp")], [page(bytes(memory), private=private)]
    )


def landing(
    seen: FileView,
    *,
    offset: int = PLACE,
    hits: int = 1,
    expected: tuple[int, ...] = (PLACE,),
    probed: dict[int, int] | None = None,
    consumers: int = 1,
) -> Landing:
    reported = [Hit(0, 7, 0x7F0000001000 + offset - 0x1000)] * hits
    statements = (
        witness.registered_statement(OffsetRegistrationResult(0, offset)),
        witness.Statement("elf", PLACE),
        witness.process_pointer_statement(None, seen),
        witness.hit_address_statement(reported, seen),
        witness.proc_memory_statement(seen, CONTENT, PLACE, INT3, expected),
        witness.qemu_memory_statement(seen, CONTENT, PLACE, INT3, expected),
        witness.tree_statement({offset: 1} if probed is None else probed, PLACE, expected, consumers),
    )
    return Landing(Site("f", module="lib.so"), statements, hits, hex)


LISTING = """\
file device=1:2 inode=9 page=4096
map pid=7 start=0x1000 end=0x2000 offset=0x0 perms=r-xp
page pid=7 address=1000 offset=0 pagemap=a000000000000003 bytes=90
map pid=7 start=0x2000 end=0x3000 offset=0x0 perms=rwxp
page pid=7 address=2000 offset=0 pagemap=8000000000000004 bytes=cc
"""


def file_view(listing: str, *, data_too: bool) -> FileView:
    answer = SimpleNamespace(check=lambda: SimpleNamespace(stdout=listing))
    guest = SimpleNamespace(
        name="vm",
        copy_program=lambda _: "pages",
        run_script=lambda *_, **__: answer,
        memory=SimpleNamespace(read_physical=lambda _, size: bytes(size)),
    )
    file = cast(UserFile, SimpleNamespace(guest_path="/lib/a"))
    return mapped_pages.read_file_view(cast(Guest, guest), file, [7], [0], data_too=data_too)


@pytest.mark.parametrize(("data_too", "addresses"), [(False, [0x1000]), (True, [0x1000, 0x2000])])
def test_a_writable_page_is_read_only_with_data(data_too: bool, addresses: list[int]) -> None:
    """On SPARC the dynamic linker writes the procedure linkage table, whose mapping is executable."""
    found = file_view(LISTING, data_too=data_too)
    assert [each.address for each in found.pages] == addresses
    assert [each.permissions for each in found.mappings] == ["r-xp", "rwxp"]


def test_a_present_page_that_cannot_be_read_is_an_error() -> None:
    """Without its bytes a witness would make no statement, and nothing would contradict."""
    listing = LISTING.replace("bytes=90", "bytes=")
    with pytest.raises(GuestError, match="vm: pid 7: /proc/PID/mem cannot be read at 0x1000"):
        file_view(listing, data_too=False)
    assert not file_view(listing.replace("r-xp", "---p"), data_too=False).pages[0].bytes_inside


def test_all_agree() -> None:
    assert landing(view((PLACE, b"\xcc"))).complaint == ""


def test_nothing_there() -> None:
    assert "every byte equals the file" in landing(view()).complaint


def test_elsewhere() -> None:
    assert "disagree" in landing(view((PLACE + 3, b"\xcc")), offset=PLACE + 3, expected=(PLACE + 3,)).complaint


def test_no_breakpoint() -> None:
    assert "no uprobe" in landing(view((PLACE, b"\x90"))).complaint


def test_one_more_breakpoint() -> None:
    assert "no probe explains" in landing(view((PLACE, b"\xcc"), (PLACE + 9, b"\xcc"))).complaint


def test_page_cache_changed() -> None:
    assert "page cache" in landing(view((PLACE, b"\xcc"), private=False)).complaint


def test_one_of_two_mappings_has_no_breakpoint() -> None:
    changed, plain = view((PLACE, b"\xcc")), view()
    both = FileView("1:2", changed.mappings, [*changed.pages, replace(plain.pages[0], address=0x7F0000009000)])
    assert "another one does not" in landing(both).complaint
    two = FileView("1:2", changed.mappings, [*changed.pages, replace(changed.pages[0], address=0x7F0000009000)])
    assert landing(two).complaint == ""


@pytest.mark.parametrize(
    ("probed", "complaint"),
    [
        ({PLACE: 1}, ""),
        ({}, "0 offsets"),
        ({PLACE: 2}, "2 consumers"),
        ({PLACE: 1, PLACE + 4: 1}, "no site"),
        ({PLACE + 4: 1}, "disagree"),
    ],
)
def test_tree(probed: dict[int, int], complaint: str) -> None:
    found = landing(view((PLACE, b"\xcc")), probed=probed).complaint
    assert complaint in found if complaint else not found


def test_tree_of_a_uprobe_on_each_cpu() -> None:
    changed = view((PLACE, b"\xcc"))
    assert not landing(changed, probed={PLACE: 2}, consumers=2).complaint
    assert "1 consumers are registered there, not 2" in landing(changed, probed={PLACE: 1}, consumers=2).complaint


def test_mutant_that_aims_at_the_site_itself_is_counted_as_not_in_force(tmp_path: Path) -> None:
    """The figure counts reasons by their first words, so the error's message must begin with them."""
    file = SimpleNamespace(offset_of_site=lambda _: PLACE, next_instruction_site=lambda site: site)
    with pytest.raises(MutantNotInForceError) as raised:
        mutants.MUTANTS["user-one-instruction-off"].offsets_to_register(cast(UserFile, file), (Site("pinpoint_one_1"),))
    run = RunDirectory.create(tmp_path)
    ended = cell(
        "test_a",
        "parisc",
        verdict_of_error(raised.value),
        mutant="user-one-instruction-off",
        reason=first_line_of_error(raised.value),
    )
    record_mutant_figures(Figures(run), [ended])
    figures = {each.figure: (each.value, each.holds) for each in Figures(run).read()}
    assert ended.verdict is Verdict.HARNESS_ERROR
    assert figures["mutants.not_in_force"] == (1, False)


def test_trapped_outside_of_the_file() -> None:
    assert witness.hit_address_statement([Hit(0, 7, 0x1000)], view()).contradicts


def test_words_that_share_bytes_begin_at_their_instruction() -> None:
    memory = bytearray(CONTENT[:64])
    memory[8:12] = BRK.code
    own = bytearray(CONTENT[:64])
    own[8:10] = BRK.code[:2]
    assert witness.offsets_differing_from_file(bytes(memory), bytes(own) + CONTENT[64:], 0, BRK) == [8]


def test_file_ends_in_the_page() -> None:
    assert witness.offsets_differing_from_file(CONTENT[:16] + bytes(16), CONTENT[:16], 0, INT3) == []


def test_trace_is_read() -> None:
    way = UprobesByTracefs(cast(Guest, None))
    trace = (
        "# tracer: nop\n"
        "     pinpoint_runne-123     [000] DNZff    21.5: s0: (0x7f10)\n"
        "     a-b-9                  [001] .....    21.6: s12: (0x7f55 <- 0x7f10)\n"
    )
    assert way._parsed(trace) == [Hit(0, 123, 0x7F10), Hit(12, 9, 0x7F10, is_return=True)]


def test_module_report_is_read() -> None:
    way = UprobesByModule(cast(Guest, None))
    report = "site=0 spec=r:0x10 errno=0 offset=0x10 lost=0\nhit=0 pid=5 hits=3 returns=2 ip=0x7f10 func=0x7f20\n"
    assert way._parsed(report) == [Hit(0, 5, 0x7F10, 3), Hit(0, 5, 0x7F20, 2, is_return=True)]


def test_errors_are_told_apart() -> None:
    output = "done 0 0\nsh: write error: Invalid argument\ndone 1 1\nsh: write error: Input/output error\ndone 2 1\n"
    assert _errors(output) == {1: errno.EINVAL, 2: errno.EIO}
    assert _errors("sh: write error: Unknown error 524\ndone 0 1\n") == {0: 524}


@pytest.fixture
def stripped(tmp_path: Path) -> Path:
    """Return a small shared object without symbols, with its debug file in .debug/."""
    (tmp_path / "f.c").write_text("int f(int x) { return x + 1; }\n")
    (tmp_path / ".debug").mkdir()
    for words in (
        ["gcc", "-shared", "-fPIC", "-Wl,--build-id=sha1", "-o", "whole.so", "f.c"],
        ["objcopy", "--only-keep-debug", "whole.so", ".debug/f.debug"],
        ["objcopy", "--strip-all", "--add-gnu-debuglink=.debug/f.debug", "whole.so", "f.so"],
    ):
        subprocess.run(words, cwd=tmp_path, check=True, timeout=60)
    return tmp_path / "f.so"


def test_debug_link_is_followed(stripped: Path) -> None:
    assert debug_files.find_elf_with_symbols(stripped).function("f").size > 0


def test_a_stripped_file_is_decoded_with_the_symbols_of_its_debug_file(stripped: Path) -> None:
    file = UserFile(cast(Guest, SimpleNamespace(name="vm")), "f.so", "/f.so", stripped)
    symbol = file.symbol_of_site(Site("f"))
    joined = debug_files.elf_with_code_and_symbols(stripped, file.symbol_file)
    assert joined.function_bytes(symbol) == Elf.read(stripped.parent / "whole.so").function_bytes(symbol)
    # A decoder looks for other functions, such as the tracer or the function's `.cold` part.
    assert [each.name for each in joined.symbols_named("f")] == ["f"]
    whole = stripped.parent / "whole.so"
    assert debug_files.elf_with_code_and_symbols(whole, debug_files.find_elf_with_symbols(whole)).path == whole


def test_debug_file_of_another_build_is_refused(stripped: Path) -> None:
    debug = stripped.parent / ".debug" / "f.debug"
    debug.write_bytes(debug.read_bytes() + b"\0")
    with pytest.raises(debug_files.WrongDebugFileError, match="CRC"):
        debug_files.find_elf_with_symbols(stripped)


def test_debug_file_by_build_id_must_have_it(stripped: Path) -> None:
    elf = Elf.read(stripped)
    place = stripped.parent / ".build-id" / elf.build_id[:2] / f"{elf.build_id[2:]}.debug"
    place.parent.mkdir(parents=True)
    source = stripped.parent / "other.c"
    source.write_text("int g(int x) { return x + 2; }\n")
    words = ["gcc", "-shared", "-fPIC", "-Wl,--build-id=sha1", "-o", str(place), str(source)]
    subprocess.run(words, check=True, timeout=60)
    with pytest.raises(debug_files.WrongDebugFileError, match="of build"):
        debug_files.find_elf_by_build_id(elf, stripped.parent)


def test_file_offset_is_by_the_segment(stripped: Path) -> None:
    based = stripped.parent / "based.so"
    words = ["gcc", "-shared", "-fPIC", "-Wl,-Ttext-segment=0x240000", "-o", str(based), "f.c"]
    subprocess.run(words, cwd=stripped.parent, check=True, timeout=60)
    elf = Elf.read(based)
    symbol = elf.function("f")
    offset = elf.file_offset(symbol.address)
    assert offset != symbol.address
    assert based.read_bytes()[offset : offset + symbol.size] == elf.function_bytes(symbol)
