"""What a machine has, and what Linux lets a process use of it."""

from __future__ import annotations

import os

import pytest

from picas.batch.machine import Machine, control_group_limits

MEGABYTE = 1 << 20


class TestProcessors:
    @pytest.fixture(autouse=True)
    def known_machine(self, machine):
        pass

    def test_are_those_that_this_process_may_use(self):
        assert Machine().cores({}) == 5

    def test_are_all_of_the_machine_where_there_are_no_affinities(self, monkeypatch):
        monkeypatch.delattr(os, "sched_getaffinity")
        assert Machine().cores({}) == 64


class TestControlGroups:
    """As Linux shows them: the groups of this process, and a folder for each with its limits."""

    @staticmethod
    def limits(tmp_path, lines, files):
        (tmp_path / "cgroup").write_text(lines)
        for name, text in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return list(control_group_limits(tmp_path / "cgroup", tmp_path / "fs"))

    def test_limit_the_job_and_all_that_contains_it(self, tmp_path):
        files = {
            "memory.max": "max\n",
            "slurm/memory.max": f"{8000 * MEGABYTE}\n",
            "slurm/job_7/memory.max": f"{2000 * MEGABYTE}\n",
            "slurm/job_8/memory.max": f"{1 * MEGABYTE}\n",
        }
        assert self.limits(tmp_path, "0::/slurm/job_7\n", files) == [2000, 8000]

    def test_of_version_1(self, tmp_path):
        files = {"memory/job_7/memory.limit_in_bytes": f"{2000 * MEGABYTE}\n"}
        lines = "3:cpu,cpuacct:/other\n2:memory:/job_7\n0::/\n"
        assert self.limits(tmp_path, lines, files) == [2000]

    def test_that_a_container_can_not_see_set_no_limit(self, tmp_path):
        assert self.limits(tmp_path, "0::/outside/this/container\n", {}) == []

    def test_that_do_not_exist_set_no_limit(self, tmp_path):
        assert list(control_group_limits(tmp_path / "none", tmp_path)) == []
