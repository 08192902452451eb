"""Runs programs with HyperQueue; `programs.py` starts it with a Python in which `hyperqueue` is installed.

    hyperqueue_tasks.py FOLDER CORES TASKS

It prints a line of JSON with the seconds from the submission of the tasks to the end of the last.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

WARM_UP = 20


def run_tasks(cluster: LocalCluster, tasks: int, stamp: Path) -> float:
    """Run tasks and return the seconds that they took.

    The client looks once a second whether a job has ended. So one more task, which comes last, writes a file.
    """
    job = Job()
    for _ in range(tasks):
        job.program(["true"], stdout=None, stderr=None)
    job.program(["touch", str(stamp)], stdout=None, stderr=None, priority=-1)
    client = cluster.client()
    begin = time.time()
    client.wait_for_jobs([client.submit(job)])
    return stamp.stat().st_mtime - begin


def main() -> None:
    """Start a cluster in a folder, run the tasks, and print the result."""
    folder, cores, tasks = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    with LocalCluster(str(folder), WorkerConfig(cores=cores)) as cluster:
        run_tasks(cluster, WARM_UP, folder / "warm")
        seconds = run_tasks(cluster, tasks, folder / "end")
    print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
