"""The floor: QEMU with the same kernel file and an init that powers off at once. No boot can be faster."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.bench.interleave import Measure
from harness.core import process
from harness.core.deadline import Deadline
from harness.core.errors import HostError
from harness.guest import qemu
from harness.guest.accelerator import Accelerator, choose, cpu_model
from harness.images import rootfs
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.verdict.printk import without_control_codes

_MARKER = "pinpoint: floor"
_INIT = f"#!/bin/busybox sh\necho '{_MARKER}'\nexec /bin/busybox poweroff -f\n"
_SECONDS = 300.0


def bare_kernel_measure(image: Image, build_context: BuildContext, scratch: Path) -> Measure:
    """Return the measure that boots the image's kernel bare.

    Its initial file system is made in `scratch` and holds the image's own busybox.
    """
    initrd = scratch / "floor.cpio"
    _pack(rootfs.obtain_userland(image.recipe, build_context).path / "root/bin/busybox", scratch / "floor", initrd)
    words = bare_kernel_argv(image, initrd, choose(image.recipe.architecture))

    def boot() -> float:
        done = process.run(words, deadline=Deadline.after(_SECONDS))
        # After a kernel panic QEMU exits with status 0 too.
        if done.rc or _MARKER not in done.output:
            last = without_control_codes(done.output).strip().rpartition("\n")[2]
            raise HostError(f"the bare kernel did not come to its end, status {done.rc}: {last}", where=words[0])
        return done.seconds

    return boot


def bare_kernel_argv(image: Image, initrd: Path, accelerator: Accelerator) -> Sequence[str]:
    """QEMU's command line: the machine of our guests without console, monitor, network and link to the harness.

    It ends when the guest powers off.
    """
    recipe = image.recipe
    machine = recipe.architecture.qemu_machine
    model = cpu_model(recipe.architecture, accelerator.name)
    return [
        *(machine.qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", machine.machine, "-accel", accelerator.name),
        *(("-cpu", model) if model else ()),
        *("-smp", str(recipe.machine.cpus), "-m", f"{recipe.machine.memory_mib}M"),
        *("-kernel", str(image.kernel), "-initrd", str(initrd), "-append", qemu.kernel_arguments(recipe)),
        *machine.serial_ports("stdio"),
    ]


def _pack(busybox: Path, root: Path, initrd: Path) -> None:
    (root / "bin").mkdir(parents=True)
    # The kernel makes the console and the other files in /dev itself if the directory exists.
    (root / "dev").mkdir()
    shutil.copyfile(busybox, root / "bin/busybox")
    (root / "init").write_text(_INIT)
    for program in (root / "bin/busybox", root / "init"):
        program.chmod(0o755)
    rootfs.pack(root, initrd)
