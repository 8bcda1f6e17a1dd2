"""The cluster of a run: that of `--scheduler`, or one made for the run, of the hosts of `--hosts`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import HostError, UsageError
from harness.images import given_kernel_parts, own_tree_modules
from harness.images.vm_recipe import Recipe
from harness.matrix.hosts import dask_packages, hosts_file
from harness.matrix.hosts.cluster import CONNECT_SECONDS, Cluster

if TYPE_CHECKING:
    from harness.matrix.controller_run import ControllerRun


def connect(option: argparse.Namespace, controller: ControllerRun) -> Cluster:
    """Connect to the hosts that the options name. Raises UsageError and HostError, each one line."""
    if option.scheduler and option.pinpoint_hosts:
        raise UsageError("--hosts starts a scheduler of its own, --scheduler names one", mend="give one of them")
    where = "--hosts" if option.pinpoint_hosts else "--scheduler"
    for recipe in controller.recipes.values():
        _demand_own_modules_build_on_hosts(recipe, where)
    return _start_hosts(option, controller) if option.pinpoint_hosts else _join_cluster(option, controller)


def _demand_own_modules_build_on_hosts(recipe: Recipe, where: str) -> None:
    """Raise UsageError if hosts would need headers that do not travel, to build the modules of the own tree."""
    kernel = recipe.kernel
    travels = kernel.source == "given" and all(map(given_kernel_parts.is_package, map(Path, kernel.given)))
    if kernel.source in ("tree", "given") and not travels and own_tree_modules.source_directories():
        what = "each host builds the modules of --project, and would need the headers of this kernel, which stay here"
        raise UsageError(what, where=where, mend=f"give the kernel's packages to --kernel, or run without {where}")


def _start_hosts(option: argparse.Namespace, controller: ControllerRun) -> Cluster:
    entries = hosts_file.read(Path(option.pinpoint_hosts))
    dask_packages.make_importable()
    from harness.matrix.hosts.ssh_hosts import SshHosts

    hosts = SshHosts(entries, controller.directory.path / "hosts", controller.bus)
    try:
        return Cluster(hosts.start(), controller, hosts.close)
    except BaseException:
        hosts.close()
        raise


def _join_cluster(option: argparse.Namespace, controller: ControllerRun) -> Cluster:
    address, directory = option.scheduler, Path(option.scheduler_tls or "")
    if not address.startswith("tls://"):
        mend = "start the scheduler with TLS: docs/hosts.md"
        raise UsageError(f"{address[:60]!r} is not protected by TLS", where="--scheduler", mend=mend)
    files = {name: directory / f"{name}.pem" for name in ("ca", "cert", "key")}
    for file in files.values():
        if not option.scheduler_tls or not file.is_file():
            raise UsageError(f"{file} is missing", where="--scheduler-tls", mend="see docs/hosts.md")
    dask_packages.make_importable()
    from distributed import Client, Security

    security = Security(
        tls_ca_file=str(files["ca"]),
        tls_client_cert=str(files["cert"]),
        tls_client_key=str(files["key"]),
        require_encryption=True,
    )
    try:
        client: Any = Client(address, security=security, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError) as error:
        mend = "check the address and the certificates"
        raise HostError(f"cannot be reached: {error}", where=address, mend=mend) from None
    return Cluster(client, controller)
