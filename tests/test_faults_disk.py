"""A disk that fills while make, ccache, apt, the store or a compiler write to it: a small real disk, real programs.

`TMPDIR` is a compiler that has no room for its temporary files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from broken_runs import environment
from debian_repository import Repository, Signer

from harness.judge_injected_fault_fixture import Judge

pytestmark = pytest.mark.slow

NO_NAMESPACES = 77
# Mounts the directory `$1` of the size `$2`, runs a program on it, makes room and runs it again.
SMALL = """
disk=$1
mount -t tmpfs -o size=$2 none $disk || exit 77
shift 2
"$@" full
df -k $disk >&2
umount $disk && mount -t tmpfs -o size=512m none $disk || exit 77
"$@" empty
"""
BUILD = """
import json, sys, tempfile
from pathlib import Path
from harness.cli_common import print_error
from harness.core import paths
from harness.core.deadline import Deadline
from harness.core.errors import PinpointError
from harness.core.events import Bus
from harness.images import kbuild
from harness.images.build_context import BuildContext
from harness.images.debian_packages_by_name import Packages

what = sys.argv[1]
RULES = {"ccache": "%.o: %.c\\n\\tccache gcc -c -o $@ $<\\n", "TMPDIR": "%.o: %.c\\n\\tgcc -c -o $@ $<\\n"}
RULE = RULES.get(what, "%.o: %.S\\n\\tgcc -c -o $@ $<\\n")


def build(directory, step):
    import random
    if what == "store":
        (directory / "kernel").write_bytes(random.Random(1).randbytes(6 << 20))
        return {}
    # ccache: only its own directory is on the small disk.
    place = tempfile.TemporaryDirectory(dir=None if what == "ccache" else directory)
    with place as work:
        for n in range(1, 5):
            # Random data, which ccache does not make smaller. The assembler includes megabytes quickly.
            data = random.Random(n).randbytes(3 << 20 if what == "make" else 1 << 15)
            if what != "make":
                Path(work, f"{n}.c").write_text(f"const unsigned char data{n}[] = {{{','.join(map(str, data))}}};\\n")
            else:
                Path(work, f"{n}.data").write_bytes(data)
                Path(work, f"{n}.S").write_text(f'.incbin "{work}/{n}.data"\\n')
        Path(work, "Makefile").write_text("all: 1.o 2.o 3.o 4.o\\n" + RULE)
        log = paths.cache().parent / "make.log"
        kbuild.run_logged(["make", "-C", work], "make", log, deadline=Deadline.after(300))
    (directory / "kernel").write_bytes(b"x" * 1000)
    return {}


def run():
    context = BuildContext.in_cache(Bus())
    if what == "apt":
        packages = Packages(paths.cache() / "apt", Bus(), suites=["bookworm"])
        file = packages.fetch("big", "amd64", deadline=Deadline.after(300))
        return [file.stat().st_size]
    entry = context.store.obtain("kernel", [what], vm="a-vm", build=build)
    return sorted(path.name for path in entry.path.iterdir())


try:
    done = {"made": run()}
except PinpointError as error:
    done = {"error": str(error), "status": error.exit_status}
store = paths.cache() / "store"
done["left"] = sorted(path.name for path in store.iterdir() if path.name != ".locks") if store.exists() else []
print(json.dumps(done))
"""


@pytest.fixture
def repository(tmp_path: Path) -> dict[str, str]:
    signer = Signer()
    keyring = tmp_path / "archive.gpg"
    keyring.write_bytes(signer.keyring)
    found = Repository(tmp_path / "debian", signer)
    found.add("big", {"boot/vmlinuz": os.urandom(6 << 20)})
    found.publish()
    return {"PINPOINT_MIRROR": found.uri, "KEYRING": str(keyring)}


@pytest.mark.parametrize(
    ("what", "size"), [("make", "16m"), ("ccache", "160k"), ("apt", "4m"), ("store", "5m"), ("TMPDIR", "16k")]
)
def test_the_disk_fills(
    tmp_path: Path, judge_fault: Judge, what: str, size: str, request: pytest.FixtureRequest
) -> None:
    disk = tmp_path / ("temporary" if what == "TMPDIR" else "cache")
    env = environment(tmp_path) | ({"TMPDIR": str(disk)} if what == "TMPDIR" else {})
    program = BUILD
    if what == "apt":
        found = request.getfixturevalue("repository")
        env |= {"PINPOINT_MIRROR": found["PINPOINT_MIRROR"]}
        keyring = f"host_apt_sources.KEYRING = pathlib.Path({found['KEYRING']!r})\n"
        program = f"import pathlib\nfrom harness.images import host_apt_sources\n{keyring}{BUILD}"
    disk.mkdir()
    (tmp_path / "build.py").write_text(program)
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SMALL, "sh", disk.name, size]
    words += [sys.executable, str(tmp_path / "build.py"), what]
    ended = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900, check=False)
    if ended.returncode == NO_NAMESPACES or "unshare" in ended.stderr:
        pytest.skip("this host does not allow user namespaces")
    full, empty = (json.loads(line) for line in ended.stdout.splitlines())
    if what == "ccache":
        # ccache compiles without its cache then: slower, and right.
        assert full["made"] == ["kernel", "manifest.json", "manifest.seal"], full
        judge_fault("disk full for ccache", expected=("", 0), reported=("", 0))
    else:
        judge_fault(f"disk full for {what}", expected=("", 3), reported=("", full.get("status", 0)))
        variable = "TMPDIR" if what == "TMPDIR" else "PINPOINT_CACHE"
        assert full["error"] == f"{disk}: the disk is full; make room, or set {variable} to another disk", full
        assert full["left"] == []
    assert "made" in empty, empty
    assert "Traceback" not in ended.stderr
