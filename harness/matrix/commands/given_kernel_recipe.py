"""The option --kernel: the recipe for a kernel of the user's own, with the traits that the booted kernel has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core import paths
from harness.core.architecture_table import ARCHITECTURES, host_architecture_name
from harness.core.elf import Elf
from harness.core.errors import PinpointError, UsageError
from harness.core.files import write_text
from harness.guest import start
from harness.guest.accelerator import choose
from harness.guest.keys import RunKeys
from harness.guest.start import StartOptions
from harness.images import given_kernel, given_kernel_compiler, given_kernel_parts
from harness.images.build_context import BuildContext
from harness.images.kernel_config import demand_needed
from harness.images.prepare import kernel_config_of, prepare
from harness.images.vm_recipe import Kernel, Recipe, Traits, load_all, select
from harness.landing import prove_recipe_traits

_PVH = "CONFIG_PVH"
_UPROBES = "CONFIG_UPROBE_EVENTS"
# Traits that a VM has by kernel.cflags: each is a patched linker script and -ffunction-sections.
_BY_CFLAGS = ("kernel_function_sections",)
# Traits that a VM has by a fragment of kernel.config.
_BY_FRAGMENT = {"ibt": "entry_landing_pad"}


@dataclass(frozen=True)
class GivenKernel:
    """The kernel of one command: `kernel_paths` are the values of --kernel, `config_file` is that of --config."""

    kernel_paths: tuple[Path, ...]
    config_file: Path | None = None

    def recipe_with_kernel(self, vms: Sequence[str]) -> Recipe:
        """Return the VM's recipe with this kernel; its traits are still those of the VM.

        Without a VM it is the first of the kernel's architecture. Raises UsageError or RecipeError.
        """
        given_kernel.demand_paths_are_kernel_parts(self.kernel_paths)
        base = self._base(vms)
        tree = (
            self.kernel_paths[0]
            if len(self.kernel_paths) == 1 and (self.kernel_paths[0] / "Kbuild").is_file()
            else None
        )
        if tree and not given_kernel_parts.is_build_directory(tree):
            kernel = self._of_tree(base, tree)
        elif self.config_file:
            raise UsageError(
                "is for a source tree, not for a kernel that is built", where="--config", mend="leave it out"
            )
        else:
            given = tuple(str(path.resolve()) for path in self.kernel_paths)
            kernel = Kernel(source="given", given=given, suite=base.kernel.suite, compiler=base.kernel.compiler)
        described = f"{' '.join(str(path) for path in self.kernel_paths)}, on the machine of {base.name}"
        return base.model_copy(update={"kernel": kernel, "describe": described, "boot_noise": base.boot_noise})

    @property
    def command_line_options(self) -> list[str]:
        """The options that name this kernel, with whole paths."""
        config = [f"--config={self.config_file.resolve()}"] if self.config_file else []
        return [*(f"--kernel={path.resolve()}" for path in self.kernel_paths), *config]

    def _of_tree(self, base: Recipe, tree: Path) -> Kernel:
        if self.config_file:
            return Kernel(source="tree", tree=str(tree.resolve()), config_file=str(self.config_file.resolve()))
        others = [each for each in load_all().values() if each.arch == base.arch and each.tier == "core"]
        configured = next((each.kernel for each in (base, *others) if each.kernel.config), base.kernel)
        fragments = tuple(name for name in configured.config if name not in configured.not_for_trees)
        if not fragments:
            raise UsageError(
                f"no VM of {base.arch} has a kernel configuration", where=str(tree), mend="give one with --config FILE"
            )
        return Kernel(source="tree", tree=str(tree.resolve()), config=fragments)

    def _base(self, vms: Sequence[str]) -> Recipe:
        if len(vms) > 1 or (vms and "," in vms[0]):
            raise UsageError("--kernel is for one VM", where=",".join(vms), mend="name one with --vm")
        if vms:
            return select(vms)[0]
        arch = self._architecture()
        found = [recipe for recipe in load_all().values() if recipe.arch == arch and recipe.tier == "core"]
        if not found:
            raise UsageError(f"no VM is of {arch}", where=str(self.kernel_paths[0]), mend="name one with --vm")
        return next((recipe for recipe in found if recipe.kernel.source == "debian-binary"), found[0])

    def _architecture(self) -> str:
        """The architecture of a built vmlinux; else that of the host."""
        for path in self.kernel_paths:
            elf = path / "vmlinux" if path.is_dir() else path
            try:
                machine = Elf.read(elf).machine
            except (PinpointError, OSError):
                continue
            named = [each.name for each in ARCHITECTURES.values() if each.elf_machine == machine]
            if named:
                return named[0]
        return host_architecture_name()


def adapt_to_kernel_config(recipe: Recipe, context: BuildContext) -> Recipe:
    """Return the recipe with the boot way and the parts of user space that the kernel's configuration allows.

    The kernel is built or unpacked. Raises RecipeError if it lacks an option that every guest needs.
    """
    config = kernel_config_of(recipe, context)
    demand_needed(config, recipe.arch, " ".join(recipe.kernel.given) or recipe.kernel.tree)
    boot = recipe.machine.boot if config.get(_PVH) == "y" else "image"
    if boot == "pvh" and recipe.traits.kaslr:
        boot = "image"
    machine = recipe.machine.model_copy(update={"boot": boot})
    claimed = Traits(uprobes=config.get(_UPROBES) == "y" and recipe.traits.uprobes)
    kernel = given_kernel_compiler.with_compiler(recipe, config) if recipe.kernel.source == "given" else recipe.kernel
    return recipe.model_copy(update={"machine": machine, "traits": claimed, "kernel": kernel})


def with_booted_kernel_traits(recipe: Recipe, context: BuildContext, accelerator: str | None = None) -> Recipe:
    """Return the recipe with the traits that its booted kernel has; they are asked once for each image.

    Raises what building and booting raise.
    """
    settled = adapt_to_kernel_config(recipe, context)
    image = prepare(settled, context)
    kept = paths.cache() / "given" / f"{image.key}.json"
    if kept.is_file():
        return settled.model_copy(update={"traits": Traits(**json.loads(kept.read_text()))})
    log = paths.cache() / "logs" / f"given-{recipe.name}.log"
    options = StartOptions.for_image(
        image, log=log, keys=RunKeys.make(), bus=context.bus, forced_accelerator=accelerator
    )
    choose(recipe.architecture, accelerator)
    with start.boot(image, options) as guest, context.bus.step(recipe.name, "asking the kernel for its traits") as step:
        found = prove_recipe_traits.read_booted_traits(guest)
        step.set_final_detail(", ".join(name for name, has in found if has))
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_text(kept, found.model_dump_json())
    return settled.model_copy(update={"traits": found})


def lost_traits(base: Recipe, given: Recipe) -> list[str]:
    """Return the traits of the VM that the given kernel lacks; cells that need one are skipped.

    A tree is built without the VM's cflags and without `not_for_trees`, so what they cause is not lost.
    """
    caused: list[str] = []
    if given.kernel.source == "tree":
        caused += _BY_CFLAGS if base.kernel.cflags else ()
        caused += [trait for name, trait in _BY_FRAGMENT.items() if name in base.kernel.not_for_trees]
    return [name for name, has in base.traits if has and name not in caused and not getattr(given.traits, name)]
