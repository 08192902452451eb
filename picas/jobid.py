"""Which job of which batch system runs this process, as the environment tells."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from os import environ
from pathlib import Path
from typing import Any

JOB_ID_FIELDS = (
    "dirac_job_id",
    "wms_job_id",
    "cream_job_id",
    "pbs_job_id",
    "slurm_job_id",
    "condor_job_id",
    "lsf_job_id",
    "sge_job_id",
)


def add_job_id(doc: MutableMapping[str, Any]) -> None:
    """Write the id of the job that runs this process into a token; nothing outside a job.

    Batch systems are layered (DIRAC starts a pilot through HTCondor, which starts it through Slurm): only the id of
    the highest layer is written, in a field of that layer's name.
    """
    found = _find_job_id(environ)
    if found is not None:
        field, job_id = found
        doc[field] = job_id


def remove_job_id(doc: MutableMapping[str, Any]) -> None:
    """Remove the job ids of all batch systems from a token."""
    for field in JOB_ID_FIELDS:
        if field in doc:
            del doc[field]


def job_id_of(doc: Mapping[str, Any]) -> str:
    """Return the job id that a token carries, '' if it carries none."""
    return next((str(doc[field]) for field in JOB_ID_FIELDS if doc.get(field)), "")


def _find_job_id(env: Mapping[str, str]) -> tuple[str, str | None] | None:
    """Return the token's field and the job id of the highest layer, None outside a job."""
    if _get(env, "DIRACJOBID"):
        return "dirac_job_id", _get(env, "DIRACJOBID")
    if _get(env, "JOBID") and _get(env, "DIRACSITE"):  # DIRAC 9 sets no DIRACJOBID, and others use JOBID too
        return "dirac_job_id", _get(env, "JOBID")
    if _get(env, "GLITE_WMS_JOBID"):
        job_id = _get(env, "GLITE_WMS_JOBID")
        return "wms_job_id", job_id if job_id.startswith("http") else None
    if _get(env, "CREAM_JOBID"):
        return "cream_job_id", _get(env, "CREAM_JOBID")
    if _get(env, "PBS_JOBID"):
        return "pbs_job_id", _pbs_job_id(env)
    if _get(env, "SLURM_ARRAY_JOB_ID") and _get(env, "SLURM_ARRAY_TASK_ID"):
        return "slurm_job_id", f"{_get(env, 'SLURM_ARRAY_JOB_ID')}_{_get(env, 'SLURM_ARRAY_TASK_ID')}"
    if _get(env, "SLURM_JOB_ID") or _get(env, "SLURM_ARRAY_JOB_ID"):
        return "slurm_job_id", _get(env, "SLURM_JOB_ID") or _get(env, "SLURM_ARRAY_JOB_ID")
    condor = job_ad(env)
    if "ClusterId" in condor:
        return "condor_job_id", f"{condor['ClusterId']}.{condor.get('ProcId', 0)}"
    if _get(env, "LSB_JOBID"):
        index = _get(env, "LSB_JOBINDEX")  # "0" outside an array
        job_id = _get(env, "LSB_JOBID")
        return "lsf_job_id", f"{job_id}[{index}]" if index not in ("", "0") else job_id
    if _get(env, "JOB_ID") and (_get(env, "SGE_TASK_ID") or _get(env, "SGE_ROOT")):
        task = _get(env, "SGE_TASK_ID")  # "undefined" outside an array
        job_id = _get(env, "JOB_ID")
        return "sge_job_id", f"{job_id}.{task}" if task not in ("", "undefined") else job_id
    return None


def _get(env: Mapping[str, str], name: str) -> str:
    return env.get(name, "").strip()


def _pbs_job_id(env: Mapping[str, str]) -> str:
    """Return PBS_JOBID, with the index of a job array in it ("12[3].server") also where the server leaves it out."""
    job_id = _get(env, "PBS_JOBID")
    index = _get(env, "PBS_ARRAY_INDEX") or _get(env, "PBS_ARRAYID")  # PBS Pro and OpenPBS; Torque
    if not index or "[" in job_id:
        return job_id
    number, dot, server = job_id.partition(".")
    return f"{number}[{index}]{dot}{server}"


def job_ad(env: Mapping[str, str] = environ) -> dict[str, int]:
    """Return the whole numbers in the file in which HTCondor describes a job to it; none if there is no file."""
    path = _get(env, "_CONDOR_JOB_AD")
    if not path:
        return {}
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return {name: int(number) for name, number in re.findall(r"^(\w+)\s*=\s*(\d+)\s*$", text, re.MULTILINE)}
