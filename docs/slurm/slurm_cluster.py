"""Start a Dask scheduler, and workers for Pinpoint as jobs of Slurm, until it is interrupted (docs/hosts.md).

It runs in Pinpoint's environment, whose Python is the first word of each job:

    PYTHONPATH=PINPOINT:DASK:JOBQUEUE ENVIRONMENT/bin/python -P slurm_cluster.py ADDRESS TLS JOBS CORES GIB
"""

import os
import signal
import sys

from dask_jobqueue import SLURMCluster
from distributed import Security

address, tls, jobs, cores, gib = sys.argv[1:]
files = {"tls_ca_file": f"{tls}/ca.pem"}
for role in ("scheduler", "worker", "client"):
    files |= {f"tls_{role}_cert": f"{tls}/cert.pem", f"tls_{role}_key": f"{tls}/key.pem"}
# Two threads for each core and two more, because the processes of rows share cores, and images arrive meanwhile.
threads = str(2 * int(cores) + 2)
cluster = SLURMCluster(
    cores=int(cores),
    processes=1,
    memory=f"{gib}GiB",
    nanny=False,
    security=Security(require_encryption=True, **files),
    python=sys.executable,
    job_script_prologue=[f"export PYTHONPATH={os.environ['PYTHONPATH']}"],
    # The words become a line of a shell script.
    worker_extra_args=["--resources", f"'core={cores} gib={gib}'", "--memory-limit", "0", "--nthreads", threads],
    scheduler_options={"host": address, "port": 8786, "dashboard": False, "dashboard_address": f"{address}:0"},
)
cluster.scale(jobs=int(jobs))
print(cluster.scheduler_address, flush=True)
signal.pause()
