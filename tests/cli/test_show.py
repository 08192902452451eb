"""The verb `show`, and the facts that it prints."""

from __future__ import annotations

import json

import pytest
from support.schemas import SCHEMAS, read_json
from support.tokens import ended_token, make_token, odd_tokens

from picas import Task, modifiers
from picas.cli import main
from picas.cli.showing import COLUMNS
from picas.exceptions import NoSuchDocument, PicasError
from picas.modifiers import MAX_ATTEMPTS
from picas.pool.facts import DEEPER, TooDeep, describe_token, find_token

UTC = {"TZ": "UTC"}


@pytest.fixture
def failed(client):
    """A token that has failed twice, with a log."""
    token = Task(
        ended_token(
            7,
            reason="exit 1: FileNotFoundError: m31.fits",
            group="r77c0",
            input="fit m31 --alpha 0.5",
            cores=8,
            memory="16G",
            colour="red",
            grid={"x": [1, 2]},
        )
    )
    first = token["attempts"][0]
    token["attempts"].insert(0, {**first, "outcome": "time-out", "exit_code": 99, "reason": "time-out after 60 s"})
    token["error"].insert(0, {"time": 1_700_000_001, "message": "old", "exception": "Traceback\n  in x\nKeyError: 5"})
    token.put_attachment("logs_token_7.out", b"x" * 1500)
    client.save(token)
    return token


@pytest.fixture
def run_here(environment, monkeypatch, capsys):
    """Run the command in this process, which is faster, and return its output."""
    for name, variable in environment.items():
        monkeypatch.setenv(name, variable)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        printed = capsys.readouterr()
        assert (ended.value.code, printed.err) == (0, "")
        return printed.out

    return run


def test_shows_all_of_a_token(run_picas, failed):
    result = run_picas("show", "token_7", variables=UTC)
    assert (result.returncode, result.stderr) == (0, "")
    assert (
        result.stdout
        == """\
id         token_7
state      error since 2023-11-14 22:13:30 UTC
needs      8 cores, 16384 MB
exit code  1
input      fit m31 --alpha 0.5
output     {}
colour     red
grid       {"x": [1, 2]}
attachments
  logs_token_7.out  1.5 kB  text/plain
errors
  2023-11-14 22:13:30 UTC  exit 1: FileNotFoundError: m31.fits
  2023-11-14 22:13:21 UTC  old
    Traceback
      in x
    KeyError: 5
attempts
#  start                       s  cpu s    MB  cores  host  outcome   exit  reason
1  2023-11-14 22:13:20 UTC  10.0    5.0  12.0      1  host  time-out    99  time-out after 60 s
2  2023-11-14 22:13:20 UTC  10.0    5.0  12.0      1  host  failed       1  exit 1: FileNotFoundError: m31.fits
"""
    )


def test_as_json(run_picas, failed):
    (found,) = read_json("show", run_picas("show", "token_7", "--json").stdout)
    assert (found["state"], found["since"], found["fields"]) == (
        "error",
        "2023-11-14T22:13:30Z",
        {"colour": "red", "grid": {"x": [1, 2]}},
    )
    assert found["needs"] == {
        **{"cores": 8, "memory_mb": 16384, "gpus": 0, "tags": []},
        **{"walltime_seconds": None, "longest_attempt_seconds": None},
    }
    assert [error["message"] for error in found["errors"]] == ["exit 1: FileNotFoundError: m31.fits", "old"]
    assert found["attachments"] == [{"name": "logs_token_7.out", "size_bytes": 1500, "content_type": "text/plain"}]
    assert [attempt["group"] for attempt in found["attempts"]] == ["r77c0", "r77c0"]


def test_each_column_is_in_the_json():
    schema = json.loads((SCHEMAS / "show.json").read_text(encoding="utf-8"))
    assert set(COLUMNS.values()) <= set(schema["properties"]["attempts"]["items"]["required"])


def test_who_holds_a_locked_token(run_picas, client, push):
    (token,) = push(1, slurm_job_id="12_3", walltime=7200, priority=2.5, not_before=1_700_000_000)
    modifiers.lock(token, "picas_pilot_a").update(lock=1_700_000_000, hostname="node7", slurm_job_id="12_3")
    client.save(token)
    lines = run_picas("show", "token_0", variables=UTC).stdout.splitlines()
    assert lines == [
        "id         token_0",
        "state      locked since 2023-11-14 22:13:20 UTC",
        "needs      1 core",
        "locked by  picas_pilot_a on node7, job 12_3",
        "walltime   2 h",
        "priority   2.5",
        "input",
        "output     {}",
    ]


class TestAtATerminal:
    @pytest.mark.parametrize("columns", [60, 120])
    def test_lines_are_cut(self, at_terminal, client, columns):
        client.save(ended_token(7, reason="word " * 39, input="x" * 300, long={"list": ["y" * 300]}))
        with at_terminal("show", "token_7", columns=columns, variables={**UTC, "NO_COLOR": "1"}) as terminal:
            assert terminal.end() == 0
            lines = terminal.text.splitlines()
        assert max(map(len, lines)) == columns
        assert "\x1b" not in terminal.raw
        assert next(line for line in lines if line.startswith("input")).endswith("x…")
        heading = next(line for line in lines if line.startswith("#"))
        assert heading.split()[:2] == ["#", "start"]
        assert ("host" in heading, "reason" in heading) == (columns == 120, True)
        assert "2023-11-14 22:13:20 UTC" in lines[-1]

    def test_the_attempts_fit_forty_columns(self, at_terminal, client):
        client.save(ended_token(7, reason="word " * 39))
        with at_terminal("show", "token_7", columns=40, variables=UTC) as terminal:
            assert terminal.end() == 0
            lines = terminal.text.splitlines()
        assert max(map(len, lines)) == 40
        assert lines[-2].split() == ["#", "s", "outcome", "exit", "reason"]

    def test_control_characters_are_escaped(self, at_terminal, client):
        evil = "\x1b]0;evil\x07\r\n\u202e"
        token = Task(ended_token(7, reason=evil, input=evil, **{f"name{evil}": [evil]}))
        token["error"] = [{"message": evil, "exception": evil}]
        token["attempts"][0].update(host=evil, job_id=evil, outcome=evil, exit_code=evil)
        token.put_attachment(f"log{evil}", b"", "text/plain")
        client.save(token)
        with at_terminal("show", "token_7", variables={"NO_COLOR": "1"}) as terminal:
            assert terminal.end() == 0
        assert not set(terminal.raw.replace("\r\n", "\n")) & set("\x1b\x07\r\u202e")
        assert terminal.text.count("\\x1b]0;evil") > 5

    def test_headings_are_bold(self, at_terminal, failed):
        with at_terminal("show", "token_7") as terminal:
            assert terminal.end() == 0
        assert "\x1b[1mattempts\x1b[0m" in terminal.raw


class TestWhatIsNotThere:
    def test_an_unknown_token_is_one_line_with_its_neighbours(self, run_picas, push):
        push(4)
        result = run_picas("show", "token_25")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == ("picas: there is no token token_25: the nearest ids are token_1, token_2, token_3\n")

    def test_other_documents_are_not_among_the_neighbours(self, client):
        client.save({"_id": "picas_pilot_a"})
        with pytest.raises(NoSuchDocument, match="there is no token x, and no other is near"):
            find_token(client, "x")

    @pytest.mark.parametrize("id", ["", "_all_docs", "\ud800"])
    def test_what_is_no_id(self, client, id):
        with pytest.raises(PicasError, match="can't be the id of a document"):
            find_token(client, id)

    def test_without_a_token_the_usage_is_wrong(self, run_picas):
        assert run_picas("show").returncode == 2


class TestOddDocuments:
    def test_one_that_is_no_token(self, run_picas, client):
        client.save({"_id": "image", "type": "image", "size": 7})
        assert run_picas("show", "image").stdout == "id    image\ntype  image: this is no token\nsize  7\n"

    @pytest.mark.parametrize("value", [None, 7, "text", [], [None, 7, "text", [1]], {"a": 1}, 1e300, True], ids=repr)
    def test_fields_of_any_type(self, run_here, client, value):
        names = ["lock", "done", "exit_code", "scrub_count", "hostname", "claim", "attempts", "error", "input", "tags"]
        names += ["cores", "memory", "gpus", "walltime", "priority", "not_before", "slurm_job_id", "uploads", "own"]
        entry = dict.fromkeys(["start", "end", "seconds", "cores", "host", "outcome", "reason", "exit_code"], value)
        client.save({"_id": "a", "type": "token", **dict.fromkeys(names, value)})
        client.save({**make_token(0), "attempts": [entry], "error": [{"time": value, "message": value}]})
        for id in ("a", "token_0"):
            assert run_here("show", id).startswith("id")
            read_json("show", run_here("show", id, "--json"))

    def test_no_token_that_people_have_written_is_too_odd(self):
        for token in odd_tokens():
            assert describe_token(token).id == token["_id"]

    def test_what_is_nested_deeply_is_shown_down_to_a_level(self, run_here, client):
        value = "the end"
        for _ in range(400):
            value = [value]
        client.save_documents([make_token(0)])
        client.save({**make_token(1), "deep": value})
        assert f"[{DEEPER}]" in run_here("show", "token_1").replace('"', "")
        read_json("show", run_here("show", "token_1", "--json"))

    def test_what_python_can_not_read_is_one_line(self, run_picas, client):
        text = "[" * 3000 + "]" * 3000
        client.db.resource.put("deep", body=f'{{"type": "token", "x": {text}}}'.encode())
        with pytest.raises(TooDeep):
            find_token(client, "deep")
        result = run_picas("show", "deep")
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)

    def test_older_attempts_are_not_kept(self, run_picas, client):
        token = ended_token(7, reason="no")
        token["attempts"] *= MAX_ATTEMPTS
        client.save(token)
        assert "\nattempts: only the last ones are kept\n" in run_picas("show", "token_7").stdout

    def test_an_attempt_of_an_older_pilot_has_its_whole_seconds(self):
        entry = {"start": 1_700_000_000, "end": 1_700_000_007, "outcome": "done", "exit_code": 0}
        (attempt,) = describe_token(make_token(0, attempts=[entry])).attempts
        assert (attempt.seconds, attempt.cpu_seconds, attempt.reason) == (7.0, None, None)


def test_the_spaces_of_an_input_are_shown_as_they_are(run_here, client):
    client.save(make_token(1, input='echo "a  b"\nexit 1\t'))
    assert r'input  echo "a  b"\nexit 1\t' in run_here("show", "token_1")
