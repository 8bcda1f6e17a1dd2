"""A uprobe belongs to the file, not to a process: running and new processes have it, and it is removed from all."""

import pytest

from harness.images.user_targets import ONE, PLAIN, RUNNER, TWO
from harness.landing.landing_judgment import Missed
from harness.userspace.probe_run import Uprobes

TIMES = 3
LEAF = "pinpoint_one_leaf"


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-one-instruction-off", "user-other-file")
def test_started_before_and_after(uprobes: Uprobes) -> None:
    """A process that ran before the probe was registered has it, and so has one that is started later."""
    file = uprobes.file(ONE)
    with uprobes.runner() as early:
        with uprobes.on(file, [file.site(LEAF)]).read_before(early) as run, uprobes.runner() as late:
            early.call(LEAF, TIMES)
            late.call(LEAF, 1)
            run.read_pages(early, late, ask="")
        run.prove({early.pid: TIMES, late.pid: 1})
        run.prove_restored()


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-link-address", "user-unarmed", "user-spares-it")
def test_dlopen_and_dlclose(uprobes: Uprobes) -> None:
    """A probe in a DSO, registered before dlopen(), is hit in each mapping of the DSO and gone after dlclose().

    The DSO is linked at another base.
    """
    file = uprobes.file(ONE, "based")
    with uprobes.runner() as process, uprobes.on(file, [file.site(LEAF)]) as run:
        for _ in range(2):
            slot = process.send_command(f"open {file.path}")["slot"]
            process.call(f"+{LEAF}", TIMES)
            run.read_pages(process, ask="+")
            if not uprobes.mutant.spares:
                process.send_command(f"close {slot}")
        process.call(LEAF, TIMES)
    run.prove(2 * TIMES)
    run.prove_restored()
    after = run.mapped_after(process)
    if after:
        raise Missed(f"mapped after dlclose(): {after}")


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-unarmed")
def test_fork(uprobes: Uprobes) -> None:
    """A forked child has its parent's breakpoints, and its hits are counted as those of another process."""
    file = uprobes.file(TWO)
    site = file.site("pinpoint_two_leaf")
    with uprobes.runner() as process:
        parent = process.pid
        with uprobes.on(file, [site]).read_before(process) as run:
            process.call(site.symbol, TIMES)
            child = process.fork()
            process.call(site.symbol, 1)
            run.read_pages_of(child)
            if process.reap():
                raise Missed("the child failed")
            process.pid = parent
            process.call(site.symbol, 1)
            run.read_pages(process)
        run.prove({parent: TIMES + 1, child: 1})
        run.prove_restored()


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-unarmed")
def test_exec(uprobes: Uprobes) -> None:
    """After exec() the probe is in the new mappings of the same process, too."""
    file = uprobes.file(RUNNER)
    site = file.site("pinpoint_runner_leaf")
    with uprobes.runner() as process:
        with uprobes.on(file, [site]).read_before(process) as run:
            process.call(site.symbol, TIMES)
            process.exec(file)
            process.call(site.symbol, TIMES)
            run.read_pages(process, ask="")
        run.prove(2 * TIMES)
        run.prove_restored()


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-unarmed", "user-stale-view", "user-signals-child")
def test_under_ptrace(uprobes: Uprobes) -> None:
    """A traced process hits like any other: its tracer reads the breakpoint and gets no trap of a uprobe."""
    file = uprobes.file(ONE)
    with uprobes.runner() as process:
        process.send_command(f"traced {LEAF} {TIMES}")
        without = process.send_command("go")
        with uprobes.on(file, [file.site(LEAF)]) as run:
            child = int(process.send_command(f"traced {LEAF} {TIMES}")["pid"])
            run.read_pages_of(child)
            if uprobes.mutant.signals:
                uprobes.guest.run("kill", "-USR1", str(child)).check()
            reply = process.send_command("go")
        reply = without if uprobes.mutant.stale_view else reply
        run.prove({child: TIMES})
        word = int(reply["word"], 16).to_bytes(file.elf.word_bytes, file.elf.byte_order)
        breakpoint_ = uprobes.guest.architecture.kprobes.uprobe_breakpoint
        if not word.startswith(breakpoint_) or (reply["stops"], reply["status"]) != ("0", "0"):
            raise Missed(f"the tracer saw {reply}")


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-trusts-any-build")
def test_replaced_file(uprobes: Uprobes) -> None:
    """If a file is renamed over a mapped one, the old inode stays probed, and sites of the old build are refused."""
    old, new = uprobes.file(ONE), uprobes.file(ONE, "rebuilt")
    directory = "/tmp/pinpoint_replaced"
    copies = " ".join(uprobes.file(name).path for name in (RUNNER, ONE, TWO))
    uprobes.guest.script(f"mkdir {directory} && cp {copies} {directory}/").check()
    try:
        file = old.at_path(f"{directory}/{ONE}")
        site = file.site("pinpoint_one_calls")
        with uprobes.runner_at(f"{directory}/{RUNNER}") as early:
            with uprobes.on(file, [site]).read_before(early) as run:
                uprobes.guest.script(f"cp {new.path} {file.path}.new && mv {file.path}.new {file.path}").check()
                early.call(site.symbol, TIMES)
                run.read_pages(early, ask="")
                with uprobes.runner_at(f"{directory}/{RUNNER}") as late:
                    late.call(site.symbol, 1)
            run.prove(TIMES)
            run.prove_only_in(early.pid)
            refused = uprobes.expect_build_refused(file, [site])
            assert new.elf.build_id[:12] in refused
    finally:
        uprobes.guest.run("rm", "-r", directory).check()


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-trusts-any-build")
def test_plain_build_is_what_runs(uprobes: Uprobes) -> None:
    """Control for all cases here: the file in the guest has the build-id of the file that the sites come from."""
    for name in (RUNNER, ONE, TWO):
        file = uprobes.file(name, PLAIN)
        there = file.at_path(uprobes.file(name, "rebuilt").path) if uprobes.mutant.trusts_anything else file
        if there.build_id_in_guest() != file.elf.build_id:
            raise Missed(f"{there.path} is another build")
