"""QEMU's command line has what every guest needs, whatever its recipe."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from harness.core.architecture_table import ARCHITECTURES
from harness.guest.accelerator import Accelerator
from harness.guest.qemu import QemuFiles, argv, kernel_arguments
from harness.images.machine_options import MachineOptions
from harness.images.vm_recipe import Kernel, Recipe

TCG = Accelerator("tcg", "a test")
KVM = Accelerator("kvm", "a test")
WIRING = QemuFiles(console_descriptor=7, monitor_descriptor=9, kernel=Path("/k"), initrd=Path("/i"))


def recipe(architecture: str, machine: MachineOptions | None = None) -> Recipe:
    kernel = Kernel(source="debian-binary", package="linux-image")
    return Recipe(name="a-vm", arch=architecture, describe="", kernel=kernel, machine=machine or MachineOptions())


def value(words: list[str], option: str) -> str:
    """Return the value of an option that must be there exactly once."""
    assert words.count(option) == 1
    return words[words.index(option) + 1]


def values(words: list[str], option: str) -> list[str]:
    return [after for word, after in itertools.pairwise(words) if word == option]


@pytest.fixture(params=sorted(ARCHITECTURES))
def words(request: pytest.FixtureRequest) -> list[str]:
    return argv(recipe(request.param), TCG, WIRING)


def test_nothing_but_what_is_asked_for(words: list[str]) -> None:
    assert {"-nodefaults", "-no-user-config"} <= set(words)
    assert value(words, "-display") == "none"


def test_the_guest_reaches_no_network_and_only_loopback_reaches_it(words: list[str]) -> None:
    network = value(words, "-netdev").split(",")
    assert "restrict=on" in network
    assert [part for part in network if part.startswith("hostfwd=")] == ["hostfwd=tcp:127.0.0.1:0-:22"]
    assert not any("server=on" in word or "listen" in word for word in words)


def test_it_is_confined(words: list[str]) -> None:
    confinement = value(words, "-sandbox").split(",")
    assert confinement[0] == "on"
    assert {"spawn=deny", "elevateprivileges=deny", "resourcecontrol=deny"} <= set(confinement)


def test_a_stopped_guest_can_still_be_examined(words: list[str]) -> None:
    assert {"-no-reboot", "-no-shutdown"} <= set(words)
    assert "-S" in words
    assert "panic=-1" in value(words, "-append").split()


def test_console_is_on_our_socket_and_qemu_writes_no_file(words: list[str]) -> None:
    console = next(value for value in values(words, "-chardev") if "id=console" in value).split(",")
    assert set(console) == {"socket", "id=console", "fd=7"}
    assert not any("logfile" in word for word in words)
    *before, connected = values(words, "-serial")
    assert connected == "chardev:console"
    assert set(before) <= {"null"}


def test_monitor_uses_qmp_on_our_socket(words: list[str]) -> None:
    assert "socket,id=monitor,fd=9" in values(words, "-chardev")
    assert value(words, "-mon") == "chardev=monitor,mode=control"


def test_every_device_has_its_backend(words: list[str]) -> None:
    assert any("netdev=net" in device.split(",") for device in values(words, "-device"))
    assert value(words, "-netdev").startswith("user,id=net,")


def test_x86_64_in_full() -> None:
    machine = MachineOptions(memory_mib=768, cpus=2, append="nokaslr quiet")
    x86 = ARCHITECTURES["x86_64"].qemu_machine
    words = argv(recipe("x86_64", machine), TCG, WIRING)
    assert words[0] == x86.qemu
    assert value(words, "-machine") == x86.machine
    assert value(words, "-cpu") == x86.cpu
    assert (value(words, "-accel"), value(words, "-smp"), value(words, "-m")) == ("tcg", "2", "768M")
    assert (value(words, "-kernel"), value(words, "-initrd")) == ("/k", "/i")
    assert value(words, "-append").startswith("console=ttyS0 ")
    assert value(words, "-append").endswith(" nokaslr quiet loglevel=5 printk.time=1")


def test_only_a_card_that_can_have_a_boot_rom_is_told_to_have_none() -> None:
    assert "virtio-net-pci,netdev=net,romfile=" in values(argv(recipe("x86_64"), TCG, WIRING), "-device")
    assert "virtio-net-ccw,netdev=net" in values(argv(recipe("s390x"), TCG, WIRING), "-device")


def test_kvm_gets_the_hosts_cpu() -> None:
    assert value(argv(recipe("x86_64"), KVM, WIRING), "-cpu") == "host"
    assert value(argv(recipe("arm64", MachineOptions(cpu="cortex-a76")), KVM, WIRING), "-cpu") == "host"


def test_a_recipe_names_another_cpu_than_its_architecture() -> None:
    assert value(argv(recipe("arm64"), TCG, WIRING), "-cpu") == "cortex-a57"
    assert value(argv(recipe("arm64", MachineOptions(cpu="cortex-a76")), TCG, WIRING), "-cpu") == "cortex-a76"


def test_a_machine_with_one_cpu_model_is_not_asked_for_another() -> None:
    assert "-cpu" not in argv(recipe("parisc"), TCG, WIRING)


def test_the_recipe_has_the_last_word() -> None:
    arguments = kernel_arguments(recipe("parisc", MachineOptions(append="loglevel=7"))).split()
    assert [word for word in arguments if word.startswith("loglevel=")] == ["loglevel=5", "loglevel=7"]


@pytest.mark.parametrize("hidden", ["quiet", "loglevel=4", "loglevel=7 quiet", "quiet loglevel=2", "loglevel=off"])
def test_a_recipe_cannot_hide_warnings_from_the_console(hidden: str) -> None:
    arguments = kernel_arguments(recipe("x86_64", MachineOptions(append=hidden))).split()
    assert arguments[-2:] == ["loglevel=5", "printk.time=1"]


def test_a_recipe_cannot_take_the_times_away() -> None:
    arguments = kernel_arguments(recipe("x86_64", MachineOptions(append="printk.time=0"))).split()
    assert arguments.index("printk.time=0") < arguments.index("printk.time=1")


def test_a_disk_is_there_only_where_one_is_given_and_nobody_writes_to_it(words: list[str]) -> None:
    assert "-blockdev" not in words
    with_disk = argv(recipe("x86_64"), TCG, replace(WIRING, disk=Path("/store/a,b/tools")))
    options = value(with_disk, "-blockdev").split(",")
    assert "read-only=on" in options
    assert value(with_disk, "-blockdev").endswith("file.filename=/store/a,,b/tools")
    assert "virtio-blk-pci,drive=disk" in values(with_disk, "-device")
