"""A mirror that stalls, or serves garbage: apt ends in time with one line, and the lists of before stay in use."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from debian_repository import Repository, Signer

from harness.core.deadline import Deadline
from harness.core.errors import HostError
from harness.core.events import Bus
from harness.images import host_apt_sources, private_apt
from harness.images.debian_packages_by_name import Packages
from harness.judge_injected_fault_fixture import Judge

pytestmark = pytest.mark.slow

# The time for package lists; the real one is minutes.
_REFRESH = 8.0


class Mirror(http.server.ThreadingHTTPServer):
    """Serves a repository, until `mood` is set: `stalled` sends headers and nothing more, `garbage` wrong content."""

    daemon_threads = True
    mood = ""
    root = Path()
    signer: Signer

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        path = self.server.root / self.path.lstrip("/")
        if self.server.mood == "stalled":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            time.sleep(120)
            return
        content = path.read_bytes() if path.is_file() else None
        if content is None:
            self.send_error(404)
            return
        if self.server.mood == "garbage":
            content = bytes(byte ^ 0x55 for byte in content)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    signer = Signer()
    keyring = tmp_path / "archive.gpg"
    keyring.write_bytes(signer.keyring)
    found = Repository(tmp_path / "debian", signer)
    found.add("kernel", {"boot/vmlinuz": "a kernel"})
    found.publish()
    made = Mirror(("127.0.0.1", 0), Handler)
    made.root, made.signer = found.root, signer
    threading.Thread(target=made.serve_forever, daemon=True).start()
    monkeypatch.setattr(host_apt_sources, "KEYRING", keyring)
    monkeypatch.setattr(private_apt, "_REFRESH", _REFRESH)
    monkeypatch.setenv(host_apt_sources.MIRROR_VARIABLE, made.uri)
    yield made
    made.shutdown()
    made.server_close()


def packages(directory: Path) -> Packages:
    return Packages(directory / "apt", Bus(), suites=["bookworm"])


@pytest.mark.parametrize("mood", ["stalled", "garbage"])
def test_a_mirror_from_the_start(tmp_path: Path, mirror: Mirror, judge_fault: Judge, mood: str) -> None:
    mirror.mood = mood
    began = time.monotonic()
    with pytest.raises(HostError) as caught:
        packages(tmp_path).version("kernel", "amd64")
    judge_fault(f"a {mood} mirror", expected=("", 3), reported=("", caught.value.exit_status))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < _REFRESH + 60
    mirror.mood = ""
    assert packages(tmp_path).version("kernel", "amd64") == "1.0-1"


@pytest.mark.parametrize("mood", ["stalled", "garbage"])
def test_the_lists_of_before_stay_in_use(tmp_path: Path, mirror: Mirror, judge_fault: Judge, mood: str) -> None:
    assert packages(tmp_path).version("kernel", "amd64") == "1.0-1"
    for stamp in tmp_path.glob("apt/**/refreshed.json"):
        stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "when": time.time() - 7 * 86400}))
    mirror.mood = mood
    ours = packages(tmp_path)
    assert ours.version("kernel", "amd64") == "1.0-1"
    judge_fault(f"a {mood} mirror when lists are old", expected=("", 0), reported=("", 0))
    began = time.monotonic()
    with pytest.raises(HostError) as caught:
        ours.fetch("kernel", "amd64", deadline=Deadline.after(_REFRESH))
    judge_fault(f"a {mood} mirror of packages", expected=("", 3), reported=("", caught.value.exit_status))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < _REFRESH + 60


def test_a_mirror_without_a_file_that_its_list_names(tmp_path: Path, mirror: Mirror, judge_fault: Judge) -> None:
    for file in mirror.root.rglob("*.deb"):
        file.unlink()
    with pytest.raises(HostError, match=f"404 .*; try later, or set {host_apt_sources.MIRROR_VARIABLE}$") as caught:
        packages(tmp_path).fetch("kernel", "amd64", deadline=Deadline.after(60))
    judge_fault("a mirror without a file of its list", expected=("", 3), reported=("", caught.value.exit_status))


def test_a_closure_goes_on_where_the_mirror_lacked_a_file(tmp_path: Path, mirror: Mirror, judge_fault: Judge) -> None:
    """The files that were there are kept, and the error names the one that was not."""
    repository = Repository(mirror.root, mirror.signer)
    repository.add("libc", {"lib/c": "c"})
    repository.add("tool", {"bin/tool": "t"}, depends="libc")
    repository.publish()
    (absent,) = mirror.root.rglob("libc_*.deb")
    content = absent.read_bytes()
    absent.unlink()
    with pytest.raises(HostError, match=r"^libc_1\.0-1_amd64\.deb: cannot download: .*404 ") as caught:
        packages(tmp_path).fetch_closure(["tool"], "amd64", deadline=Deadline.after(60))
    judge_fault("a mirror without a file of a closure", expected=("", 3), reported=("", caught.value.exit_status))
    absent.write_bytes(content)
    (kept,) = mirror.root.rglob("tool_*.deb")
    kept.unlink()
    files = packages(tmp_path).fetch_closure(["tool"], "amd64", deadline=Deadline.after(60))
    assert {file.name for file in files} == {"libc_1.0-1_amd64.deb", "tool_1.0-1_amd64.deb"}
