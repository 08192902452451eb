"""The benchmarks run; their results are not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def measure(location, tmp_path):
    """Run a benchmark on the tests' server and return the rows of its table."""
    parts = urlsplit(location.url)
    user = f"{quote(location.username, safe='')}:{quote(location.password, safe='')}"
    url = f"{parts.scheme}://{user}@{parts.netloc}"

    def measure(name, *arguments):
        results = tmp_path / "results.json"
        command = [sys.executable, BENCHMARKS / name, "--url", url, "--json", results, *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert ran.returncode == 0, ran.stderr
        assert location.password not in ran.stdout + ran.stderr + results.read_text(encoding="utf-8")
        return json.loads(results.read_text(encoding="utf-8"))["results"]

    return measure


@pytest.mark.parametrize("options", [[], ["--slots", "4", "--logs"], ["--claim-ahead", "1"]])
def test_claiming(measure, options):
    rows = measure("claim.py", "--pilots", "1", "3", "--tokens", "30", "--repeat", "1", "--conflicts", *options)
    assert [row["pilots"] for row in rows] == [1, 3]
    for row in rows:
        assert row["tokens/s"] > 0
        assert row["pilot ms/token"] > 0
        assert (row["processed"], row["distinct"], row["twice"], row["left"]) == (30, 30, 0, 0)
        assert (row["crashed"], row["conflicts"], row["missing"]) == (0, 0, 0)


def test_claiming_a_share_of_a_larger_pool(measure):
    (row,) = measure("claim.py", "--pilots", "2", "--tokens", "10", "--repeat", "1", "--backlog", "20", "--done", "5")
    assert (row["processed"], row["distinct"]) == (10, 10)


def test_programs(measure):
    few = ["--tokens", "10", "--script-tokens", "5", "--sleeps", "1", "--threads", "2", "--seconds", "0.1"]
    rows = measure("programs.py", "--repeat", "1", "--against", sys.executable, *few)
    assert [(row["part"], row["who"], row["slots"]) for row in rows] == [
        ("start", "subprocess.run", 2),
        ("start", "run_command", 2),
        ("start", "execute", 2),
        ("pilot", "ours", 1),
        ("pilot", "ours", 16),
        ("script", "ours", 1),
        ("script", "against", 1),
        ("sleep", "subprocess.run", 16),
        ("sleep", "local-example.py", 16),
    ]
    assert all(row["programs/s"] > 0 for row in rows)


def test_the_upper_bound(measure):
    (row,) = measure("bound.py", "--connections", "2", "--tokens", "20", "--repeat", "1")
    assert row["tokens/s"] > 0


def test_pushing(measure):
    rows = measure("push.py", "--tokens", "200")
    assert [row["who"] for row in rows] == ["_bulk_docs", "push_file"]
    assert all(row["tokens/s"] > 0 for row in rows)


def test_bulk_changes(measure):
    rows = measure("bulk.py", "--tokens", "200", "--connections", "2")
    assert [(row["what"], row["who"]) for row in rows] == [
        ("reset", "_bulk_docs"), ("reset", "picas"), ("delete", "_bulk_docs"), ("delete", "picas"),
    ]  # fmt: skip
    assert all(row["tokens/s"] > 0 for row in rows)


def test_waiting_prints_its_options():
    """Only `--help`: a run takes a minute, since its pilots must become idle first."""
    ran = subprocess.run(
        [sys.executable, BENCHMARKS / "idle.py", "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "--pilots" in ran.stdout


def test_living(measure):
    (row,) = measure("beats.py", "--pilots", "20", "--seconds", "0.5", "--heartbeat", "0.2", "--lease", "1")
    assert (row["pilots"], row["seconds"]) == (20, 0.5)


def test_a_crowd(measure):
    few = ["--pilots", "5", "--token-seconds", "0.1", "--stretch", "2", "--seconds", "1", "--backlog", "5"]
    (row,) = measure("crowd.py", *few)
    assert row["tokens/s"] > 0
    assert len(row["waits"]) == 5
    assert all(0 <= share <= 1 for share in row["waits"])
    assert row["crashed"] == 0, row["errors"]
