"""A user's own files on the way to the hosts of --hosts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.core import paths
from harness.core.errors import HostError, UsageError
from harness.core.events import Bus
from harness.images.build_context import BuildContext
from harness.images.vm_recipe import Kernel, select
from harness.matrix.hosts import cluster_of_options, own_files
from harness.pinning.check_foreign_loader_command import ForeignLoaderProgramAndArguments


def test_modules_of_the_own_tree_need_headers_that_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "probes" / "mine").mkdir(parents=True)
    base = select(["x86_64-debian"])[0]

    def demand(kernel: Kernel) -> None:
        cluster_of_options._demand_own_modules_build_on_hosts(base.model_copy(update={"kernel": kernel}), "--hosts")

    directory = Kernel(source="given", given=(str(tmp_path),))
    demand(directory)
    monkeypatch.setenv(paths.OWN_TREE, str(tmp_path))
    demand(base.kernel)
    demand(Kernel(source="given", given=("/nowhere/a.deb", "/nowhere/b.rpm")))
    for kernel in (directory, Kernel(source="tree", tree=str(tmp_path))):
        with pytest.raises(UsageError, match="the headers of this kernel, which stay here; give the kernel's packages"):
            demand(kernel)


def test_own_files_arrive_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of --loader is known by the controller's path; files that are damaged on the way are refused."""
    loader = tmp_path / "home" / "load.sh"
    loader.parent.mkdir()
    loader.write_text("#!/bin/sh\n")
    loader.chmod(0o755)
    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(paths.OWN_TREE, raising=False)
    own, contents = own_files.collect(f"{loader} --quiet")
    context = BuildContext.in_cache(Bus())
    with pytest.raises(HostError, match="arrived damaged"):
        own_files.receive(own, dict.fromkeys(contents, (b"other", True)), context)
    own_files.receive(own, contents, context)
    loader.unlink()
    with own_files.in_use(own, context):
        command = ForeignLoaderProgramAndArguments.parse_command_line(f"{loader} --quiet")
    assert command.host_file
    assert command.host_file.read_text() == "#!/bin/sh\n"
    assert os.access(command.host_file, os.X_OK)
    assert (command.loader_option_value, command.host_file.name) == (f"{loader} --quiet", "load.sh")
    with pytest.raises(UsageError, match="does not exist"):
        ForeignLoaderProgramAndArguments.parse_command_line(str(loader))


def test_own_files_that_are_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cases").mkdir()
    with (tmp_path / "cases" / "core").open("wb") as file:
        file.truncate((32 << 20) + 1)
    monkeypatch.setenv(paths.OWN_TREE, str(tmp_path))
    with pytest.raises(UsageError, match="more than 32 MiB of your own files, which are sent to each host"):
        own_files.collect(None)
