"""A uprobe belongs to the file, not to a process: running and new processes have it, and it is removed from all."""

import pytest

from harness.images.user_targets import FIRST_LIBRARY, PLAIN, RUNNER, SECOND_LIBRARY
from harness.landing.landing_judgment import Missed
from harness.userspace.uprobes_fixture import Uprobes

TIMES = 3
# What the tracer asks for (probes/user/traced.c).
TRACED_STEPS = 3
LEAF = "pinpoint_one_leaf"


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-other-file", deep=("user-one-instruction-off",))
def test_started_before_and_after(uprobes: Uprobes) -> None:
    """A process that ran before the probe was registered has it, and so has one that is started later."""
    file = uprobes.target_file(FIRST_LIBRARY)
    with uprobes.runner_of_build() as early:
        with uprobes.on(file, [file.site(LEAF)]).record_pages_before(early) as run, uprobes.runner_of_build() as late:
            early.call(LEAF, TIMES)
            late.call(LEAF, 1)
            run.record_pages(early, late, ask="")
        run.prove_landings({early.pid: TIMES, late.pid: 1})
        run.prove_restored()


@pytest.mark.deep
@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-link-address", deep=("user-unarmed", "user-spares-it"))
def test_dlopen_and_dlclose(uprobes: Uprobes) -> None:
    """A probe in a DSO, registered before dlopen(), is hit in each mapping of the DSO and gone after dlclose().

    The DSO is linked at another base.
    """
    file = uprobes.target_file(FIRST_LIBRARY, "based")
    with uprobes.runner_of_build() as process, uprobes.on(file, [file.site(LEAF)]) as run:
        for _ in range(2):
            slot = process.send_command(f"open {file.guest_path}")["slot"]
            process.call(f"+{LEAF}", TIMES)
            run.record_pages(process, ask="+")
            if not uprobes.mutant.skips_event_during_hit:
                process.send_command(f"close {slot}")
        process.call(LEAF, TIMES)
    run.prove_landings(2 * TIMES)
    run.prove_restored()
    after = run.mapping_count_after_removal(process)
    if after:
        raise Missed(f"mapped after dlclose(): {after}")


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-unarmed")
def test_fork(uprobes: Uprobes) -> None:
    """A forked child has its parent's breakpoints, and its hits are counted as those of another process."""
    file = uprobes.target_file(SECOND_LIBRARY)
    site = file.site("pinpoint_two_leaf")
    with uprobes.runner_of_build() as process:
        parent = process.pid
        with uprobes.on(file, [site]).record_pages_before(process) as run:
            process.call(site.symbol, TIMES)
            child = process.fork_and_command_child()
            process.call(site.symbol, 1)
            run.record_pages_of_pid(child)
            if process.end_child():
                raise Missed("the child failed")
            process.pid = parent
            process.call(site.symbol, 1)
            run.record_pages(process)
        run.prove_landings({parent: TIMES + 1, child: 1})
        run.prove_restored()


@pytest.mark.deep
@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-unarmed")
def test_exec(uprobes: Uprobes) -> None:
    """After exec() the probe is in the new mappings of the same process, too."""
    file = uprobes.target_file(RUNNER)
    site = file.site("pinpoint_runner_leaf")
    with uprobes.runner_of_build() as process:
        with uprobes.on(file, [site]).record_pages_before(process) as run:
            process.call(site.symbol, TIMES)
            process.exec_program(file)
            process.call(site.symbol, TIMES)
            run.record_pages(process, ask="")
        run.prove_landings(2 * TIMES)
        run.prove_restored()


@pytest.mark.deep
@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-stale-view", deep=("user-unarmed", "user-signals-child"))
def test_under_ptrace(uprobes: Uprobes) -> None:
    """A traced process hits like any other: its tracer reads the breakpoint and gets no trap of a uprobe."""
    file = uprobes.target_file(FIRST_LIBRARY)
    with uprobes.runner_of_build() as process:
        process.send_command(f"traced {LEAF} {TIMES}")
        without = process.send_command("go")
        with uprobes.on(file, [file.site(LEAF)]) as run:
            child = int(process.send_command(f"traced {LEAF} {TIMES}")["pid"])
            run.record_pages_of_pid(child)
            if uprobes.mutant.signals_traced_child:
                uprobes.guest.run("kill", "-USR1", str(child)).check()
            reply = process.send_command("go")
        reply = without if uprobes.mutant.stale_view else reply
        run.prove_landings({child: TIMES})
        word = int(reply["word"], 16).to_bytes(file.elf.word_bytes, file.elf.byte_order)
        traits = uprobes.guest.architecture.kprobe_traits
        wanted = str(TRACED_STEPS if traits.steps_traced_processes else 0), "0", "0"
        seen = [(each["steps"], each["stops"], each["status"]) for each in (without, reply)]
        if not word.startswith(traits.uprobe_breakpoint) or seen != [wanted, wanted]:
            raise Missed(f"the tracer saw {reply}, and without a probe {without}")


@pytest.mark.deep
@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-trusts-any-build")
def test_replaced_file(uprobes: Uprobes) -> None:
    """If a file is renamed over a mapped one, the old inode stays probed, and sites of the old build are refused."""
    old, new = uprobes.target_file(FIRST_LIBRARY), uprobes.target_file(FIRST_LIBRARY, "rebuilt")
    directory = "/tmp/pinpoint_replaced"
    copies = " ".join(uprobes.target_file(name).guest_path for name in (RUNNER, FIRST_LIBRARY, SECOND_LIBRARY))
    uprobes.guest.run_script(f"mkdir {directory} && cp {copies} {directory}/").check()
    try:
        file = old.at_path(f"{directory}/{FIRST_LIBRARY}")
        site = file.site("pinpoint_one_calls")
        with uprobes.runner_at_guest_path(f"{directory}/{RUNNER}") as early:
            with uprobes.on(file, [site]).record_pages_before(early) as run:
                uprobes.guest.run_script(
                    f"cp {new.guest_path} {file.guest_path}.new && mv {file.guest_path}.new {file.guest_path}"
                ).check()
                early.call(site.symbol, TIMES)
                run.record_pages(early, ask="")
                with uprobes.runner_at_guest_path(f"{directory}/{RUNNER}") as late:
                    late.call(site.symbol, 1)
            run.prove_landings(TIMES)
            run.prove_hit_only_in(early.pid)
            refused = uprobes.expect_other_build_refused(file, [site])
            assert new.elf.build_id[:12] in refused
    finally:
        uprobes.guest.run("rm", "-r", directory).check()


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-trusts-any-build")
def test_plain_build_is_what_runs(uprobes: Uprobes) -> None:
    """Control for all cases here: the file in the guest has the build-id of the file that the sites come from."""
    for name in (RUNNER, FIRST_LIBRARY, SECOND_LIBRARY):
        file = uprobes.target_file(name, PLAIN)
        there = (
            file.at_path(uprobes.target_file(name, "rebuilt").guest_path) if uprobes.mutant.accepts_any_build else file
        )
        if there.build_id_in_guest() != file.elf.build_id:
            raise Missed(f"{there.guest_path} is another build")
