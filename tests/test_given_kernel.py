"""A kernel of the user's own: its parts in directories and packages, what is missing, RPM archives, trees, traits."""

from __future__ import annotations

import gzip
import lzma
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import rpm_archive
import zstandard
from rpm_archive import member

from harness import cli
from harness.core.errors import RecipeError, UsageError
from harness.core.events import Bus
from harness.images import given_kernel, given_kernel_parts, kernel_config, rpm, vm_recipe
from harness.images.debian_packages_by_name import Packages
from harness.images.vm_recipe import Recipe, Traits, load_all, replace_in_this_run, select
from harness.matrix.commands.given_kernel_recipe import GivenKernel, lost_traits
from harness.report import bundle

RELEASE = "6.9.1-200.fc40.x86_64"
CONFIG = "CONFIG_MODULES=y\n"


def package(files: dict[str, bytes], compress: Callable[[bytes], bytes], links: dict[str, str] | None = None) -> bytes:
    members = [(f"./{name}", 0o100644, content) for name, content in files.items()]
    members += [(f"./{name}", 0o120777, target.encode()) for name, target in (links or {}).items()]
    return rpm_archive.package((member(*each) for each in members), compress)


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, zstd, bytes], ids=["gz", "xz", "zst", "plain"])
def test_an_rpm_is_unpacked(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    file = tmp_path / "kernel.rpm"
    file.write_bytes(package({"lib/a": b"12345", "lib/deep/b": b""}, compress, {"lib/c": "a"}))
    rpm.unpack(file, tmp_path / "into")
    assert (tmp_path / "into/lib/a").read_bytes() == b"12345"
    assert (tmp_path / "into/lib/deep/b").read_bytes() == b""
    assert (tmp_path / "into/lib/c").readlink() == Path("a")


def test_each_name_of_a_file_has_its_content(tmp_path: Path) -> None:
    """rpmbuild writes the content of a file with several names once, with the last name."""
    names = [
        member("./include/a.h", 0o100644, b"", 7, 2),
        member("./include/empty", 0o100644, b"", 8, 2),
        member("./other/empty", 0o100644, b"", 8, 2),
        member("./other/a.h", 0o100644, b"content", 7, 2),
        member("./other/b.h", 0o100644, b"", 7),
    ]
    (tmp_path / "kernel.rpm").write_bytes(rpm_archive.package(names))
    rpm.unpack(tmp_path / "kernel.rpm", tmp_path / "into")
    read = {name: (tmp_path / "into" / name).read_bytes() for name in ("include/a.h", "other/a.h", "other/b.h")}
    assert read == {"include/a.h": b"content", "other/a.h": b"content", "other/b.h": b""}
    assert (tmp_path / "into/include/empty").read_bytes() == (tmp_path / "into/other/empty").read_bytes() == b""


@pytest.mark.parametrize(
    ("files", "links"),
    [({"../outside": b"x"}, {}), ({"lib/../../outside": b"x"}, {}), ({"way/outside": b"x"}, {"way": "/tmp"})],
)
def test_no_member_of_an_rpm_leaves_its_directory(
    files: dict[str, bytes], links: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "evil.rpm"
    content = package({}, bytes, links)
    both = package(files, bytes, links)
    file.write_bytes(both if not links else _links_first(files, links))
    assert content
    with pytest.raises(UsageError, match="has a member"):
        rpm.unpack(file, tmp_path / "into")
    assert not (tmp_path / "outside").exists()
    assert not Path("/tmp/outside").exists()


def _links_first(files: dict[str, bytes], links: dict[str, str]) -> bytes:
    members = [(f"./{name}", 0o120777, target.encode()) for name, target in links.items()]
    members += [(f"./{name}", 0o100644, content) for name, content in files.items()]
    return rpm_archive.package(member(*each) for each in members)


@pytest.mark.parametrize("cut", [0, 50, 100, 150, -10])
def test_a_cut_off_rpm_is_one_line(cut: int, tmp_path: Path) -> None:
    file = tmp_path / "cut.rpm"
    file.write_bytes(package({"lib/a": b"x" * 300}, gzip.compress)[:cut])
    with pytest.raises(UsageError, match="is no whole RPM package"):
        rpm.unpack(file, tmp_path / "into")


def fedora() -> dict[str, bytes]:
    """The files of kernel-core, kernel-modules-core and kernel-devel, where Fedora has them."""
    own, headers = f"lib/modules/{RELEASE}", f"usr/src/kernels/{RELEASE}"
    return {
        f"{own}/vmlinuz": b"image",
        f"{own}/config": CONFIG.encode(),
        f"{own}/modules.builtin": b"",
        f"{own}/kernel/drivers/net/virtio_net.ko.xz": lzma.compress(b"module"),
        f"{headers}/include/config/kernel.release": f"{RELEASE}\n".encode(),
        f"{headers}/include/generated/autoconf.h": b"",
        f"{headers}/.config": CONFIG.encode(),
    }


def test_the_parts_of_fedoras_packages(tmp_path: Path) -> None:
    (tmp_path / "kernel.rpm").write_bytes(package(fedora(), zstd))
    given_kernel_parts.unpack([tmp_path / "kernel.rpm"], tmp_path / "tree")
    found = given_kernel_parts.find_parts_in_packages(tmp_path / "tree", "kernel.rpm")
    assert found.release == RELEASE
    assert found.image.read_bytes() == b"image"
    assert found.modules == tmp_path / f"tree/lib/modules/{RELEASE}"
    assert found.source == found.objects == tmp_path / f"tree/usr/src/kernels/{RELEASE}"
    (tmp_path / "scratch").mkdir()
    staged = given_kernel_parts.stage_decompressed_modules(found, tmp_path / "scratch")
    assert lzma.decompress((staged / "kernel/virtio_net.ko.xz").read_bytes()) == b"module"


def test_modules_get_no_btf_of_unpacked_headers(tmp_path: Path) -> None:
    """Headers with the kernel's vmlinux would need pahole on this host."""
    files = {**fedora(), f"usr/src/kernels/{RELEASE}/vmlinux": b"BTF"}
    (tmp_path / "kernel.rpm").write_bytes(package(files, bytes))
    given_kernel_parts.unpack([tmp_path / "kernel.rpm"], tmp_path / "tree")
    found = given_kernel_parts.find_parts_in_packages(tmp_path / "tree", "kernel.rpm")
    job = given_kernel._Job(select(["x86_64-debian"])[0], Packages(tmp_path / "apt", Bus(), ["bookworm"]))
    job._settle(tmp_path / "tree", found)
    assert (found.objects / ".config").is_file()
    assert not (found.objects / "vmlinux").exists()


def test_the_release_is_that_of_modules(tmp_path: Path) -> None:
    """kernel.release of Debian's headers of 6.1 has the version without the flavor."""
    headers = f"usr/src/kernels/{RELEASE}/include"
    files = {
        **fedora(),
        f"{headers}/config/kernel.release": b"6.9.1\n",
        f"{headers}/generated/utsrelease.h": f'#define UTS_RELEASE "{RELEASE}"\n'.encode(),
    }
    (tmp_path / "kernel.rpm").write_bytes(package(files, bytes))
    given_kernel_parts.unpack([tmp_path / "kernel.rpm"], tmp_path / "tree")
    assert given_kernel_parts.find_parts_in_packages(tmp_path / "tree", "kernel.rpm").release == RELEASE


@pytest.mark.parametrize(
    ("absent", "named"),
    [("usr/src", "kernel headers"), (f"lib/modules/{RELEASE}/vmlinuz", f"kernel image of {RELEASE}")],
)
def test_a_missing_part_is_named(absent: str, named: str, tmp_path: Path) -> None:
    files = {name: content for name, content in fedora().items() if not name.startswith(absent)}
    (tmp_path / "kernel.rpm").write_bytes(package(files, bytes))
    given_kernel_parts.unpack([tmp_path / "kernel.rpm"], tmp_path / "tree")
    with pytest.raises(UsageError, match=f"no {named}.* is among what --kernel names"):
        given_kernel_parts.find_parts_in_packages(tmp_path / "tree", "kernel.rpm")


UBUNTU = "6.8.0-31-generic"
COMMON = UBUNTU.removesuffix("-generic")


def ubuntu_packages(directory: Path) -> list[Path]:
    """Build the four packages of an Ubuntu kernel; the headers of the flavor link to the common ones."""
    common, flavor = f"usr/src/linux-headers-{COMMON}", f"usr/src/linux-headers-{UBUNTU}"
    files: dict[str, dict[str, bytes]] = {
        "linux-image-unsigned": {f"boot/vmlinuz-{UBUNTU}": b"image"},
        "linux-modules": {
            f"boot/config-{UBUNTU}": CONFIG.encode(),
            f"lib/modules/{UBUNTU}/modules.builtin": b"",
            f"lib/modules/{UBUNTU}/kernel/drivers/net/virtio_net.ko.zst": zstd(b"module"),
        },
        "linux-headers": {f"{common}/Makefile": b"VERSION = 6\n", f"{common}/include/linux/module.h": b""},
        "linux-headers-generic": {
            f"{flavor}/include/config/kernel.release": f"{UBUNTU}\n".encode(),
            f"{flavor}/include/generated/autoconf.h": b"",
            f"{flavor}/.config": CONFIG.encode(),
        },
    }
    links = {"linux-headers-generic": {f"{flavor}/Makefile": f"../linux-headers-{COMMON}/Makefile"}}
    return [debian_package(directory, name, each, links.get(name, {})) for name, each in files.items()]


def debian_package(directory: Path, name: str, files: dict[str, bytes], links: dict[str, str]) -> Path:
    tree = directory / name
    for path, content in {**files, "DEBIAN/control": control(name)}.items():
        (tree / path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        (tree / path).write_bytes(content)
    for path, target in links.items():
        (tree / path).symlink_to(target)
    subprocess.run(["chmod", "-R", "go+rX", tree], check=True)
    package = directory / f"{name}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, package], check=True, capture_output=True)
    return package


def control(name: str) -> bytes:
    return f"Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: x <x@example.org>\nDescription: x\n".encode()


def test_the_parts_of_ubuntus_packages(tmp_path: Path) -> None:
    packages = ubuntu_packages(tmp_path)
    given_kernel_parts.unpack(packages, tmp_path / "tree")
    found = given_kernel_parts.find_parts_in_packages(tmp_path / "tree", "ubuntu")
    assert (found.release, found.image.read_bytes()) == (UBUNTU, b"image")
    assert found.config == tmp_path / f"tree/boot/config-{UBUNTU}"
    assert found.modules == tmp_path / f"tree/lib/modules/{UBUNTU}"
    assert found.source == found.objects == tmp_path / f"tree/usr/src/linux-headers-{UBUNTU}"
    # make finds the common headers through the links of the flavor's.
    assert (found.source / "Makefile").read_text() == "VERSION = 6\n"
    (tmp_path / "scratch").mkdir()
    staged = given_kernel_parts.stage_decompressed_modules(found, tmp_path / "scratch")
    assert (staged / "kernel/virtio_net.ko").read_bytes() == b"module"


@pytest.mark.parametrize(
    ("absent", "named"),
    [(0, f"kernel image of {UBUNTU}"), (2, f"linux-headers-{COMMON}"), (3, "kernel headers")],
)
def test_a_missing_package_of_ubuntus_is_named(absent: int, named: str, tmp_path: Path) -> None:
    packages = ubuntu_packages(tmp_path)
    given_kernel_parts.unpack([each for each in packages if each != packages[absent]], tmp_path / "tree")
    with pytest.raises(UsageError, match=f"no {named}.* is among what --kernel names"):
        given_kernel_parts.find_parts_in_packages(tmp_path / "tree", "ubuntu")


DEBIAN = "6.1.0-47-amd64"


@pytest.mark.parametrize("absent", ["linux-headers-6.1.0-47-common", "linux-kbuild-6.1"])
def test_a_missing_package_of_debians_headers_is_named(absent: str, tmp_path: Path) -> None:
    headers, common = f"usr/src/linux-headers-{DEBIAN}", "usr/src/linux-headers-6.1.0-47-common"
    files = {
        f"boot/vmlinuz-{DEBIAN}": b"image",
        f"{headers}/include/config/kernel.release": b"6.1.170\n",
        f"{headers}/include/generated/utsrelease.h": f'#define UTS_RELEASE "{DEBIAN}"\n'.encode(),
        f"{headers}/include/generated/autoconf.h": b"",
        f"{headers}/.config": CONFIG.encode(),
        f"{headers}/Makefile": f"include /{common}/Makefile\n".encode(),
        f"{common}/Makefile": b"VERSION = 6\n",
        "usr/lib/linux-kbuild-6.1/scripts/mod/modpost": b"",
    }
    links = {f"{headers}/scripts": "../../lib/linux-kbuild-6.1/scripts"}
    for left_out, root in ((), tmp_path / "whole"), ((absent,), tmp_path / "part"):
        kept = {name: content for name, content in files.items() if not any(part in name for part in left_out)}
        root.mkdir()
        given_kernel_parts.unpack([debian_package(root, "linux", kept, links)], root / "tree")
        if left_out:
            with pytest.raises(UsageError, match=f"no {absent} is among what --kernel names"):
                given_kernel_parts.find_parts_in_packages(root / "tree", "debian")
        else:
            found = given_kernel_parts.find_parts_in_packages(root / "tree", "debian")
            assert (found.release, found.source) == (DEBIAN, root / "tree" / common)


def test_zstd_and_gzip_modules_are_unpacked(tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    (modules / "kernel").mkdir(parents=True)
    (modules / "modules.builtin").write_text("")
    (modules / "kernel/a.ko.zst").write_bytes(zstd(b"one"))
    (modules / "kernel/b.ko.gz").write_bytes(gzip.compress(b"two"))
    (tmp_path / "scratch").mkdir()
    parts = cast(given_kernel_parts.KernelParts, SimpleNamespace(modules=modules))
    staged = given_kernel_parts.stage_decompressed_modules(parts, tmp_path / "scratch") / "kernel"
    assert (staged / "a.ko").read_bytes() == b"one"
    assert (staged / "b.ko").read_bytes() == b"two"


def test_missing_options_are_named_with_the_fragment() -> None:
    wanted = kernel_config.merge([kernel_config._fragment("needed"), kernel_config._fragment("needed-x86_64")])
    complete = {wish.option: "y" for wish in wanted.values()}
    kernel_config.demand_needed(complete, "x86_64", "here")
    kernel_config.demand_needed({**complete, "CONFIG_VIRTIO_NET": "m"}, "x86_64", "here")
    for lost in ("CONFIG_KPROBES", "CONFIG_VIRTIO_NET"):
        part = {name: value for name, value in complete.items() if name != lost}
        with pytest.raises(RecipeError, match=rf"here: lacks {lost}=.; set them; vm_images/config/needed\S*\.config"):
            kernel_config.demand_needed(part, "x86_64", "here")
    with pytest.raises(RecipeError, match="lacks CONFIG_KPROBES=y"):
        kernel_config.demand_needed({**complete, "CONFIG_KPROBES": "m"}, "x86_64", "here")


def tree(directory: Path, *built: str) -> Path:
    for name in ("Kbuild", "Kconfig", *built):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("")
    return directory


@pytest.mark.parametrize("built", [".config", "include/config/auto.conf", "arch/x86/include/generated/uapi"])
def test_a_tree_that_was_built_in_place_is_one_line(
    built: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tree(tmp_path / "linux", built)
    assert cli.main(["build", "--vm", "x86_64-fsections", "--kernel", str(own)]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1
    assert "run `make ARCH=x86_64 mrproper` there" in printed[0]
    assert str(own) in printed[0]


@pytest.mark.parametrize(
    "words",
    [
        ["--kernel", "/nosuch"],
        ["--config", "/dev/null"],
        ["--vm", "parisc,x86_64-debian", "--kernel", "."],
        ["--vm", "arm64-debian", "--kernel", "TREE"],
        ["--vm", "x86_64-fsections", "--kernel", "TREE", "--config", "/nosuch/.config"],
        ["--vm", "x86_64-debian", "--kernel", "EMPTY"],
    ],
)
def test_wrong_use_is_one_line(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = {"TREE": str(tree(tmp_path / "linux")), "EMPTY": str(tmp_path)}
    assert cli.main(["build", *(places.get(word, word) for word in words)]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pinpoint: ")]
    assert len(errors) == 1


def test_a_tree_takes_the_vms_configuration_and_machine(tmp_path: Path) -> None:
    own = tree(tmp_path / "linux")
    found = GivenKernel((own,)).recipe_with_kernel(["x86_64-fsections"])
    base = load_all()["x86_64-fsections"]
    assert (found.kernel.source, found.kernel.tree) == ("tree", str(own))
    # Other versions have no options of these names, or others.
    assert {"ibt", "sls"} <= set(base.kernel.config)
    assert found.kernel.config == tuple(name for name in base.kernel.config if name not in ("ibt", "sls"))
    assert (found.name, found.machine) == (base.name, base.machine)
    assert not found.kernel.patches
    # A VM of a packaged kernel has no configuration: that of another VM of the architecture is taken.
    assert GivenKernel((own,)).recipe_with_kernel(["x86_64-debian"]).kernel.config == found.kernel.config


@pytest.mark.parametrize(("machine", "name"), [("x86_64", "x86_64-debian"), ("parisc", "parisc")])
def test_a_tree_without_a_vm_is_for_the_hosts_architecture(
    machine: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert GivenKernel((tree(tmp_path / "linux"),)).recipe_with_kernel(()).name == name


@pytest.mark.parametrize(
    ("machine", "wrong"),
    [
        # No recipe of arm64 has a configuration; the message shows that the host was recognized.
        ("aarch64", "no VM of arm64 has a kernel configuration"),
        ("riscv64", "no VM is of riscv64; name one with --vm"),
    ],
)
def test_a_host_without_a_vm_that_suits_a_tree_is_one_line(
    machine: str, wrong: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(UsageError, match=wrong):
        GivenKernel((tree(tmp_path / "linux"),)).recipe_with_kernel(())


def test_a_given_recipe_replaces_the_vms_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(vm_recipe._REPLACEMENT, "")
    monkeypatch.setenv(vm_recipe._OPTIONS, "")
    base = select(["parisc"])[0]
    given = base.model_copy(update={"describe": "mine", "traits": Traits(kprobes=True)})
    replace_in_this_run(given, ["--kernel=/my linux"])
    assert select(["parisc"]) == [given]
    # A printed replay command names the kernel too.
    assert bundle.command(Path("/results/x")) == "./pinpoint repro /results/x '--kernel=/my linux'"
    assert select(["x86_64-debian"])[0].name == "x86_64-debian"
    printed = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
    assert vm_recipe._REPLACEMENT in printed


def test_traits_by_fragments_that_a_tree_is_built_without_are_not_lost() -> None:
    fsections, ibt = (load_all()[f"x86_64-{name}"] for name in ("fsections", "ibt"))
    for base, lost in ((fsections, []), (ibt, ["entry_landing_pad"])):
        traits = base.traits.model_copy(update={"entry_landing_pad": False})
        kernel = base.kernel.model_copy(update={"source": "tree", "tree": "/linux"})
        assert lost_traits(base, base.model_copy(update={"kernel": kernel, "traits": traits})) == lost
        assert lost_traits(base, base.model_copy(update={"traits": traits})) == ["entry_landing_pad"]


def test_traits_by_cflags_are_not_lost() -> None:
    base = load_all()["x86_64-fsections"]
    kernel = base.kernel.model_copy(update={"source": "tree", "tree": "/linux", "cflags": ""})
    traits = base.traits.model_copy(update={"kernel_function_sections": False, "cold_halves": False})
    tree: Recipe = base.model_copy(update={"kernel": kernel, "traits": traits})
    assert lost_traits(base, tree) == ["cold_halves"]
    built = kernel.model_copy(update={"source": "given", "tree": "", "given": ("/linux-image.deb",)})
    packages: Recipe = tree.model_copy(update={"kernel": built})
    assert lost_traits(base, packages) == ["kernel_function_sections", "cold_halves"]


def test_lost_traits_are_those_that_only_the_vm_has() -> None:
    base = load_all()["x86_64-debian"]
    given: Recipe = base.model_copy(update={"traits": Traits(kprobes=True, kaslr=True, uprobes=True)})
    assert lost_traits(base, given) == [
        "optimized_kprobes",
        "jumps_displace_instructions",
        "ftrace_kprobes",
        "data_symbols",
        "cold_halves",
        "livepatch",
        "programs_32bit",
    ]
