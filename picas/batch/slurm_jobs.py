"""The queue of Slurm: which jobs are in it (squeue), and how more are submitted (sbatch)."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from typing import NamedTuple

from .base import (
    Granted,
    Jobs,
    JobTemplate,
    LimitReached,
    NoAnswer,
    Scheduler,
    SchedulerError,
    Submitted,
    error_line,
    run_command,
)
from .slurm_options import clusters_of, granted_by, output_path

WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD"})
AT_WORK = frozenset({"RUNNING", "SUSPENDED", "STOPPED", "RESIZING"})
"""The states of jobs that have not ended, see squeue(1), "JOB STATE CODES"."""

HELD = re.compile(r"JobHeld|JobHoldMaxRequeue|launch.failed.requeued.held|DependencyNeverSatisfied")
"""The reasons for which one job does not start until a person does something, see squeue(1), "JOB REASON CODES"."""
CLOSED = re.compile(
    r"Partition(Down|Inactive|NodeLimit|TimeLimit|Config)|BadConstraints|Invalid(Account|QOS)|AccountNotAllowed"
    r"|QOSNotAllowed|ReqNodeNotAvail|Nodes.?Down|Nodes required for job are DOWN|Reservation(Deleted|Invalid)"
)
"""The reasons for which no job with the same options starts either."""

LIMIT = re.compile(
    r"array specification|submit limit|rate limit|SubmitJob|violates accounting|temporarily unable|queue full|too many",
    re.IGNORECASE,
)
"""What sbatch says if fewer jobs may be accepted: MaxArraySize, MaxJobCount, or a limit of an association or QOS."""
RETRIES = re.compile(r"sleeping and retrying")
"""What sbatch says if the controller has no room for the jobs: it then tries for minutes to submit as many."""
MAX_ARRAYS = 20
"""The most arrays that are submitted at a time if the jobs do not fit into one."""
SUBMIT_TIME = 60.0
"""Seconds after which no further array is submitted."""

_MARK = "picas|"
"""The beginning of each line of squeue that is meant for us: sites print banners."""
_FORMAT = _MARK + "%i|%T|%r|%j"
_JOB = "SLURM_JOB_ID"
_FROM_JOB = re.compile("SLURM_(?!CONF$|CLUSTERS$)")


class _Row(NamedTuple):
    """A job in the queue."""

    id: str
    state: str
    reason: str
    name: str


class SlurmQueue(Scheduler):
    """Lists and submits jobs."""

    def jobs(self, name: str) -> Jobs:
        """See `Scheduler.jobs`."""
        return _sort(_list_jobs({name}))

    def place(self) -> str:
        """See `Scheduler.place`: the user and the cluster."""
        said = run_command(["scontrol", "show", "config"])
        named = re.search(r"^ClusterName\s*=\s*(\S+)", said, re.MULTILINE)
        if named is None:
            raise SchedulerError(f"scontrol does not know the name of the cluster: {error_line(said) or 'no output'}")
        return f"{os.getuid()}.{named[1]}"

    def queue(self, templates: Sequence[JobTemplate]) -> list[Jobs | SchedulerError]:
        """See `Scheduler.queue`: squeue runs once for all templates, or once for each set of clusters they name."""
        clusters = [clusters_of(template) for template in templates]
        listed: dict[str, list[_Row] | SchedulerError] = {}
        failure: NoAnswer | None = None
        for each in dict.fromkeys(clusters):
            names = {template.name for template, where in zip(templates, clusters) if where == each}
            try:
                listed[each] = failure or _list_jobs(names, each)
            except NoAnswer as error:  # whoever asks again would wait as long
                listed[each] = failure = error
            except SchedulerError as error:
                listed[each] = error
        return [_choose(listed[where], template.name) for template, where in zip(templates, clusters)]

    def submit(self, name: str, count: int, script: str, arguments: Sequence[str], options: Sequence[str]) -> str:
        """See `Scheduler.submit`: the jobs are one job array."""
        command = ["sbatch", "--parsable", *options, f"--job-name={name}", f"--array=1-{count}", script, *arguments]
        environment = dict(os.environ)
        if _JOB in environment:
            # This process runs in a job (scrontab starts one, for example). New jobs must not inherit its resources.
            environment = {name: value for name, value in environment.items() if not _FROM_JOB.match(name)}
        said = run_command(command, environment, give_up=RETRIES)
        ids = re.findall(r"^(\d+)(?:;[\w.-]+)?\s*$", said, re.MULTILINE)  # the name of the cluster may follow
        if not ids:
            raise SchedulerError(f"sbatch has printed no job id: {error_line(said) or 'nothing'}")
        return str(ids[-1])

    def submit_jobs(self, template: JobTemplate, count: int) -> Submitted:
        """See `Scheduler.submit_jobs`: if Slurm refuses an array for its size, smaller ones are tried."""
        groups: list[tuple[str, int]] = []
        refusal = ""
        size, left, end = count, count, time.monotonic() + SUBMIT_TIME
        while left and size and len(groups) < MAX_ARRAYS and time.monotonic() < end:
            size = min(size, left)
            try:
                id = self.submit(template.name, size, template.script, template.arguments, template.options)
            except SchedulerError as error:
                refusal = str(error)
                size = (size + 1) // 2 if size > 1 and LIMIT.search(refusal) else 0
            else:
                groups.append((id, size))
                left -= size
        if not groups:
            raise (LimitReached if LIMIT.search(refusal) else SchedulerError)(refusal)
        return Submitted(tuple(groups), refusal)

    def granted(self, template: JobTemplate) -> Granted:
        """See `Scheduler.granted`: what the options of sbatch, its environment and the script say."""
        return granted_by(template, os.environ)

    def output_file(self, template: JobTemplate, job: str, folder: str) -> str:
        """See `Scheduler.output_file`: scontrol knows it for some minutes; later it follows from the options."""
        clusters = clusters_of(template)
        where = [f"--clusters={clusters}"] if clusters else []
        try:
            said = run_command(["scontrol", *where, "show", "job", job])
        except SchedulerError:
            said = ""
        named = re.search(r"^\s*StdOut=(\S.*)$", said, re.MULTILINE)
        return named[1] if named else output_path(template, job, folder, os.environ)


def _list_jobs(names: set[str], clusters: str = "") -> list[_Row]:
    """Return this user's jobs with some names.

    :raises SchedulerError: if squeue fails
    """
    owner = f"--user={os.getuid()}"  # the user may have no name on this node
    chosen = f"--name={','.join(sorted(names))}"
    where = [f"--clusters={clusters}"] if clusters else []
    # With --all, jobs in hidden partitions are listed too.
    listed = run_command(["squeue", "--noheader", "--all", "--array", owner, chosen, *where, f"--format={_FORMAT}"])
    lines = [line.strip() for line in listed.splitlines()]
    return [_Row(*line[len(_MARK) :].split("|", 3)) for line in lines if re.match(r"picas(\|[^|]*){3}\|", line)]


def _choose(listed: list[_Row] | SchedulerError, name: str) -> Jobs | SchedulerError:
    return listed if isinstance(listed, SchedulerError) else _sort([row for row in listed if row.name == name])


def _sort(rows: Sequence[_Row]) -> Jobs:
    """Return jobs by their states."""
    pending = [row for row in rows if row.state in WAITING]
    closed = next((row.reason for row in pending if CLOSED.match(row.reason)), "")
    return Jobs(
        frozenset(row.id for row in pending),
        frozenset(row.id for row in rows if row.state in AT_WORK),
        {row.id: row.reason for row in pending if HELD.match(row.reason) or CLOSED.match(row.reason)},
        closed,
    )
