"""The verb `ls`."""

from __future__ import annotations

import csv
import io
import json

import pytest
from support.schemas import read_json
from support.tokens import ended_token, make_token

from picas import Task
from picas.views import create_report

REASON = "exit 1: FileNotFoundError: /data/7"


@pytest.fixture
def pool(client):
    """Thirty tokens in error, three done, one locked and one to do."""
    tokens = [
        ended_token(n, reason=REASON if n == 7 else "out of memory", group="r77c0" if n == 7 else "r3f9a", cores=n)
        for n in range(30)
    ]
    tokens += [ended_token(n, "done", seconds=n, output={"chi2": n + 0.5}) for n in (30, 31, 32)]
    tokens += [make_token(34, input={"name": "fit", "alpha": 0.5})]
    assert all(client.save_documents([*tokens, Task(make_token(33)).lock("pilot_x")]))
    return client


def read(result):
    """Return what a successful command has printed to both streams."""
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stderr


def test_without_a_state_it_lists_what_is_locked_or_in_error(pool, run_picas):
    out, err = read(run_picas("ls"))
    heading, *lines = out.splitlines()
    assert heading.split() == ["id", "state", "host", "since", "group", "reason"]
    assert len(lines) == 25
    assert lines[0].split()[:2] == ["token_33", "locked"]
    assert lines[1].startswith("token_0   error   host")
    assert lines[1].endswith("  r3f9a  out of memory")
    assert err == "6 more: --limit 0 shows all\n"


@pytest.mark.parametrize(
    ("state", "columns"),
    [
        ("todo", "id attempts input"),
        ("locked", "id host pilot since attempts"),
        ("done", "id host since seconds attempts"),
        ("error", "id host since attempts group reason"),
    ],
)
def test_the_columns_fit_the_state_and_are_all_in_the_json(pool, run_picas, state, columns):
    out, _ = read(run_picas("ls", state, "--limit", "3"))
    assert out.splitlines()[0].split() == columns.split()
    out, _ = read(run_picas("ls", state, "--limit", "3", "--json"))
    objects = read_json("ls", out)
    assert {each["state"] for each in objects} == {state}
    assert set(columns.split()) <= set(objects[0])


def test_filters_and_what_was_read_for_them(pool, run_picas):
    out, err = read(run_picas("ls", "--where", "cores >= 28", "--where", "reason ~ memory$", "--fields", "id,cores"))
    assert out == "id        cores\ntoken_28     28\ntoken_29     29\n"
    assert err == "Read 31 tokens to find 2\n"
    out, err = read(run_picas("ls", "error", "--match", "FileNot", "--ids"))
    assert (out, err) == ("token_7\n", "Read 30 tokens to find 1\n")
    out, err = read(run_picas("ls", "error", "--where", "cores < 5", "--limit", "2", "--ids"))
    assert (out, err) == ("token_0\ntoken_1\n", "Read 30 tokens to find 2\n")


def test_a_group_without_the_design_document_report(pool, run_picas):
    out, err = read(run_picas("ls", "--reason", "r77c0", "--ids"))
    assert out == "token_7\n"
    assert "there is no design document Report, so all tokens in error were read: an administrator" in err


def test_sorted_by_a_field(pool, run_picas):
    out, err = read(
        run_picas("ls", "done", "--sort=-output.chi2", "--limit", "2", "--fields", "id,output.chi2,seconds")
    )
    assert out.splitlines()[1:] == ["token_32         32.5       32", "token_31         31.5       31"]
    assert err == "1 more: --limit 0 shows all\n"
    assert read(run_picas("ls", "done", "--sort", "seconds", "--ids"))[0] == "token_30\ntoken_31\ntoken_32\n"


def test_ids_for_another_verb_are_never_cut_off(pool, run_picas):
    out, err = read(run_picas("ls", "error", "--ids"))
    assert (len(out.splitlines()), err) == (30, "")


def test_count(pool, run_picas):
    assert read(run_picas("ls", "--count")) == ("31\n", "")
    assert read(run_picas("ls", "done", "todo", "--count", "--where", "state = todo")) == ("1\n", "")


def test_comma_separated_values(pool, run_picas):
    out, _ = read(run_picas("ls", "todo", "--csv", "--fields", "id,input,input.alpha,since,nope"))
    assert list(csv.reader(io.StringIO(out))) == [
        ["id", "input", "input.alpha", "since", "nope"],
        ["token_34", '{"name": "fit", "alpha": 0.5}', "0.5", "", ""],
    ]


def test_fields_that_were_asked_for_are_in_the_json(pool, run_picas):
    out, _ = read(run_picas("ls", "done", "--json", "--fields", "output.chi2,nope,end", "--limit", "1"))
    (token,) = read_json("ls", out)
    assert token["fields"] == {"output.chi2": 30.5, "nope": None, "end": "2023-11-14T22:13:50Z"}
    assert json.loads(out)["since"] == "2023-11-14T22:13:50Z"


def test_an_empty_result_prints_a_line_beside_the_data(client, run_picas):
    assert read(run_picas("ls")) == ("", "no token matches\n")
    assert read(run_picas("ls", "--json")) == ("", "")
    assert read(run_picas("ls", "--csv")) == ("id,state,host,since,group,reason\n", "")


def test_any_view(pool, run_picas):
    pool.add_view("all", "function(doc) { if (doc.type == 'token') emit(doc._id, null); }", design_doc="Own")
    assert read(run_picas("ls", "--view", "Own/all", "--count"))[0] == "35\n"
    assert read(run_picas("ls", "--view", "Own/all", "--where", "state = done", "--count"))[0] == "3\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eror"], "'eror' is not a state: the states are todo, locked, done, error, did you mean 'error'?"),
        (["--where", "x"], "'x' is not a condition like"),
        (["--where", "x <> 3"], "'<>' in 'x <> 3' is no operator: there are ="),
        (["--where", ".. = 3"], "'..' is not a field like"),
        (["--fields", "id,,x"], "'' is not a field like"),
        (["--sort=-"], "'' is not a field like"),
        (["--match", "("], "'(' is not a regular expression"),
        (["--reason", "oom"], "'oom' is not a group of failures like r3f9a: picas errors lists them"),
        (["--since", "yesterday"], "'yesterday' is not a duration"),
        (["--limit", "-1"], "-1 is below 0"),
        (["--view", "Own"], "is not DESIGN_DOCUMENT/VIEW"),
        (["error", "--view", "Own/all"], "--view can't be given together with error"),
        (["--ids", "--count"], "not allowed with"),
    ],
)
def test_bad_input_is_named_in_one_line(complaint, arguments, message):
    assert message in complaint("ls", *arguments)


def test_a_missing_view_is_named(client, run_picas):
    result = run_picas("ls", "--view", "Monitor/eror")
    assert result.returncode == 1
    assert result.stderr.startswith("picas: there is no view Monitor/eror: Monitor has the views error, todo, ")


def test_a_narrow_terminal_gets_lines_that_fit_without_control_characters(client, at_terminal):
    client.save(ended_token(12345, reason="bad \x1b[31m" + "x" * 80, group="r0000"))
    with at_terminal("ls", columns=40, variables={"NO_COLOR": "1"}) as terminal:
        assert terminal.end() == 0
        heading, line = terminal.text.splitlines()
    assert heading.split() == ["id", "state", "group", "reason"]
    assert line == "token_12345  error  r0000  bad \\x1b[31m…"
    assert "\x1b" not in terminal.raw


def test_no_control_character_reaches_a_terminal(client, at_terminal):
    client.save(ended_token(0, reason="bad \x1b]0;title\x07", group="r0000"))
    for form in ("--csv", "--json"):
        with at_terminal("ls", form, "--fields", "id,reason", variables={"NO_COLOR": "1"}) as terminal:
            assert terminal.end() == 0
        assert "\x1b" not in terminal.raw
        assert "title" in terminal.raw


@pytest.mark.parametrize(("view", "count"), [("Monitor/overview_total", 35), ("Report/reasons", 30)])
def test_a_view_with_a_reduce_function_is_a_view_of_tokens_too(pool, run_picas, view, count):
    create_report(pool)
    out, _ = read(run_picas("ls", "--view", view, "--count"))
    assert out == f"{count}\n"
    out, err = read(run_picas("ls", "--view", view, "--limit", "2"))
    assert (out.count("token_"), err) == (2, f"{count - 2} more: --limit 0 shows all\n")


def test_a_limit_that_is_no_number(complaint):
    assert "argument --limit: 'x' is not a whole number" in complaint("ls", "--limit", "x")
