"""A short chaos run: nothing is lost, done twice or left over. Long runs are started by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[1] / "chaos" / "run.py"


@pytest.mark.timing
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the search for processes that are left needs /proc")
def test_nothing_is_lost_while_everything_breaks(tmp_path):
    report = tmp_path / "report.json"
    command = [sys.executable, RUN, "--pilots", "4", "--tokens", "70", "--seconds", "30", "--json", report]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    result = json.loads(report.read_text())
    assert [result[wrong] for wrong in ("duplicates", "lost", "conflicts", "processes")] == [[]] * 4
    assert result["done"] + result["failed"] == result["tokens"] > 300
    assert result["ahead"] > 1
    assert result["killed"] + result["stopped"] + result["cut"] + result["babbled"] + result["sick"] > 15
