"""The command `picas-cli` of picas 1.1, and `picas` with its settings."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.places import ROOT
from support.users import UserServer

pytest.importorskip("yaml")
pytest.importorskip("cryptography")


@pytest.fixture
def run_picas_cli(environment, tmp_path):
    """Return a function that runs the command without any settings in the environment."""
    for name in [name for name in environment if name.startswith("PICAS_")]:
        del environment[name]

    def run(*arguments, stdin=""):
        command = [sys.executable, "-c", "from picas.cli.legacy import main; main()", *arguments]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, input=stdin, capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.fixture
def server():
    with UserServer("old-s3cret") as server:
        yield server


@pytest.fixture
def conf(run_picas_cli, server, tmp_path):
    """The file that the command has written, with the settings of ann."""
    settings = ("--host-url", server.url, "--database", "pool", "--username", "ann")
    result = run_picas_cli("init", *settings, stdin="old-s3cret\n")
    assert (result.returncode, result.stdout, result.stderr) == (
        0,
        "",
        "The settings are in ~/.config/picas/conf.yml\n",
    )
    return tmp_path / "home" / ".config" / "picas" / "conf.yml"


def test_init_encrypts_the_password_and_picas_finds_it(run_picas, conf):
    assert "old-s3cret" not in conf.read_text()
    result = run_picas("init", "--show")
    assert (result.returncode, str(conf) in result.stdout) == (0, True)
    assert run_picas("check").returncode == 0


def test_passwd_of_both_commands(run_picas_cli, run_picas, conf, server):
    result = run_picas_cli("passwd", stdin="second-s3cret\n")
    assert (result.returncode, result.stdout, server.password) == (0, "", "second-s3cret")
    assert result.stderr == "The password is changed on the server and in ~/.config/picas/conf.yml\n"
    assert run_picas_cli("passwd", "--new-password", "third-s3cret").returncode == 0
    result = run_picas("passwd", stdin="fourth-s3cret\n")
    assert (result.returncode, server.password) == (0, "fourth-s3cret")
    assert result.stderr == f"The password of ann is changed on the server and in {conf}\n"
    assert run_picas("check").returncode == 0


def test_a_password_that_the_server_does_not_change(run_picas_cli, conf, server):
    before = conf.read_text()
    server.password = "changed elsewhere"
    result = run_picas_cli("passwd", stdin="new-s3cret\n")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "the password was not changed on the server: wrong user or password" in result.stderr
    assert conf.read_text() == before


def test_dump_config_makes_a_picasconfig_without_the_password(run_picas_cli, conf, server, tmp_path):
    result = run_picas_cli("dump-config")
    assert (result.returncode, result.stderr) == (0, "")
    assert "s3cret" not in result.stdout
    assert f"PICAS_HOST_URL = {server.url!r}\n" in result.stdout
    folder = tmp_path / "scripts"
    assert run_picas_cli("dump-config", "-o", str(folder / "picasconfig.py")).returncode == 0
    assert (folder / "picasconfig.py").read_text() == result.stdout
    script = "import picasconfig; print(picasconfig.PICAS_PASSWORD == 'old-s3cret')"
    variables = {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, cwd=folder, env=variables, capture_output=True, check=True).stdout == b"True\n"


@pytest.mark.parametrize("options", [("--config", "mine.yml", "dump-config"), ("dump-config", "--config", "mine.yml")])
def test_another_file(run_picas_cli, conf, tmp_path, options):
    conf.rename(tmp_path / "mine.yml")
    assert "PICAS_USERNAME = 'ann'\n" in run_picas_cli(*options).stdout


def test_a_file_that_does_not_exist(run_picas_cli):
    result = run_picas_cli("dump-config")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "configuration file not found: ~/.config/picas/conf.yml: run picas-cli init" in result.stderr


def test_a_file_that_is_invalid(run_picas_cli, conf):
    conf.write_text(conf.read_text().replace("username", "user"))
    result = run_picas_cli("passwd", stdin="a")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "configuration validation failed: 'username' is a required property" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("init",), ("nothing",)], ids=str)
def test_wrong_use(run_picas_cli, arguments):
    result = run_picas_cli(*arguments)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
