"""The job ids of tokens, for each batch system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from picas import Task
from picas import jobid as module
from picas.jobid import JOB_ID_FIELDS, add_job_id, job_id_of, remove_job_id

DIRAC = {"DIRACJOBID": "1001"}
DIRAC_9 = {"JOBID": "1009", "DIRACSITE": "LCG.SURF.nl"}
WMS = {"GLITE_WMS_JOBID": "https://wms.example.org/xyz"}
CREAM = {"CREAM_JOBID": "CREAM123"}
PBS = {"PBS_JOBID": "12.server"}
SLURM_ARRAY = {"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "7", "SLURM_JOB_ID": "40"}
SLURM = {"SLURM_JOB_ID": "50"}
LSF = {"LSB_JOBID": "60", "LSB_JOBINDEX": "0"}
SGE = {"JOB_ID": "70", "SGE_TASK_ID": "undefined"}


def added(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> dict[str, Any]:
    monkeypatch.setattr(module, "environ", environment)
    token: dict[str, Any] = {}
    add_job_id(token)
    return token


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {}),
        (DIRAC, {"dirac_job_id": "1001"}),
        (DIRAC_9, {"dirac_job_id": "1009"}),
        (WMS, {"wms_job_id": "https://wms.example.org/xyz"}),
        ({"GLITE_WMS_JOBID": "none of ours"}, {"wms_job_id": None}),
        (CREAM, {"cream_job_id": "CREAM123"}),
        (PBS, {"pbs_job_id": "12.server"}),
        (SLURM_ARRAY, {"slurm_job_id": "40_7"}),
        (SLURM, {"slurm_job_id": "50"}),
        (LSF, {"lsf_job_id": "60"}),
        ({"LSB_JOBID": "60", "LSB_JOBINDEX": "3"}, {"lsf_job_id": "60[3]"}),
        (SGE, {"sge_job_id": "70"}),
        ({"JOB_ID": "70", "SGE_TASK_ID": "4"}, {"sge_job_id": "70.4"}),
        ({"PBS_JOBID": "12.server", "PBS_ARRAY_INDEX": "3"}, {"pbs_job_id": "12[3].server"}),
        ({"PBS_JOBID": "12.server", "PBS_ARRAYID": "3"}, {"pbs_job_id": "12[3].server"}),
        ({"PBS_JOBID": "12[3].server", "PBS_ARRAY_INDEX": "3"}, {"pbs_job_id": "12[3].server"}),
        ({"SLURM_JOB_ID": " 50\n"}, {"slurm_job_id": "50"}),
    ],
)
def test_the_id_of_each_batch_system(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: dict[str, Any]
) -> None:
    assert added(monkeypatch, environment) == expected


def test_the_highest_layer_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [DIRAC, DIRAC_9, WMS, CREAM, PBS, SLURM_ARRAY, SLURM, LSF, SGE]
    for position, layer in enumerate(layers):
        below = {name: value for lower in reversed(layers[position:]) for name, value in lower.items()}
        assert added(monkeypatch, below) == added(monkeypatch, layer)


@pytest.mark.parametrize(
    "environment",
    [
        {"JOBID": "5"},  # other systems also use JOBID
        {"DIRACSITE": "LCG.SURF.nl"},
        {"DIRACJOBID": ""},
        {"SLURM_ARRAY_TASK_ID": "3"},
        {"JOB_ID": "5"},
        {"SGE_TASK_ID": "3"},
        {"LSB_JOBINDEX": "3"},
        {"PBS_ARRAY_INDEX": "3"},
        {"_CONDOR_JOB_AD": "/there/is/no/such/file"},
    ],
)
def test_an_incomplete_environment_gives_no_id_and_no_error(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    assert added(monkeypatch, environment) == {}


def test_a_slurm_array_without_a_task_number_has_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    assert added(monkeypatch, {"SLURM_ARRAY_JOB_ID": "40"}) == {"slurm_job_id": "40"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('ClusterId = 81\nProcId = 4\nOwner = "me"\n', {"condor_job_id": "81.4"}),
        ("ClusterId = 81\n", {"condor_job_id": "81.0"}),
        ("ProcId = 4\n", {}),
        ("\udcff not an ad", {}),
    ],
)
def test_htcondor_writes_the_id_to_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, expected: dict[str, str]
) -> None:
    job_ad = tmp_path / ".job.ad"
    job_ad.write_text(text, encoding="utf-8", errors="surrogateescape")
    assert added(monkeypatch, {"_CONDOR_JOB_AD": str(job_ad)}) == expected


@pytest.mark.parametrize("kind", [dict, Task])
def test_remove_job_id_removes_all_job_ids_and_nothing_else(kind: Any) -> None:
    token = kind({**dict.fromkeys(JOB_ID_FIELDS, "1"), "_id": "t", "my_job_id": "mine"})
    remove_job_id(token)
    assert not set(JOB_ID_FIELDS) & set(token)
    assert token["my_job_id"] == "mine"
    remove_job_id(token)  # does nothing without job ids


def test_the_ids_of_older_releases_keep_their_fields() -> None:
    older = ("dirac_job_id", "wms_job_id", "cream_job_id", "pbs_job_id", "slurm_job_id")
    assert (*older, "condor_job_id", "lsf_job_id", "sge_job_id") == JOB_ID_FIELDS


def test_the_job_id_of_a_token_is_a_string() -> None:
    assert job_id_of({"slurm_job_id": 12}) == "12"
    assert job_id_of({"wms_job_id": None}) == ""
    assert job_id_of({}) == ""
