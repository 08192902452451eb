"""The verbs that change many tokens: `retry`, `set` and `delete`."""

from __future__ import annotations

import os
import re
import signal

import pytest
from support.schemas import read_json
from support.tokens import ended_token, make_token

from picas import CouchDB, Task
from picas.cli import main
from picas.cli.progress import PROGRESS_MINIMUM
from picas.pool import pages
from picas.views import count_states


@pytest.fixture
def pool(client):
    """Six tokens in error of two groups, two done, two locked (one by a pilot) and one to do."""
    tokens = [
        ended_token(n, reason=f"bad {n % 2}", group=f"r000{n % 2}", scrub_count=1, lost_count=2) for n in range(6)
    ]
    tokens += [ended_token(n, "done") for n in (6, 7)]
    tokens += [Task(make_token(8)).lock("picas_pilot_a"), Task(make_token(9)).lock(), make_token(10)]
    assert all(client.save_documents(tokens))
    client.save({"_id": "picas_pilot_a", "type": "pilot", "state": "running", "lease": 1})
    return client


def states(client):
    return tuple(count_states(client)[state] for state in ("todo", "locked", "done", "error"))


def changed(verb, result, code=0):
    """Return what a verb says in JSON."""
    assert result.returncode == code, result.stderr
    (counts,) = read_json(verb, result.stdout)
    return tuple(counts[name] for name in ("matched", "changed", "left_alone", "missing"))


class TestRetry:
    def test_one_group_with_more_memory(self, pool, run_picas):
        result = run_picas("retry", "--reason", "r0001", "--set", "memory=16G", "--set", "cores=2", "--yes")
        assert (result.returncode, result.stdout) == (0, "Retried 3 tokens\n")
        assert states(pool) == (4, 2, 2, 3)
        token = pool.get("token_1")
        assert (token["memory"], token["cores"], token["exit_code"], token["scrub_count"]) == ("16G", 2, "", 1)
        assert "lost_count" not in token
        assert [attempt["reason"] for attempt in token["attempts"]] == ["bad 1"]
        assert "memory" not in pool.get("token_0")

    def test_tokens_by_id_in_any_state(self, pool, run_picas):
        result = run_picas("retry", "token_0", "token_6", "token_9", "--yes", "--json")
        assert changed("retry", result) == (3, 3, 0, 0)
        assert states(pool) == (4, 1, 1, 5)

    def test_ids_on_standard_input(self, pool, run_picas):
        ids = run_picas("ls", "error", "--match", "bad 0", "--ids").stdout
        result = run_picas("retry", "-", "--yes", "--json", stdin=ids)
        assert changed("retry", result) == (3, 3, 0, 0)
        assert changed("retry", run_picas("retry", "-", "--yes", "--json", stdin=""), code=1) == (0, 0, 0, 0)

    def test_a_single_token_needs_no_question(self, pool, run_picas):
        assert run_picas("retry", "token_0").stdout == "Retried 1 token\n"

    def test_only_tokens_in_error_of_a_view_that_holds_others_too(self, pool, run_picas):
        pool.add_view("all", "function(doc) { if (doc.type == 'token') emit(doc._id, null); }", design_doc="Own")
        assert changed("retry", run_picas("retry", "--view", "Own/all", "--yes", "--json")) == (6, 6, 0, 0)
        assert states(pool) == (7, 2, 2, 0)

    def test_a_dry_run_counts_and_changes_nothing(self, pool, run_picas):
        result = run_picas("retry", "error", "--where", "group = r0000", "--dry-run")
        assert (result.returncode, result.stdout) == (0, "Would retry 3 tokens\n")
        assert changed("retry", run_picas("retry", "error", "--dry-run", "--json")) == (6, 0, 0, 0)
        assert states(pool) == (1, 2, 2, 6)

    def test_without_a_terminal_it_needs_yes(self, pool, run_picas):
        result = run_picas("retry", "error")
        assert (result.returncode, result.stdout) == (2, "")
        message = "Retry 6 tokens? Nobody can be asked without a terminal: repeat this with --yes"
        assert result.stderr == f"picas: {message}\n"
        assert states(pool) == (1, 2, 2, 6)

    @pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 6), ("\n", 1, 6)])
    def test_a_person_at_a_terminal_is_asked(self, pool, at_terminal, answer, code, left):
        with at_terminal("retry", "error") as terminal:
            terminal.wait_for("Retry 6 tokens? [y/N]")
            terminal.type(answer)
            assert terminal.end() == code
            assert ("Retried 6 tokens" if not code else "Nothing was changed") in terminal.text
        assert states(pool)[3] == left

    def test_a_person_is_warned_of_pilots_that_may_be_alive(self, pool, at_terminal):
        with at_terminal("retry", "locked", columns=200) as terminal:
            terminal.wait_for("[y/N]")
            assert (
                "1 of 2 locked tokens are held by 1 pilot that may be alive and would lose this work; --dead leaves "
                "live pilots alone. Retry 2 tokens? [y/N]"
            ) in terminal.text
            terminal.type("y\n")
            assert terminal.end() == 0
        assert states(pool) == (3, 0, 2, 6)
        assert pool.get("token_8")["attempts"][-1]["outcome"] == "stopped"

    @pytest.mark.timing
    def test_dead_takes_only_tokens_of_dead_and_silent_pilots(self, pool, run_picas):
        pool.save(Task(make_token(11)).lock("picas_pilot_gone"))
        result = run_picas("retry", "--dead", "--yes")
        assert (result.returncode, result.stdout) == (0, "Retried 2 tokens\n")
        assert result.stderr == (
            "Watching 1 pilot for up to 1 s to see who is alive\n"
            "Left alone 1 tokens that name no pilot: they were locked by an older release or by hand\n"
        )
        assert states(pool) == (3, 1, 2, 6)


class TestSet:
    def test_fields_of_tokens_that_meet_a_filter(self, pool, run_picas):
        result = run_picas("set", "memory=2G", "note=a = b", 'input={"a": 1}', "error", "--reason", "r0000", "--yes")
        assert (result.returncode, result.stdout) == (0, "Changed 3 tokens\n")
        token = pool.get("token_0")
        assert (token["memory"], token["note"], token["input"]) == ("2G", "a = b", {"a": 1})
        assert states(pool) == (1, 2, 2, 6)
        assert "memory" not in pool.get("token_1")

    def test_fields_are_removed(self, pool, run_picas):
        run_picas("set", "cores=2", "memory=1", "token_10")
        assert run_picas("set", "--unset", "cores", "--unset", "nope", "token_10").stdout == "Changed 1 token\n"
        assert (pool.get("token_10").get("cores"), pool.get("token_10")["memory"]) == (None, 1)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["lock=0", "error"], "the field 'lock' can't be set: PiCaS writes it itself"),
            (["_id=x", "error"], "the field '_id' can't be set"),
            (["attempts=[]", "error"], "the field 'attempts' can't be set"),
            (["walltime=soon", "error"], 'walltime can\'t be "soon": write seconds such as 3600, or a time such as'),
            (["job_ends=1", "error"], "the field 'job_ends' can't be set"),
            (["=5", "error"], "the field '' can't be set"),
            (["--unset", "exit_code", "error"], "the field 'exit_code' can't be set"),
            (
                ["input.alpha=5", "error"],
                "the field 'input.alpha' can't be set: only whole fields can, such as 'input'",
            ),
            (["error"], "nothing is to be set: give FIELD=VALUE before the tokens, or --unset FIELD"),
            (["memory=5"], "which tokens? Name their ids or a state: todo, locked, done, error"),
            (["memory=5", "error", "--where", "x"], "is not a condition like"),
            (["memory=5", "error", "--view", "Own/all"], "--view can't be given together with error"),
        ],
    )
    def test_bad_input_is_named_in_one_line(self, complaint, words, message):
        assert message in complaint("set", *words)


class TestDelete:
    def test_tokens_of_a_state_by_age(self, pool, run_picas):
        assert changed("delete", run_picas("delete", "done", "--since", "1h", "--yes", "--json"), code=1) == (
            0,
            0,
            0,
            0,
        )
        assert changed("delete", run_picas("delete", "done", "--older-than", "1h", "--yes", "--json")) == (2, 2, 0, 0)
        assert states(pool) == (1, 2, 0, 6)

    def test_what_is_no_token_is_never_deleted(self, pool, run_picas):
        result = run_picas("delete", "_design/Monitor", "picas_pilot_a", "nope", "token_0", "--yes", "--json")
        assert changed("delete", result, code=1) == (1, 1, 0, 3)
        assert result.stderr == "There is no token _design/Monitor, picas_pilot_a, nope\n"
        assert states(pool) == (1, 2, 2, 5)

    def test_locked_tokens_with_a_warning(self, pool, at_terminal):
        with at_terminal("delete", "locked", columns=200) as terminal:
            terminal.wait_for("1 pilot that may be alive and would lose this work. Delete 2 tokens? [y/N]")
            terminal.type("n\n")
            assert terminal.end() == 1
        assert states(pool) == (1, 2, 2, 6)

    def test_nothing_that_matches(self, client, run_picas):
        result = run_picas("delete", "todo")
        assert (result.returncode, result.stdout, result.stderr) == (1, "", "No token matches\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retry"], "which tokens? Name their ids or a state"),
        (["retry", "--yes"], "which tokens? Name their ids or a state"),
        (["delete", "--where", "cores = 1"], "which tokens? Name their ids or a state"),
        (["retry", "error", "--set", "memory"], "'memory' is not like FIELD=VALUE"),
        (["retry", "error", "--set", "cores=four"], 'cores can\'t be "four": write a number such as 4'),
        (["retry", "error", "--set", "done=0"], "the field 'done' can't be set"),
        (["retry", "error", "--reason", "x"], "'x' is not a group of failures"),
    ],
)
def test_bad_input_is_named_in_one_line(complaint, arguments, message):
    assert message in complaint(*arguments)


@pytest.mark.parametrize("verb", ["retry", "delete"])
def test_what_changes_meanwhile_is_left_alone_and_counted(pool, at_terminal, verb):
    """The question is answered after a pilot has taken a token, and another person has changed one."""
    with at_terminal(verb, "error", "--json", columns=200) as terminal:
        terminal.wait_for("[y/N]")
        pool.edit("token_0", lambda token: {**token, "lock": 0, "done": 0, "exit_code": ""})
        terminal.type("y\n")
        assert terminal.end() == 0
        (line,) = [line for line in terminal.text.splitlines() if line.startswith("{")]
    assert changed(verb, _Printed(line)) == (5, 5, 0, 0)
    assert pool.get("token_0")["lock"] == 0


def test_a_change_of_many_tokens_shows_a_bar(client, push, at_terminal):
    push(PROGRESS_MINIMUM)
    with at_terminal("set", "memory=5", "todo", "--yes") as terminal:
        assert terminal.end() == 0
    assert re.search(rf"{'━' * 40} 2000 of 2000, \d+ tokens/s\nChanged 2000 tokens\n$", terminal.text)


def test_ctrl_c_leaves_the_rest_to_the_same_command(pool, environment, monkeypatch, capsys):
    """The request that is under way still counts."""
    save = CouchDB.save_documents

    def interrupted(self, documents):
        os.kill(os.getpid(), signal.SIGINT)
        return save(self, documents)

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(pages, "PAGE", 4)
    monkeypatch.setattr(CouchDB, "save_documents", interrupted)
    monkeypatch.setattr("sys.argv", ["picas"])
    with pytest.raises(SystemExit) as ended:
        main(["retry", "error", "--yes"])
    changed = 6 - states(pool)[3]
    assert changed in (4, 6), "the second request may be under way too"
    line = f"picas: interrupted: {changed} tokens were changed; the same command changes the rest\n"
    assert (ended.value.code, capsys.readouterr().err) == (130, line)


@pytest.mark.parametrize("arguments", [("retry", "error"), ("set", "a=1", "todo"), ("delete", "done")])
def test_a_user_who_may_not_write_is_told(pool, run_picas, person, arguments):
    before = states(pool)
    result = run_picas(*arguments, "--yes", variables=person("reader"))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("picas: the server refuses to change tokens, e.g. token_")
    assert result.stderr.endswith("; 0 were changed before. May this user write documents?\n")
    assert states(pool) == before


class _Printed:
    """What a command at a terminal has printed, as `changed` reads it."""

    def __init__(self, line):
        self.returncode, self.stdout, self.stderr = 0, line, ""


def test_a_token_that_is_missing_gets_one_line(pool, run_picas):
    result = run_picas("delete", "nosuch", "--yes")
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "There is no token nosuch\n")
