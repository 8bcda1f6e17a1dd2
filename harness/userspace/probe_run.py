"""One run of uprobes on sites of one file, from registration to removal, and the witnesses' statements per process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping as Counts
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from harness.guest.guest import Guest
from harness.landing.five_address_witnesses import SHOWN, Statement
from harness.landing.landing_judgment import NOT_IN_FORCE, Landing, Missed, MutantNotInForceError, prove_landings
from harness.landing.precompiled_sites import OtherBuildError
from harness.landing.site import Site
from harness.userspace import mapped_pages, uprobes_tree, witness
from harness.userspace.mapped_pages import FileView
from harness.userspace.mutants import UserMutant
from harness.userspace.runner import Runner
from harness.userspace.uprobes_tree import UprobesTree
from harness.userspace.user_file import UserFile
from harness.userspace.ways import WAYS, Hit, OffsetRegistrationResult, Request, UprobesByPerf
from harness.userspace.write_process_memory_for_mutants import write_process_memory

_COPY = "/tmp/pinpoint_user_copy"
# lru_add_drain_all() (drop_caches_sysctl_handler(), fs/drop_caches.c, 6.1).
_DRAIN_LRU_BATCHES = "echo 1 >/proc/sys/vm/drop_caches"
# If a file has more executable pages than this, only the pages with sites are read; otherwise all executable pages are.
_FEW_PAGES = 16


class UprobeRun:
    """Uprobes that are registered on sites of one file while the `with` block runs; results can be read afterwards.

    `record_pages` must be called in the block for each process that is to be judged, while that process has the file
    mapped.
    """

    def __init__(
        self,
        file: UserFile,
        sites: Sequence[Site],
        way: str,
        mutant: UserMutant,
        struct_types: Path,
        *,
        returns: bool,
        aims: Sequence[int] | None,
    ) -> None:
        self.file = file
        self.guest: Guest = file.guest
        self.sites = tuple(sites)
        self.is_ended = False
        self._way = WAYS[way](file.guest)
        self._mutant = mutant
        self._struct_types = struct_types
        self._returns = returns
        self._identity = ""
        self._aims = mutant.offsets_to_register(file, self.sites) if aims is None else list(aims)
        self.offsets = [file.offset_of_site(site) for site in self.sites]
        self._before: dict[int, FileView] = {}
        self._during: dict[int, FileView] = {}
        self._after: dict[int, FileView] = {}
        self._trees: dict[int, UprobesTree] = {}
        self._tree_after: UprobesTree | None = None
        self._extra = UprobesByPerf(file.guest)
        self._resolved: dict[tuple[int, str], int] = {}
        self._processes: dict[int, Runner] = {}
        self.hits: list[Hit] = []

    def record_pages_before(self, *processes: Runner) -> Self:
        """Read the pages of processes that already run; `prove_restored` checks that they equal the file."""
        for process in processes:
            self._before[process.pid] = self._look(process.pid)
        return self

    def __enter__(self) -> Self:
        path = self.file.guest_path
        if not self._mutant.accepts_any_build:
            self._demand_build()
        if self._mutant.probes_other_file:
            self.guest.run("cp", path, _COPY).check()
            path = _COPY
        request = Request(path, self._aims, self._returns, self._mutant.reports_without_registering)
        self.registered: list[OffsetRegistrationResult] = self._way.register_offsets(request)
        if self._mutant.registers_twice:
            self._extra.register_offsets(Request(path, self._aims))
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            # Since 6.16 a page stays a private copy after removal, with the file's bytes, if another reference to it
            # exists, such as that of a per-CPU LRU batch (__uprobe_write_opcode(), kernel/events/uprobes.c).
            self.guest.run_script(_DRAIN_LRU_BATCHES).check()
        if self._mutant.stays_registered and kind is None:
            self.hits = self._way.read_hits()
            self._look_after()
            self._way.remove_and_return_hits()
        else:
            self.hits = self._way.remove_and_return_hits()
            if self._mutant.leaves_idle_uprobe:
                self._extra.register_offsets(Request(self.file.guest_path, self._aims, own_process_only=True))
            if kind is None:
                self._look_after()
        self._extra.remove_and_return_hits()
        if self._mutant.probes_other_file:
            self.guest.run("rm", _COPY).check()
        self.is_ended = True

    def _demand_build(self) -> None:
        found = self.file.build_id_in_guest()
        if found != self.file.elf.build_id:
            wanted = self.file.elf.build_id[:12]
            raise OtherBuildError(
                f"{self.file.guest_path} is of build {found[:12] or '(none)'}, the sites are of {wanted}"
            )

    def record_pages(self, *processes: Runner, ask: str | None = None) -> None:
        """Read the processes' pages now, inside and outside.

        If `ask` is not None, each process also resolves the sites' functions to its own addresses. `ask` is the prefix
        that is put before each function name in that query (probes/user/function_lookup.c).
        """
        for process in processes:
            stale = self._mutant.stale_view and process.pid in self._before
            if self._mutant.restores_one_mapping:
                self._restore_one_mapping(process.pid)
            self.record_pages_of_pid(process.pid)
            if stale:
                self._during[process.pid] = self._before[process.pid]
            self._processes[process.pid] = process
            for symbol in dict.fromkeys(site.symbol for site in self.sites) if ask is not None else ():
                self._resolved[process.pid, symbol] = process.function_address(f"{ask}{symbol}")

    def record_pages_of_pid(self, pid: int) -> None:
        """Read the pages of a process that takes no commands."""
        view = self._look(pid)
        # Only both together are a view that can be judged: reading the tree can fail.
        self._trees[pid] = uprobes_tree.read_uprobes_tree(self.guest, self._struct_types)
        self._during[pid] = view

    def _restore_one_mapping(self, pid: int) -> None:
        """What a mutant does: the file's byte in the last of several mappings."""
        offset = self.offsets[0]
        pages = [page for page in self._look(pid).pages if page.offset <= offset < page.offset + len(page.bytes_inside)]
        if len(pages) < 2:
            raise MutantNotInForceError(f"{NOT_IN_FORCE}: there is one mapping")
        place = pages[-1].address + offset - pages[-1].offset
        write_process_memory(self.guest, pid, place, self.file.content[offset : offset + len(self._patch.code)])

    def _look(self, pid: int) -> FileView:
        view = mapped_pages.read_file_view(self.guest, self.file, [pid], self._watched, self._identity)
        self._identity = view.file_identity
        return view

    @property
    def _watched(self) -> list[int]:
        pages = self.file.executable_page_offsets
        return [*self.offsets, *self._aims, *(pages if len(pages) <= _FEW_PAGES else ())]

    def _look_after(self) -> None:
        self._tree_after = uprobes_tree.read_uprobes_tree(self.guest, self._struct_types)
        for pid, process in self._processes.items():
            if process.not_yet_ended and process.pid == pid:
                self._after[pid] = self._look(pid)
                if self._mutant.keeps_private_copy:
                    page = self._after[pid].pages[0]
                    write_process_memory(self.guest, pid, page.address, page.bytes_inside[:1])
                    self._after[pid] = self._look(pid)

    @property
    def landings(self) -> list[Landing]:
        """The witnesses' statements on each site in each process that was looked at."""
        by_place: defaultdict[tuple[int, int], list[Hit]] = defaultdict(list)
        for hit in self.hits:
            by_place[hit.site_index, hit.pid].append(hit)
        return [
            self._landing(index, site, pid, view, by_place[index, pid])
            for pid, view in self._during.items()
            for index, site in enumerate(self.sites)
        ]

    @property
    def _patch(self) -> witness.BreakpointEncoding:
        traits = self.guest.architecture.kprobe_traits
        return witness.BreakpointEncoding(traits.uprobe_breakpoint, traits.instruction_alignment)

    def _landing(self, index: int, site: Site, pid: int, view: FileView, hits: Sequence[Hit]) -> Landing:
        offset, content = self.offsets[index], self.file.content
        own_hits = [hit for hit in hits if hit.is_return is self._returns]
        pointer = self._resolved.get((pid, site.symbol))
        patch = self._patch
        statements = (
            witness.registered_statement(self.registered[index]),
            Statement("elf", offset, code=content[offset : offset + SHOWN]),
            witness.process_pointer_statement(None if pointer is None else pointer + site.offset, view),
            witness.hit_address_statement(own_hits, view),
            witness.proc_memory_statement(view, content, offset, patch, self.offsets),
            witness.qemu_memory_statement(view, content, offset, patch, self.offsets),
            witness.tree_statement(
                self._trees[pid].consumers_by_offset_in_file(view.file_identity),
                offset,
                self.offsets,
                self._way.consumers_per_site,
            ),
        )
        return Landing(site, statements, sum(hit.count for hit in own_hits), self.file.describe_offset)

    def prove_landings(self, hits: Counts[int, int] | int | None = None) -> None:
        """Check that every probe landed in every process that was looked at, and how often it was hit there.

        `hits` is the expected number for each site: one number for all processes, or a number by pid, or None for any
        number. Raises Missed with the witness table.
        """
        landings = self.landings
        if not landings:
            raise Missed("no process was looked at")
        for number, pid in enumerate(self._during):
            own = landings[number * len(self.sites) : (number + 1) * len(self.sites)]
            prove_landings(own, hits[pid] if isinstance(hits, Counts) else hits)

    def prove_refused(self, process: Runner, errno: int) -> None:
        """Each registration answered with the errno, and no page and no list has a uprobe. Raises Missed."""
        answers = [each.errno for each in self.registered]
        listed = self._trees[process.pid].consumers_by_offset_in_file(self._identity)
        changed = self.offsets_differing_from_file(process)
        if set(answers) != {errno} or listed or changed or self.hits:
            raise Missed(
                f"errno {answers}, not {errno}; the kernel lists {dict(listed)}, memory changed at {changed}, "
                f"{len(self.hits)} hits"
            )

    def prove_hit_counts(self, pid: int, wanted: Sequence[int]) -> None:
        """Check that each site was hit `wanted` times in one process. Raises Missed."""
        found = [
            sum(
                hit.count
                for hit in self.hits
                if (hit.site_index, hit.pid, hit.is_return) == (index, pid, self._returns)
            )
            for index in range(len(self.sites))
        ]
        if found != list(wanted):
            raise Missed(f"hits of {', '.join(map(str, self.sites))} are {found}, not {list(wanted)}")

    def prove_hit_only_in(self, *pids: int) -> None:
        """Check that no process except these hit a probe. Raises Missed."""
        others = {hit.pid for hit in self.hits if hit.count} - set(pids)
        if others:
            raise Missed(f"hit in processes {sorted(others)} too")

    def offsets_differing_from_file(self, process: Runner) -> list[int]:
        """The offsets into the file at which the pages of one process differed from the file."""
        patch = self._patch
        pages = self._during[process.pid].pages
        return [
            place
            for page in pages
            for place in witness.offsets_differing_from_file(page.bytes_inside, self.file.content, page.offset, patch)
        ]

    def mapping_count_after_removal(self, process: Runner) -> int:
        """The number of mappings of the file that a process has after the probes are removed."""
        return len(self._after[process.pid].mappings) if process.pid in self._after else 0

    def prove_restored(self) -> None:
        """Check that the pages of each process equal the file, before registration and after removal. Raises Missed.

        After removal, no page is a copy, and the kernel lists no uprobe of the file.
        """
        if not self._identity or self._tree_after is None:
            raise Missed("no process was looked at")
        left = self._tree_after.consumers_by_offset_in_file(self._identity)
        if left:
            raise Missed(f"after removal the kernel lists offsets {', '.join(map(hex, left))} of the file")
        for pid, view in self._after.items():
            copies = [page for page in view.pages if page.is_private_copy]
            if copies:
                raise Missed(f"pid {pid}: its page {copies[0].offset:#x} is still a copy after removal")
        for when, views in (("before registration", self._before), ("after removal", self._after)):
            for pid, view in views.items():
                self._demand_pristine(pid, view, when)

    def _demand_pristine(self, pid: int, view: FileView, when: str) -> None:
        for page in view.pages:
            for by, memory in (("inside", page.bytes_inside), ("outside", page.bytes_outside)):
                own = self.file.content[page.offset : page.offset + len(memory)].ljust(len(memory), b"\0")
                if memory != own:
                    first = next(place for place, byte in enumerate(memory) if byte != own[place])
                    place = f"the byte at file offset {page.offset + first:#x}"
                    raise Missed(f"pid {pid}, {by}: {place} differs from the file {when}")

    def prove_pages_private(self) -> None:
        """Check that every probed page is a private copy of one process, and file and page cache are unchanged.

        Raises Missed.
        """
        frames: dict[int, tuple[int, int]] = {}
        for pid, view in self._during.items():
            for page in view.pages:
                if not page.is_private_copy:
                    self._demand_pristine(pid, FileView("", [], [page]), "in the page cache")
                elif frames.setdefault(page.frame_number, (pid, page.offset)) != (pid, page.offset):
                    other = frames[page.frame_number]
                    raise Missed(f"frame {page.frame_number:#x} is mapped by {other} and {(pid, page.offset)}")
        if self._mutant.writes_file:
            self.guest.run_script(
                f"printf x | dd of={self.file.guest_path} bs=1 seek=9 conv=notrunc 2>/dev/null"
            ).check()
        digest = self.guest.run("sha256sum", self.file.guest_path).check().stdout.split()[0]
        if self._mutant.writes_file:
            self.guest.put(self.file.host_path, self.file.guest_path, 0o755)
        if digest != self.file.sha256:
            raise Missed(f"the file itself changed: {self.file.guest_path}")

    def prove_addresses_differ(self) -> None:
        """The processes have the file mapped at different addresses. Raises Missed."""
        starts = {pid: min(mapping.start for mapping in view.mappings) for pid, view in self._during.items()}
        if len(set(starts.values())) != len(starts):
            raise Missed(f"mapped at the same address: {', '.join(f'{pid} at {at:#x}' for pid, at in starts.items())}")

    def prove_site_mapping_count(self, process: Runner, count: int) -> None:
        """One process has the site's page mapped so often as code. Raises Missed."""
        offset = self.offsets[0]
        pages = [page for page in self._during[process.pid].pages if page.offset == offset & -len(page.bytes_inside)]
        if len({page.address for page in pages}) != count:
            raise Missed(f"pid {process.pid} has the page of {offset:#x} mapped {len(pages)} times, not {count}")
