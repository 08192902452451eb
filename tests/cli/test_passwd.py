"""The verb `passwd`: it changes the password on the server and in the file that it comes from."""

from __future__ import annotations

import fcntl
import tempfile
from pathlib import Path

import pytest
from support.users import UserServer

from picas import CouchDB
from picas.exceptions import LostAnswer, PicasError


@pytest.fixture
def user(environment, tmp_path):
    """Return a function that starts a server with the user ann, and writes its settings to config.ini."""
    servers = []

    def start(**options):
        for name in [name for name in environment if name.startswith("PICAS_")]:
            del environment[name]
        server = UserServer("old-s3cret", **options).__enter__()
        servers.append(server)
        ini = tmp_path / "home" / ".config" / "picas" / "config.ini"
        ini.parent.mkdir(parents=True)
        ini.write_text(f"[picas]\nhost_url = {server.url}\ndatabase = pool\nusername = ann\npassword = old-s3cret\n")
        ini.chmod(0o600)
        return server, ini

    yield start
    for server in servers:
        server.__exit__(None, None, None)


class TestWithoutATerminal:
    def test_changes_it_on_the_server_and_in_the_file(self, run_picas, user):
        server, ini = user()
        result = run_picas("passwd", stdin="new-s3cret\n")
        assert (result.returncode, result.stdout) == (0, "")
        assert result.stderr == f"The password of ann is changed on the server and in {ini}\n"
        assert server.password == "new-s3cret"
        assert server.document["roles"] == ["cats"]
        assert "password = new-s3cret\n" in ini.read_text()
        assert run_picas("check").returncode == 0

    def test_the_file_that_config_ini_names(self, run_picas, user, tmp_path):
        _, ini = user()
        secret = tmp_path / "secret"
        secret.write_text("old-s3cret\nnotes\n")
        secret.chmod(0o600)
        ini.write_text(ini.read_text().replace("password = old-s3cret", f"password_file = {secret}"))
        assert run_picas("passwd", stdin="new-s3cret\n").returncode == 0
        assert secret.read_text() == "new-s3cret\nnotes\n"
        assert "s3cret" not in ini.read_text()

    def test_a_source_that_is_not_written_is_named(self, run_picas, user):
        server, _ = user()
        result = run_picas("passwd", stdin="new-s3cret", variables={"PICAS_PASSWORD": "old-s3cret"})
        assert (result.returncode, server.password) == (0, "new-s3cret")
        assert "Now change PICAS_PASSWORD yourself: it comes from the environment\n" in result.stderr

    def test_a_file_that_can_not_be_written(self, run_picas, user):
        server, ini = user()
        ini.unlink()
        ini.parent.rmdir()
        ini.parent.parent.rmdir()
        secret = Path("/proc/self/comm")  # its content can be read, and it can't be replaced
        settings = {"PICAS_HOST_URL": server.url, "PICAS_DATABASE": "pool", "PICAS_USERNAME": "ann"}
        if not secret.exists():
            pytest.skip("this system has no /proc")
        server.password = secret.read_text().strip()
        result = run_picas("passwd", stdin="new-s3cret", variables={**settings, "PICAS_PASSWORD_FILE": str(secret)})
        assert (result.returncode, server.password) == (1, "new-s3cret")
        assert "picas: the server has the new password, but" in result.stderr
        assert "still has the old one" in result.stderr
        assert result.stderr.count("picas: ") == 1

    @pytest.mark.parametrize(
        ("typed", "words"),
        [
            ("", "no password was given"),
            ("old-s3cret", "the new password is the present one"),
            (" spaces ", "begins or ends with a space"),
            ("a\tb", "has a character that can't be printed"),
        ],
    )
    def test_a_new_password_that_is_none(self, run_picas, user, typed, words):
        server, _ = user()
        result = run_picas("passwd", stdin=typed)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
        assert words in result.stderr
        assert server.password == "old-s3cret"


class TestAtATerminal:
    def test_asks_twice_and_shows_nothing(self, at_terminal, user):
        server, _ = user()
        with at_terminal("passwd") as terminal:
            terminal.wait_for("New password of ann: ")
            terminal.type("new-s3cret\n")
            terminal.wait_for("The same again: ")
            terminal.type("new-s3cret\n")
            assert terminal.end() == 0
            assert "s3cret" not in terminal.text
        assert server.password == "new-s3cret"

    def test_two_that_differ_change_nothing(self, at_terminal, user):
        server, _ = user()
        with at_terminal("passwd") as terminal:
            terminal.wait_for("New password of ann: ")
            terminal.type("new-s3cret\n")
            terminal.wait_for("The same again: ")
            terminal.type("new-s3cert\n")
            assert terminal.end() == 2
            assert "the two passwords differ" in terminal.text
        assert server.password == "old-s3cret"


def test_a_lost_answer_is_looked_up(user):
    server, _ = user(lost="applied")
    CouchDB(server.url, "pool", "ann", "old-s3cret").change_password("new-s3cret")
    assert server.password == "new-s3cret"


def test_a_lost_change_is_an_error(user):
    server, _ = user(lost="refused")
    client = CouchDB(server.url, "pool", "ann", "old-s3cret")
    with pytest.raises(LostAnswer):
        client.change_password("new-s3cret")
    assert client.own_user()["name"] == "ann"  # with the old password


def test_an_administrator_by_configuration_has_no_password_to_change(run_picas, is_couchdb):
    result = run_picas("passwd", stdin="new-s3cret")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    words = "is an administrator of the server, whose password is in its configuration"
    assert (
        words if is_couchdb else "the embedded server has one user, whose password it makes itself"
    ) in result.stderr


def test_a_server_that_does_not_let_users_change_it(client, person):
    """Apache CouchDB 3 does not, unless its administrator has changed the permissions of its users."""
    user = person("member")
    member = CouchDB(client.url, client.database_name, user["PICAS_USERNAME"], user["PICAS_PASSWORD"])
    with pytest.raises(PicasError, match="this server does not let users change their passwords: an administrator"):
        member.change_password("new-s3cret")


@pytest.fixture
def let_change(client, is_couchdb):
    """Return a function that lets a user change their own document; other processes wait meanwhile."""
    if not is_couchdb:
        pytest.skip("the embedded server has one user only")
    server = client.server.resource
    setting = ["_node", "_local", "_config", "couchdb", "users_db_security_editable"]
    with (Path(tempfile.gettempdir()) / "picas-test-users").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        server.put_json(setting, body='"true"')
        _, _, before = server.get_json(["_users", "_security"])

        def let(name):
            members = {**before.get("members", {}), "names": [name]}
            server.put_json(["_users", "_security"], body={**before, "members": members})

        yield let
        server.put_json(["_users", "_security"], body=before)
        server.delete_json(setting)


def test_on_a_server_that_lets_users_change_it(run_picas, client, person, let_change, environment):
    user = person("member")
    let_change(user["PICAS_USERNAME"])
    result = run_picas("passwd", stdin="new-s3cret", variables=user)
    assert (result.returncode, "Now change PICAS_PASSWORD yourself" in result.stderr) == (0, True)
    assert run_picas("check", variables={**user, "PICAS_PASSWORD": "new-s3cret"}).returncode == 0
    assert run_picas("check", variables=user).returncode == 1
