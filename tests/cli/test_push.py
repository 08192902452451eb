"""The verb `push`: files become tokens, and what was done is counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.schemas import read_json

from picas.views import count_states

TABLE = 'name,alpha\nfirst,1\n"a, b",2\n'


@pytest.fixture
def files(tmp_path):
    """Files that are pushed, in the folder in which the command runs."""
    (tmp_path / "jobs.txt").write_text("echo a\n# comment\n\necho b\necho c\n")
    (tmp_path / "jobs.csv").write_text(TABLE)
    (tmp_path / "jobs.jsonl").write_text('{"x": 1}\n{"input": "true", "cores": 2}\n')
    (tmp_path / "needs.jsonl").write_text('{"input": "true", "walltime": "2h"}\n{"input": "true", "gpus": "a100:1"}\n')
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    return tmp_path


@pytest.fixture
def tokens(client):
    """Return a function that returns the fields of the tokens in todo, by their ids."""
    own = ("input", "cores", "memory")
    return lambda: {
        row.id: {name: row.doc[name] for name in own if name in row.doc}
        for row in client.view("todo", include_docs=True).rows
    }


def test_several_files_are_counted_each_and_together(run_picas, files, tokens):
    result = run_picas("push", "jobs.txt", "jobs.csv", "jobs.jsonl", "--set", "memory=8G")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        "jobs.txt: Pushed 3 tokens: token_0 to token_2\n"
        "jobs.csv: Pushed 2 tokens: token_3 to token_4\n"
        "jobs.jsonl: Pushed 2 tokens: token_5 to token_6\n"
        "In total: Pushed 7 tokens\n"
    )
    assert tokens()["token_4"] == {"input": {"name": "a, b", "alpha": "2"}, "memory": "8G"}
    assert tokens()["token_6"] == {"input": "true", "cores": 2, "memory": "8G"}


def test_a_template_and_ids_from_a_column(run_picas, files, tokens):
    command = ("push", "-", "--format=csv", "--template", "fit {name} --alpha {alpha}", "--id-from=name")
    assert run_picas(*command, stdin=TABLE).stdout == "Pushed 2 tokens\n"
    assert tokens() == {"first": {"input": "fit first --alpha 1"}, "a, b": {"input": "fit 'a, b' --alpha 2"}}
    assert run_picas(*command, stdin=TABLE + "c,3\n").stdout == "Pushed 1 token, 2 in the pool already\n"


def test_a_push_is_repeated_only_if_that_is_asked_for(run_picas, files, client):
    assert run_picas("push", "jobs.txt").returncode == 0
    again = run_picas("push", "jobs.txt")
    words = "jobs.txt is in the pool already, as token_0 to token_2; --again pushes it once more"
    assert (again.returncode, again.stdout, again.stderr) == (1, "", f"picas: {words}\n")
    assert run_picas("push", "jobs.txt", "--resume").stdout == (
        "Pushed 0 tokens, 3 in the pool already: token_0 to token_2\n"
    )
    assert run_picas("push", "jobs.txt", "--again").stdout == "Pushed 3 tokens: token_3 to token_5\n"


def test_a_person_at_a_terminal_is_asked(run_picas, at_terminal, files, client):
    run_picas("push", "jobs.txt")
    with at_terminal("push", "jobs.txt") as terminal:
        terminal.wait_for("token_0 to token_2. Push it once more? [y/N]")
        terminal.type("y\n")
        assert terminal.end() == 0
    assert count_states(client)["todo"] == 6


def test_json_has_an_object_for_each_file(run_picas, files):
    lines, table = read_json("push", run_picas("push", "jobs.txt", "jobs.csv", "--json").stdout)
    assert lines == {
        "schema": "picas.push/1", "file": "jobs.txt", "dry_run": False, "tokens": 3, "new": 3, "present": 0,
        "deleted": 0, "refused": 0, "numbers": [[0, 2]],
    }  # fmt: skip
    assert (table["file"], table["tokens"], table["numbers"]) == ("jobs.csv", 2, [[3, 4]])


def test_a_dry_run_prints_the_first_tokens_and_pushes_nothing(run_picas, files, client):
    result = run_picas("push", "jobs.csv", "--dry-run", "--template=p {alpha}", "--id-from=name", "--set=cores=2")
    assert result.returncode == 0
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"input": "p 1", "_id": "first", "cores": 2},
        {"input": "p 2", "_id": "a, b", "cores": 2},
    ]
    assert result.stderr == "jobs.csv: 2 tokens would be pushed\n"
    many = run_picas("push", "-", "--dry-run", stdin="x\n" * 25)
    assert (many.stdout.count("\n"), many.stderr) == (10, "standard input: 25 tokens would be pushed\n")
    [described] = read_json("push", run_picas("push", "jobs.txt", "--dry-run", "--json").stdout)
    assert (described["dry_run"], described["tokens"], described["new"]) == (True, 3, None)
    assert client.doc_count() == 1


def test_a_dry_run_counts_also_for_a_reader_that_wants_no_more(environment, files):
    """As for `picas push --dry-run | head -1`, which is gone before all is printed."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "picas.cli", "push", "--dry-run", "jobs.txt"]
    result = subprocess.run(
        command, cwd=files, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (result.returncode, result.stderr) == (1, "jobs.txt: 3 tokens would be pushed\n")


def test_a_bar_shows_how_fast_it_is(at_terminal, files, client):
    (files / "many.txt").write_text("true\n" * 3000)
    with at_terminal("push", "many.txt") as terminal:
        assert terminal.end() == 0
        assert "3000 of 3000, " in terminal.text
        assert " tokens/s" in terminal.text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("jobs.csv", "--template", "{alfa}"), 2, "jobs.csv has no column 'alfa': the columns are name, alpha, did"),
        (("jobs.csv", "--id-from", "id"), 2, "jobs.csv has no column 'id': the columns are name, alpha\n"),
        (("jobs.txt", "--template", "{name}"), 2, "jobs.txt has no column 'name': a line has the names input, line\n"),
        (("jobs.jsonl", "--template", "{y}"), 1, "line 1 of jobs.jsonl has no field 'y': it has x\n"),
        (("jobs.txt", "--template", "{"), 2, "the template '{' has a single {: write {{ and }} for braces\n"),
        (("jobs.txt", "--format", "xml"), 2, "invalid choice: 'xml'"),
        (("jobs.txt", "--set", "cores"), 2, "cores is not like FIELD=VALUE"),
        (("jobs.txt", "--dry-run", "--set", "lock=1"), 2, "field 'lock' can't be set: PiCaS writes it itself"),
        (("jobs.txt", "--set", "lock=1"), 2, "a token's field 'lock' can't be set: PiCaS writes it itself\n"),
        (("jobs.txt", "--set", "cores=four"), 2, "--set: cores can't be \"four\": write a number such as 4\n"),
        (("jobs.txt", "--set", "memory=8,000"), 2, "memory can't be \"8,000\": write megabytes such as 8000, or"),
        (("jobs.txt", "--dry-run", "--set", "walltime=1:30"), 2, "walltime can't be \"1:30\": write seconds such as"),
        (("needs.jsonl",), 1, "line 2 of needs.jsonl: gpus can't be \"a100:1\": write a number such as 1 (a model"),
        (("jobs.json",), 2, "jobs.json may be one JSON value: with --format jsonl, each line must be one\n"),
        (("-", "-"), 2, "standard input can be read only once\n"),
        ((), 2, "the following arguments are required: FILE"),
        (("missing.csv",), 1, "can't read missing.csv: No such file or directory\n"),
        ((".",), 1, "can't read .: Is a directory\n"),
        (("empty.txt",), 1, "empty.txt has no inputs: each line that is neither blank nor a comment"),
        (("binary.csv",), 1, "binary.csv is not UTF-8 text (after line 0): save it as UTF-8, or"),
        (("-",), 1, "standard input has no inputs: each line"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line_and_nothing_is_pushed(run_picas, files, client, arguments, code, words):
    result = run_picas("push", *arguments)
    assert (result.returncode, result.stdout) == (code, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert client.doc_count() == 1


def test_needs_are_stored_as_all_pilots_read_them(run_picas, files, client):
    needs = ("walltime=01:30:00", "tags=avx2, fast", "memory=8G", "cores=4", "gpus=0")
    assert run_picas("push", "jobs.txt", *(word for need in needs for word in ("--set", need))).returncode == 0
    token = client.get("token_0")
    assert (token["walltime"], token["tags"]) == (5400, ["avx2", "fast"])
    assert (token["memory"], token["cores"], token["gpus"]) == ("8G", 4, 0)


def test_standard_input_that_is_closed(environment, tmp_path):
    command = f'"{sys.executable}" -m picas.cli push - <&-'
    result = subprocess.run(
        ["sh", "-c", command], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "standard input has no inputs" in result.stderr


def test_what_the_server_refuses_is_counted(run_picas, client, is_couchdb):
    if not is_couchdb:
        pytest.skip("the embedded server asks no validation functions")
    rule = "function(doc) { if (doc.input == 'bad') throw({forbidden: 'not this'}); }"
    client.save({"_id": "_design/rule", "validate_doc_update": rule})
    result = run_picas("push", "-", stdin="good\nbad\n")
    assert (result.returncode, result.stdout) == (1, "Pushed 1 token, 1 refused by the server: token_0\n")


def test_a_user_who_may_not_write_is_not_told_to_go_on(run_picas, client, is_couchdb):
    if not is_couchdb:
        pytest.skip("the embedded server asks no validation functions")
    client.save({"_id": "_design/rule", "validate_doc_update": "function(doc) { throw({forbidden: 'readers only'}); }"})
    result = run_picas("push", "-", stdin="good\n")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "readers only" in result.stderr


def test_a_server_that_is_away(run_picas, files):
    result = run_picas("push", "jobs.txt", variables={"PICAS_HOST_URL": "http://127.0.0.1:9"})
    assert (result.returncode, result.stderr.count("\n")) == (75, 1)
