"""The id of the batch job that runs this process, in a token."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from os import environ
from typing import Any

from .batch import JOB_ID_FIELDS, find_job_id

__all__ = ["JOB_ID_FIELDS", "add_job_id", "job_id_of", "remove_job_id"]


def add_job_id(doc: MutableMapping[str, Any]) -> None:
    """Write the id of the job that runs this process into a token; outside a job, change nothing.

    Batch systems are layered (DIRAC starts a pilot through HTCondor, which starts it through Slurm). Only the id of the
    highest layer is written, in the field of that layer.
    """
    found = find_job_id(environ)
    if found is not None:
        field, job_id = found
        doc[field] = job_id


def remove_job_id(doc: MutableMapping[str, Any]) -> None:
    """Remove the job ids of all batch systems from a token."""
    for field in JOB_ID_FIELDS:
        if field in doc:
            del doc[field]


def job_id_of(doc: Mapping[str, Any]) -> str:
    """Return the job id in a token, '' if it has none."""
    return next((str(doc[field]) for field in JOB_ID_FIELDS if doc.get(field)), "")
