"""The verb `why`; what it finds is tested in tests/pilot/test_obstacles.py."""

from __future__ import annotations

import pytest
from support.schemas import read_json
from support.tokens import ended_token, make_token


def test_says_why_a_token_does_not_run(run_picas, client, push):
    push(2, cores=8, tags=["\x1b]0;evil\x07"])
    client.save({"_id": "picas_pilot_a", "type": "pilot", "state": "running", "cores": 4})
    result = run_picas("why", "token_1")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        "token_1 is in todo\n  1 running pilot can't take it: 4 of 8 cores, not all of the tags \\x1b]0;evil\\x07\n"
    )


def test_as_json(run_picas, client):
    client.save(ended_token(0, reason="no file", group="r77c0"))
    client.save(make_token(1))
    client.save(make_token(2, lock=None))
    (found,) = read_json("why", run_picas("why", "token_1", "--json").stdout)
    reason = {"kind": "no pilot", "text": "no pilot is running", "pilots": 0, "lacks": []}
    assert found == {
        "schema": "picas.why/1",
        "id": "token_1",
        "state": "todo",
        "reasons": [reason],
        "tokens_before": 0,
        "tokens_waiting": 1,
        "running_pilots": 0,
    }
    for id, state in (("token_0", "error"), ("token_2", None)):
        (found,) = read_json("why", run_picas("why", id, "--json").stdout)
        assert found["state"] == state


@pytest.mark.parametrize(("arguments", "code"), [(["token_9"], 1), (["_x"], 1), ([], 2), (["a", "b"], 2)], ids=str)
def test_bad_input_is_one_line(run_picas, arguments, code):
    result = run_picas("why", *arguments)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (code, "", 1)
