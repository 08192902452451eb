"""Format, lint and types, and what may stand at the top level."""

import subprocess
import sys

import pytest
from support.places import ROOT


@pytest.mark.parametrize("command", [("ruff", "format", "--check"), ("ruff", "check"), ("mypy",)], ids=" ".join)
def test_is_clean(command):
    if command == ("mypy",) and sys.version_info < (3, 10):
        pytest.skip("mypy needs Python 3.10 or later")
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_top_level_holds_what_it_is_meant_to():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    top = {name.partition("/")[0] for name in files if name and not name.startswith(".")}
    assert top == {"picas", "examples", "tests", "setup.py", "README.md", "LICENSE"}


def test_the_lock_file_names_no_addresses():
    assert '"resolved"' not in (ROOT / "picas" / "embedded" / "package-lock.json").read_text()
