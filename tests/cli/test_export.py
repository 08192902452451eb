"""The verb `export`."""

from __future__ import annotations

import csv
import io
import json
import subprocess

import pytest
from support.places import command
from support.tokens import ended_token, make_token

from picas import Task
from picas.pool.exports import MAX_NAME, safe_name, save_logs


@pytest.fixture
def pool(client):
    """Two tokens that are done, one in error and one to do."""
    tokens = [
        ended_token(0, "done", seconds=10.5, input="fit 0", output={"chi2": 1.5, "name": "a,b\n\u00fc"}),
        ended_token(1, "done", input={"alpha": 1}, seconds=2.5),
        ended_token(2, reason="=bad, bad", group="r0000", input=-5),
        make_token(3),
    ]
    assert all(client.save_documents(tokens))
    return client


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_values_separated_by_commas(pool, run_picas):
    result = run_picas("export", "--csv")
    assert (result.returncode, result.stderr) == (0, "")
    first, second, third = rows_of(result.stdout)
    assert float(first.pop("max_memory_mb")) == 12
    assert first == {
        "_id": "token_0",
        "state": "done",
        "exit_code": "0",
        "attempts": "1",
        "host": "host",
        "start": "2023-11-14T22:13:20Z",
        "end": "2023-11-14T22:13:30Z",
        "seconds": "10.5",
        "cpu_seconds": "5.25",
        "reason": "",
        "input": "fit 0",
        "output": json.dumps({"chi2": 1.5, "name": "a,b\n\u00fc"}, ensure_ascii=False),
    }
    assert (second["input"], second["seconds"], second["output"]) == ('{"alpha": 1}', "2.5", "")
    assert (third["state"], third["reason"], third["input"]) == ("error", "=bad, bad", "-5")


def test_fields_states_and_filters(pool, run_picas):
    result = run_picas("export", "done", "todo", "--csv", "--fields", "id,output.chi2", "--where", "output exists")
    assert (result.stdout, result.stderr) == ("id,output.chi2\ntoken_0,1.5\n", "")


def test_a_field_that_no_token_has_is_named_at_the_end(pool, run_picas):
    result = run_picas("export", "--csv", "--fields", "id,inptu,output.chi2,nope.x")
    assert result.returncode == 0
    assert result.stderr == "None of 3 tokens has inptu, nope.x\n"
    assert [row["inptu"] for row in rows_of(result.stdout)] == [""] * 3


def test_lines_of_json_are_whole_tokens_or_their_fields(pool, run_picas):
    result = run_picas("export", "error", "--jsonl")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [pool.get("token_2").value]
    result = run_picas("export", "error", "--jsonl", "--fields", "_id,end,input,nope")
    assert json.loads(result.stdout) == {"_id": "token_2", "end": "2023-11-14T22:13:30Z", "input": -5, "nope": None}


def test_an_empty_pool_has_headings_only(client, run_picas):
    result = run_picas("export", "--csv", "--fields", "id,nope")
    assert (result.returncode, result.stdout, result.stderr) == (0, "id,nope\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "in which form? Give --csv, --jsonl or --logs FOLDER"),
        (["--csv", "--jsonl"], "not allowed with"),
        (["--csv", "locket"], "'locket' is not a state"),
        (["--csv", "--fields", ""], "'' is not a field"),
    ],
)
def test_bad_input_is_named_in_one_line(complaint, arguments, message):
    assert message in complaint("export", *arguments)


def test_it_ends_quietly_when_its_reader_goes_away(client, environment, tmp_path):
    client.save_documents([ended_token(number, "done", input="x" * 1000) for number in range(1500)])
    with subprocess.Popen(
        command("export", "--csv"), env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as export:
        assert export.stdout.readline().startswith(b"_id,")
        export.stdout.close()
        assert export.stderr.read() == b""


class TestLogs:
    @pytest.fixture
    def tokens(self, client):
        """Two tokens with logs; the names of the second lead out of any folder."""
        plain, odd = Task(ended_token(0, "done")), Task({**ended_token(1), "_id": "../odd/\u00fc"})
        plain.put_attachment("logs_token_0.out", "the output")
        plain.put_attachment("logs_token_0.err", "")
        odd.put_attachment("../../x", b"\x00\xff")
        odd.put_attachment(".profile", "echo")
        assert all(client.save_documents([plain, odd, ended_token(2)]))
        return plain, odd

    @staticmethod
    def files(folder):
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    EXPECTED = {
        "token_0/logs_token_0.out": b"the output",
        "token_0/logs_token_0.err": b"",
        "%2E.%2Fodd%2F%C3%BC/%2E.%2F..%2Fx": b"\x00\xff",
        "%2E.%2Fodd%2F%C3%BC/%2Eprofile": b"echo",
    }

    def test_are_saved_below_the_folder_whatever_the_names_are(self, tokens, run_picas, tmp_path):
        result = run_picas("export", "--logs", "logs")
        assert (result.returncode, result.stdout) == (0, "")
        assert result.stderr == "Saved 4 files of 2 tokens in logs\n"
        assert self.files(tmp_path / "logs") == self.EXPECTED

    def test_are_fetched_once(self, tokens, client, tmp_path, run_picas):
        run_picas("export", "--logs", "logs")
        (tmp_path / "logs" / "token_0" / "logs_token_0.out").write_bytes(b"half")
        result = run_picas("export", "--jsonl", "--fields", "id", "--logs", "logs")
        assert result.stderr == "Saved 1 file of 1 token in logs\n"
        assert len(result.stdout.splitlines()) == 3
        assert self.files(tmp_path / "logs") == self.EXPECTED

    def test_that_are_new_replace_those_of_an_earlier_attempt(self, tokens, client, tmp_path):
        plain, _ = tokens
        assert save_logs(client, client.get("token_0"), tmp_path) == 2
        plain.put_attachment("logs_token_0.out", "new output"[:10])
        plain["attempts"] = [*plain["attempts"], {**plain["attempts"][0], "end": 1_700_009_999}]
        plain["done"] = 1_700_009_999
        client.save(plain)
        assert save_logs(client, client.get("token_0"), tmp_path) == 2
        assert (tmp_path / "token_0" / "logs_token_0.out").read_bytes() == b"new output"

    def test_that_vanish_meanwhile_are_left_out(self, tokens, client, tmp_path):
        old = client.get("token_0")
        client.delete(client.get("token_0"))
        assert save_logs(client, old, tmp_path) == 0

    def test_to_a_folder_that_can_not_be_made(self, tokens, run_picas, tmp_path):
        (tmp_path / "logs").write_text("a file")
        result = run_picas("export", "--logs", "logs")
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1
        assert "logs/token_0" in result.stderr or "logs/%2E" in result.stderr


class TestNames:
    def test_plain_names_stay(self):
        for name in ("token_0", "logs_token_0.out", "a-b.C", "x..y"):
            assert safe_name(name) == name

    def test_each_name_has_its_own(self):
        long = "x" * 300
        names = ["a/b", "a%2Fb", ".a", "%2Ea", "..", "a b", "\u00fc", "\ud800", "a~b", long, long + "y", "/" * 100]
        safe = [safe_name(name) for name in names]
        assert len(set(safe)) == len(names)
        assert all(0 < len(each) <= MAX_NAME and "/" not in each and not each.startswith(".") for each in safe)
