"""The verb `init`: it asks, checks the connection, and writes config.ini."""

from __future__ import annotations

import configparser
import stat
from uuid import uuid4

import pytest
from support.users import UserServer


@pytest.fixture
def given(environment):
    """Take the settings away from the environment, and return them."""
    return {name: environment.pop(name) for name in list(environment) if name.startswith("PICAS_")}


@pytest.fixture
def ini(tmp_path):
    return tmp_path / "home" / ".config" / "picas" / "config.ini"


@pytest.fixture
def arguments(given):
    return ("--host-url", given["PICAS_HOST_URL"], "--database", given["PICAS_DATABASE"], "--username",
            given["PICAS_USERNAME"])  # fmt: skip


@pytest.fixture
def new_database(client):
    name = f"picas_test_{uuid4().hex}"
    yield name
    if name in client.server:
        del client.server[name]


def read(ini):
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ini)
    return dict(parser["picas"])


class TestWithoutATerminal:
    def test_writes_what_is_given_for_this_user_only(self, run_picas, given, arguments, ini):
        result = run_picas("init", *arguments, stdin=given["PICAS_PASSWORD"] + "\n")
        assert (result.returncode, result.stdout) == (0, "")
        assert result.stderr == f"The pool {given['PICAS_DATABASE']} can be reached. The settings are in {ini}\n"
        assert stat.S_IMODE(ini.stat().st_mode) == 0o600
        names = ("host_url", "database", "username", "password")
        assert read(ini) == {name: given[f"PICAS_{name.upper()}"] for name in names}
        assert run_picas("status").returncode == 0

    def test_keeps_what_is_set_already(self, run_picas, given, arguments, ini):
        assert run_picas("init", *arguments, stdin=given["PICAS_PASSWORD"]).returncode == 0
        before = read(ini)
        assert run_picas("init").returncode == 0
        assert read(ini) == before

    def test_keeps_other_lines_of_the_file_and_a_link_to_it(self, run_picas, given, arguments, ini, tmp_path):
        dotfiles = tmp_path / "dotfiles.ini"
        text = "# mine\n[picas]\nssl_verification = true\npassword_file = secret\n# end\n\n[other]\na = 1\n"
        dotfiles.write_text(text)
        ini.parent.mkdir(parents=True)
        ini.symlink_to(dotfiles)
        (tmp_path / "secret").write_text("outdated")
        (tmp_path / "secret").chmod(0o600)
        assert run_picas("init", *arguments, stdin=given["PICAS_PASSWORD"]).returncode == 0
        assert ini.is_symlink()
        lines = dotfiles.read_text().splitlines()
        assert lines[:4] == ["# mine", "[picas]", "ssl_verification = true", "# end"]
        assert lines[-3:] == ["", "[other]", "a = 1"]
        assert "password_file" not in dotfiles.read_text()

    def test_takes_what_picas_serve_has_set(self, run_picas, given, ini, tmp_path):
        """`picas serve` prints lines with these variables."""
        secret = tmp_path / "password"
        secret.write_text(given.pop("PICAS_PASSWORD") + "\n")
        secret.chmod(0o600)
        assert run_picas("init", variables={**given, "PICAS_PASSWORD_FILE": str(secret)}).returncode == 0
        assert read(ini)["password"] == secret.read_text().strip()
        assert run_picas("status").returncode == 0

    def test_names_what_is_missing(self, run_picas, given, ini):
        result = run_picas("init", "--host-url", given["PICAS_HOST_URL"])
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == "picas: PICAS_DATABASE is not known: give it with --database\n"
        assert not ini.exists()

    def test_without_a_password(self, run_picas, arguments, ini):
        result = run_picas("init", *arguments)
        assert result.returncode == 2
        assert result.stderr.startswith("picas: no password was given: ")
        assert not ini.exists()

    def test_a_wrong_password(self, run_picas, given, arguments, ini):
        user = ("--username", f"user_{uuid4().hex}")  # CouchDB locks an account after some wrong passwords
        result = run_picas("init", *arguments, *user, stdin="wr0ng")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == "picas: wrong user or password: check PICAS_USERNAME and PICAS_PASSWORD\n"
        assert not ini.exists()

    def test_an_invalid_address(self, run_picas, arguments, ini):
        result = run_picas("init", *arguments, "--host-url", "localhost:5984", stdin="s")
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
        assert "must begin with http:// or https://" in result.stderr

    def test_a_server_that_is_away(self, run_picas, arguments, ini):
        result = run_picas("init", *arguments, "--host-url", "http://127.0.0.1:1", stdin="s")
        assert (result.returncode, result.stderr.count("\n")) == (75, 1)
        assert not ini.exists()

    def test_a_database_that_does_not_exist(self, run_picas, given, arguments, ini, new_database):
        wanted = (*arguments, "--database", new_database)
        result = run_picas("init", *wanted, stdin=given["PICAS_PASSWORD"])
        assert result.returncode == 1
        assert f"there is no database {new_database} on {given['PICAS_HOST_URL']}: check its name" in result.stderr
        assert not ini.exists()
        result = run_picas("init", *wanted, "--create-database", stdin=given["PICAS_PASSWORD"])
        assert result.returncode == 0
        assert f"The database {new_database} is created; picas views creates its views\n" in result.stderr
        assert read(ini)["database"] == new_database

    def test_says_what_takes_precedence(self, run_picas, given, arguments):
        other = {"PICAS_DATABASE": "another"}
        result = run_picas("init", *arguments, stdin=given["PICAS_PASSWORD"], variables=other)
        assert result.returncode == 0
        assert "But PICAS_DATABASE from the environment takes precedence: remove it there\n" in result.stderr

    def test_credentials_in_the_address_are_used_and_removed(self, run_picas, given, arguments, ini, location):
        url = location.url.replace("://", f"://{location.username}:{location.password}@")
        result = run_picas("init", "--host-url", url, "--database", given["PICAS_DATABASE"])
        assert (result.returncode, location.password in result.stderr) == (0, False)
        assert read(ini)["host_url"] == location.url
        assert read(ini)["password"] == location.password

    def test_a_password_that_the_file_can_not_hold(self, run_picas, ini):
        with UserServer("ends with a space ") as server:
            given = ("--host-url", server.url, "--database", "pool", "--username", "ann")
            result = run_picas("init", *given, stdin="ends with a space \n")
        assert result.returncode == 1
        assert f"{ini} can't hold this PICAS_PASSWORD" in result.stderr
        assert not ini.exists()


class TestAtATerminal:
    def test_asks_for_all_and_does_not_show_the_password(self, at_terminal, given, ini):
        with at_terminal("init") as terminal:
            for question, answer in (
                ("Address of the server: ", "PICAS_HOST_URL"),
                ("Database: ", "PICAS_DATABASE"),
                ("User: ", "PICAS_USERNAME"),
                ("Password of", "PICAS_PASSWORD"),
            ):
                terminal.wait_for(question)
                terminal.type(given[answer] + "\n")
            assert terminal.end() == 0
            assert given["PICAS_PASSWORD"] not in terminal.text
        assert read(ini)["password"] == given["PICAS_PASSWORD"]

    def test_what_is_set_is_the_default(self, at_terminal, environment, given, ini):
        environment.update(given)
        with at_terminal("init") as terminal:
            for question in (given["PICAS_HOST_URL"], given["PICAS_DATABASE"], given["PICAS_USERNAME"]):
                terminal.wait_for(f"[{question}]: ")
                terminal.type("\n")
            terminal.wait_for("(Enter: the present one): ")
            terminal.type("\n")
            assert terminal.end() == 0
        assert read(ini)["database"] == given["PICAS_DATABASE"]

    def test_offers_to_create_the_database(self, at_terminal, given, arguments, ini, new_database, client):
        with at_terminal("init", *arguments, "--database", new_database) as terminal:
            terminal.wait_for("Password of")
            terminal.type(given["PICAS_PASSWORD"] + "\n")
            terminal.wait_for("Create it? [y/N]")
            terminal.type("y\n")
            assert terminal.end() == 0
        assert read(ini)["database"] == new_database
        assert new_database in client.server


class TestShow:
    def test_the_settings_in_force_without_the_password(self, run_picas, environment):
        result = run_picas("init", "--show", variables={"PICAS_SSL_VERIFICATION": "no"})
        assert (result.returncode, result.stderr) == (0, "")
        lines = [line.split() for line in result.stdout.splitlines()]
        assert lines[0] == ["setting", "value", "from"]
        assert lines[1] == ["PICAS_HOST_URL", environment["PICAS_HOST_URL"], "the", "environment"]
        assert lines[4:] == [
            ["PICAS_PASSWORD", "(set)", "the", "environment"],
            ["PICAS_SSL_VERIFICATION", "false", "the", "environment"],
        ]
        assert environment["PICAS_PASSWORD"] not in result.stdout

    def test_what_is_not_set(self, run_picas, given):
        lines = run_picas("init", "--show").stdout.splitlines()
        assert [line.split() for line in lines[1:]] == [
            [f"PICAS_{name}", "(not", "set)", "-"] for name in ("HOST_URL", "DATABASE", "USERNAME", "PASSWORD")
        ]
