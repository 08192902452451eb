"""The verb `completion`."""

from __future__ import annotations

import argparse
import shutil
import subprocess

import pytest

from picas.cli.completion import SHELLS, _mark
from picas.tokens.states import STATES

pytest.importorskip("shtab")


def complete(script, *words):
    """Return what bash offers for the last of the words."""
    line = " ".join(f"'{word}'" for word in words)
    ask = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _shtab_picas; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    ran = subprocess.run(
        ["bash", "-c", f"source {script}; {ask}"], capture_output=True, text=True, timeout=60, check=True
    )
    return ran.stdout.split()


@pytest.fixture
def script(run_picas, tmp_path):
    """The script for bash."""
    result = run_picas("completion", "bash")
    assert (result.returncode, result.stderr) == (0, "")
    path = tmp_path / "picas.bash"
    path.write_text(result.stdout)
    return path


def test_bash_completes_verbs_and_options(script):
    assert complete(script, "picas", "comp") == ["completion"]
    assert set(complete(script, "picas", "completion", "")) == set(SHELLS)
    assert complete(script, "picas", "logs", "--fol") == ["--follow"]


def test_bash_completes_files(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.ini").touch()
    assert complete(script, "picas", "autopilot", "tab") == ["table.ini"]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_accepts_its_script(run_picas, shell, tmp_path):
    path = tmp_path / "script"
    path.write_text(run_picas("completion", shell).stdout)
    assert "sandbox" in path.read_text()
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    assert subprocess.run([shell, "-n", path], capture_output=True, timeout=60, check=False).returncode == 0


def test_states_are_completed_where_an_argument_can_be_one():
    parser = argparse.ArgumentParser()
    one = parser.add_argument("state", metavar="STATE")
    several = parser.add_argument("tokens", nargs="*", metavar="TOKEN|STATE")
    file = parser.add_argument("-o", metavar="FILE")
    _mark(parser, {"FILE": "a file"})
    assert one.choices == several.choices == tuple(STATES)
    assert (file.choices, file.complete) == (None, "a file")


def test_without_shtab_it_is_said_how_to_get_it(run_picas, tmp_path):
    (tmp_path / "shtab.py").write_text("raise ImportError")
    result = run_picas("completion", "zsh")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == 'picas: completion needs the package shtab: pip install "picas[cli]"\n'


def test_an_old_shtab_may_not_know_the_shell(run_picas, tmp_path):
    (tmp_path / "shtab.py").write_text('SUPPORTED_SHELLS = ["bash", "zsh"]')
    result = run_picas("completion", "fish")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert 'pip install --upgrade "picas[cli]"' in result.stderr


@pytest.mark.parametrize("arguments", [[], ["tcsh"]], ids=["none", "unknown"])
def test_another_shell_is_wrong_usage(run_picas, arguments):
    result = run_picas("completion", *arguments)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
