"""What a user's script meets when it starts: settings beside it, and a library that is quiet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import EXAMPLES, ROOT

SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "picasconfig.py")


def test_importing_the_library_says_nothing_and_installs_no_handler() -> None:
    code = "import logging, picas, picas.picaslogger; assert not logging.getLogger().handlers; "
    code += "assert not any(getattr(l, 'handlers', None) for n, l in logging.root.manager.loggerDict.items() "
    code += "if n.lower().startswith('picas'))"
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_picasconfig_beside_the_script_that_runs(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    settings = "PICAS_HOST_URL='http://h'\nPICAS_DATABASE='d'\nPICAS_USERNAME='u'\nPICAS_PASSWORD='p'"
    (folder / "picasconfig.py").write_text(settings, encoding="utf-8")
    (folder / "picasconfig.py").chmod(0o600)
    script = folder / "script.py"
    script.write_text("from picas import config; print(config.load().database)", encoding="utf-8")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, str(script)], cwd="/", env=environment, capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("d\n", "")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_python_without_picas_gets_one_line(script: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-S", "-E", str(EXAMPLES / script)], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"picas is not installed in {sys.executable} (No module named '")
    assert ran.stderr.endswith("'): activate its environment, or install it there\n")
