"""Filling the pool: ids that are never used twice, pushes that can be resumed, and tokens made in Python."""

import os
import re
import threading
from uuid import uuid4

import pytest
import requests
from support.faults import FaultProxy, Reply
from support.tokens import make_token

from picas import CouchDB, RunActor, Task, User, pushes
from picas.exceptions import Unreachable
from picas.pool import counter
from picas.pool.counter import COUNTER_ID
from picas.pool.sizes import size_of
from picas.pushes import (
    AlreadyPushed,
    InputError,
    Layout,
    PushError,
    Template,
    push_file,
    push_tokens,
    read_inputs,
    repeatable,
)
from picas.views import count_states


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(pushes, "CHUNK", 5)


@pytest.fixture
def listing(tmp_path):
    def write(*lines, name="inputs.txt"):
        path = tmp_path / name
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    return write


def inputs(client):
    """The inputs of the tokens in the pool, by number."""
    rows = client.view("todo", include_docs=True).rows
    return {int(row.id.partition("_")[2]): row.doc["input"] for row in rows}


def numbered(count):
    return [f"line {number}" for number in range(count)]


def break_off_after(monkeypatch, client, chunks, error=None):
    """Let the connection fail permanently after this number of chunks."""
    save_documents = client.save_documents
    done = []

    def save(documents):
        if len(done) == chunks:
            raise error or ConnectionError("gone")
        done.append(1)
        return save_documents(documents)

    monkeypatch.setattr(client, "save_documents", save)


def test_each_line_becomes_a_free_token_in_the_order_of_the_file(client, listing):
    result = push_file(client, listing(*numbered(12)))
    assert inputs(client) == dict(enumerate(numbered(12)))
    assert (result.pushed, result.existing, result.ids()) == (12, 0, "token_0 to token_11")
    token = client.get("token_0").value
    assert {key: value for key, value in token.items() if key not in ("_rev", "_id")} == {
        "type": "token", "lock": 0, "done": 0, "hostname": "", "scrub_count": 0, "input": "line 0", "exit_code": "",
    }  # fmt: skip


def test_blank_lines_and_comments_are_skipped(listing):
    path = listing("one", "", "   ", "# comment", "  # not at the beginning", "two\t")
    assert list(read_inputs(path)) == ["one", "  # not at the beginning", "two\t"]


def test_a_last_line_without_a_newline_and_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one\r\n\r\ntwo")
    assert list(read_inputs(path)) == ["one", "two"]


def test_the_next_push_continues_after_the_highest_number(client, listing):
    push_file(client, listing("a", "b"))
    assert push_file(client, listing("c")).ids() == "token_2"


def test_numbers_of_deleted_tokens_are_not_used_again(client, listing):
    push_file(client, listing("a", "b"))
    client.delete_from_view("todo")
    assert push_file(client, listing("c")).ids() == "token_2"


def test_numbers_continue_from_tokens_of_an_older_client(client, listing, monkeypatch):
    monkeypatch.setattr(counter, "_SCAN", 3)
    client.save_documents([make_token(number) for number in (0, 9, 10, 2)])
    client.save_documents([{"_id": "token_x"}, {"_id": "token_99z"}, {"_id": "tokens_500"}])
    assert push_file(client, listing("a")).ids() == "token_11"


def test_simultaneous_pushes_never_collide(client, listing):
    paths = [listing(*(f"{person}-{line}" for line in range(7)), name=f"{person}.txt") for person in range(8)]
    threads = [threading.Thread(target=push_file, args=(client.copy(), path)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(inputs(client)) == list(range(56))
    assert sorted(inputs(client).values()) == sorted(f"{p}-{n}" for p in range(8) for n in range(7))


def test_numbers_that_an_older_client_takes_meanwhile_are_replaced(client, listing):
    push_file(client, listing("first"))
    client.save_documents([make_token(2, input="theirs"), make_token(3, input="theirs too")])
    result = push_file(client, listing(*numbered(6)))
    assert result.pushed == 6
    assert sorted(inputs(client).values()) == sorted(["first", "theirs", "theirs too", *numbered(6)])


def test_pushing_the_same_file_twice_makes_new_tokens(client, listing):
    path = listing("a")
    push_file(client, path)
    assert push_file(client, path).ids() == "token_1"


class TestResume:
    def test_an_interrupted_push_is_finished_without_duplicates(self, client, listing, monkeypatch):
        path = listing(*numbered(23))
        with monkeypatch.context() as patch:
            break_off_after(patch, client, 2)
            with pytest.raises(ConnectionError):
                push_file(client, path)
        result = push_file(client, path, resume=True)
        assert (result.pushed, result.existing, result.ids()) == (13, 10, "token_0 to token_22")
        assert inputs(client) == dict(enumerate(numbered(23)))

    def test_tokens_that_were_processed_or_deleted_meanwhile_are_not_pushed_again(self, client, listing, monkeypatch):
        path = listing(*numbered(12))
        with monkeypatch.context() as patch:
            break_off_after(patch, client, 1)
            with pytest.raises(ConnectionError):
                push_file(client, path)
        client.delete(client.get("token_0"))
        done = client.get("token_1")
        done["lock"] = done["done"] = 5
        client.save(done)
        result = push_file(client, path, resume=True)
        assert (result.pushed, result.existing, result.deleted) == (7, 5, 1)
        assert 0 not in inputs(client)
        assert client.get("token_1").rev == done["_rev"]

    def test_other_pushes_in_between_do_no_harm(self, client, listing, monkeypatch):
        path = listing(*numbered(12))
        with monkeypatch.context() as patch:
            break_off_after(patch, client, 1)
            with pytest.raises(ConnectionError):
                push_file(client, path)
        push_file(client, listing("x", "y", name="other.txt"))
        push_file(client, path, resume=True)
        assert inputs(client) == {**dict(enumerate(numbered(12))), 12: "x", 13: "y"}

    def test_lines_that_had_to_move_to_new_numbers_are_not_pushed_again(self, client, listing, monkeypatch):
        push_file(client, listing("first"))
        client.save(make_token(3, input="theirs"))
        path = listing(*numbered(12))
        with monkeypatch.context() as patch:
            break_off_after(patch, client, 2)  # the first chunk, and then its line that moved
            with pytest.raises(ConnectionError):
                push_file(client, path)
        push_file(client, path, resume=True)
        assert sorted(inputs(client).values()) == sorted(["first", "theirs", *numbered(12)])
        assert push_file(client, path, resume=True).ids() == "token_1 to token_2, token_13, token_4 to token_12"

    def test_a_finished_push_is_not_changed(self, client, listing):
        path = listing("a", "b")
        push_file(client, path)
        result = push_file(client, path, resume=True)
        assert (result.pushed, result.existing, result.ids()) == (0, 2, "token_0 to token_1")
        assert len(inputs(client)) == 2

    def test_tokens_get_the_fields_of_the_first_attempt(self, client, listing, monkeypatch):
        path = listing(*numbered(12))
        with monkeypatch.context() as patch:
            break_off_after(patch, client, 1)
            with pytest.raises(ConnectionError):
                push_file(client, path, fields={"cores": 4})
        with pytest.raises(InputError, match=r'an earlier push of .* gave its tokens other fields: {"cores": 4}'):
            push_file(client, path, resume=True, fields={"cores": 5})
        push_file(client, path, resume=True)
        assert {client.get(f"token_{number}")["cores"] for number in range(12)} == {4}
        assert push_file(client, path, resume=True, fields={"cores": 4}).existing == 12

    def test_without_an_earlier_push_it_is_a_normal_push(self, client, listing):
        assert push_file(client, listing("a"), resume=True).pushed == 1


def test_the_size_of_the_counter_is_bounded(client, listing, monkeypatch):
    monkeypatch.setattr(counter, "MAX_PUSHES", 3)
    for number in range(6):
        push_file(client, listing(f"line {number}"))
    assert len(client.get(COUNTER_ID)["pushes"]) == 3


def test_a_lost_counter_is_created_again(client, listing):
    push_file(client, listing("a", "b"))
    client.delete(client.get(COUNTER_ID))
    assert push_file(client, listing("c")).ids() == "token_2"


def test_reports_its_progress(client, listing):
    seen = []
    push_file(client, listing(*numbered(12)), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(5, 12), (10, 12), (12, 12)]


class TestAgain:
    """With `again=False`, a file is pushed once."""

    def test_a_file_that_is_in_the_pool_is_not_pushed(self, client, listing):
        path = listing("a", "b")
        push_file(client, path, again=False)
        with pytest.raises(AlreadyPushed, match=r"list.* is in the pool already, as token_0 to token_1$") as raised:
            push_file(client, listing("# another comment", "a", "", "b", name="list of the same"), again=False)
        assert raised.value.is_finished
        assert len(inputs(client)) == 2

    def test_one_token_that_is_left_counts_whatever_its_state(self, client, listing):
        path = listing("a", "b")
        push_file(client, path)
        client.delete(client.get("token_0"))
        client.save(Task(client.get("token_1").value).error("failed"))
        with pytest.raises(AlreadyPushed):
            push_file(client, path, again=False)

    def test_it_is_pushed_when_all_its_tokens_are_deleted(self, client, listing, monkeypatch):
        monkeypatch.setattr(pushes, "_LOOKED_UP", 3)
        path = listing(*numbered(7))
        push_file(client, path)
        client.delete_from_view("todo")
        assert push_file(client, path, again=False).ids() == "token_7 to token_13"

    def test_other_fields_make_other_tokens(self, client, listing):
        path = listing("a")
        push_file(client, path, again=False)
        assert push_file(client, path, fields={"cores": 4}, again=False).pushed == 1
        with pytest.raises(AlreadyPushed, match="as token_1"):
            push_file(client, path, fields={"cores": 4}, again=False)

    def test_a_push_that_was_broken_off_counts_if_it_has_left_tokens(self, client, listing, monkeypatch):
        path = listing(*numbered(12))
        with monkeypatch.context() as patch:
            break_off_after(patch, client, 1)
            with pytest.raises(ConnectionError):
                push_file(client, path)
        with pytest.raises(AlreadyPushed, match=r"an earlier push of .* did not finish") as raised:
            push_file(client, path, again=False)
        assert not raised.value.is_finished
        assert push_file(client, path, resume=True, again=False).pushed == 7

    def test_a_push_that_has_left_no_token_is_forgotten(self, client, listing, monkeypatch):
        path = listing(*numbered(12))
        with monkeypatch.context() as patch:
            break_off_after(patch, client, 0)
            with pytest.raises(ConnectionError):
                push_file(client, path)
        assert push_file(client, path, again=False).ids() == "token_12 to token_23"
        assert push_file(client, path, resume=True).pushed == 0

    def test_pipes_with_the_same_content_are_the_same(self, client, tmp_path):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        feed(pipe, b"a\n")
        push_file(client, pipe, again=False)
        feed(pipe, b"a\n")
        with pytest.raises(AlreadyPushed, match=f"^{pipe} is in the pool already, as token_0$"):
            push_file(client, pipe, again=False)


TEXT = "one\ntwo \u20ac\n"


class TestEncodings:
    @pytest.mark.parametrize("name", ["utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
    def test_other_encodings_are_named(self, client, tmp_path, name):
        path = tmp_path / "list"
        path.write_bytes(TEXT.encode(name))
        shown = name.upper().replace("-LE", "LE").replace("-BE", "BE")
        with pytest.raises(InputError) as raised:
            push_file(client, path)
        assert str(raised.value) == f"{path} is {shown} text: convert it with iconv -f {shown} -t UTF-8"
        assert inputs(client) == {}

    def test_a_zero_byte_is_named_with_its_line(self, tmp_path):
        path = tmp_path / "list"
        path.write_bytes(b"one\n\ntwo\0three\0")
        with pytest.raises(InputError, match=r"is not UTF-8 text: line 3 has a zero byte$"):
            list(read_inputs(path))

    @pytest.mark.parametrize(
        "content",
        [
            TEXT.encode("utf-8-sig"),
            TEXT.encode().replace(b"\n", b"\r\n"),
            TEXT.encode().replace(b"\n", b"\r"),
            TEXT.encode("utf-8-sig") + "# next file\n".encode("utf-8-sig"),
            "one\n".encode("utf-8-sig") + "two \u20ac".encode("utf-8-sig"),
        ],
        ids=["mark", "Windows", "old Macintosh", "comment", "two files"],
    )
    def test_marks_and_line_ends_belong_to_no_input(self, client, tmp_path, content):
        path = tmp_path / "list"
        path.write_bytes(content)
        assert list(read_inputs(path)) == ["one", "two \u20ac"]
        push_file(client, path)
        path.write_bytes(TEXT.encode())
        assert push_file(client, path, resume=True).existing == 2

    def test_a_file_of_one_byte_or_none_is_read(self, tmp_path):
        path = tmp_path / "list"
        path.write_bytes(b"1")
        assert list(read_inputs(path)) == ["1"]
        path.write_bytes("\ufeff".encode())
        assert list(read_inputs(path)) == []


class SmallProxy(FaultProxy):
    """A proxy that refuses requests of more than 250 kB, as many do."""

    def _pass_on(self, request):
        if len(request.body) > 250_000:
            return Reply(413, b"<html>Too large</html>", {"Content-Type": "text/html"})
        return super()._pass_on(request)


@pytest.fixture
def limited(client, location, is_couchdb):
    """A client of a CouchDB that takes documents of 1 MB at most."""
    if not is_couchdb:
        pytest.skip("the embedded server takes 256 MB")
    setting = f"{location.url}/_node/_local/_config/couchdb/max_document_size"
    ask = requests.Session()
    ask.auth = (location.username, location.password)
    before = ask.get(setting)
    assert ask.put(setting, json="1000000").ok
    yield client
    assert (ask.put(setting, json=before.json()) if before.ok else ask.delete(setting)).ok


class TestSizes:
    """What is too large for the server is found before anything is sent."""

    def test_a_line_is_named_and_nothing_is_pushed(self, limited, listing):
        path = listing("small", "# comment", "x" * 1_400_000, "y" * 900_000)
        with pytest.raises(InputError) as raised:
            push_file(limited, path)
        found = re.fullmatch(
            r"line 3 of .*inputs.txt is too large: its token has 1,400 kB, and the server takes about ([\d,]+) kB",
            str(raised.value),
        )
        assert 985 <= int(found[1].replace(",", "")) <= 1000
        assert limited.doc_count() == 1  # the views: no token, no counter, no probe

    def test_bytes_count(self, limited, listing):
        with pytest.raises(InputError, match=r"line 2 of .* is too large: its token has 1,200 kB"):
            push_file(limited, listing("x" * 900_000, "\u20ac" * 400_000))

    @pytest.mark.parametrize("text", ["x", '"', "\\", "\x01", "\u20ac", "\n\u00fc"])
    def test_are_those_that_couchdb_counts(self, limited, text):
        for size in (999_000, 1_001_000):
            token = {"list": [1, None, {"a": "b"}], "input": text * (size // len(text.encode()))}
            assert abs(size_of(token) - size) < 100
            assert limited.has_room_for(token) == (size < 1_000_000)

    def test_fields_count(self, limited, listing):
        with pytest.raises(InputError, match=r"line 1 of .* is too large"):
            push_file(limited, listing("x"), fields={"note": "x" * 1_400_000})

    def test_lines_just_below_the_limit_are_pushed(self, limited, listing):
        assert push_file(limited, listing("x" * 999_000, "y" * 101_000)).pushed == 2

    def test_the_default_limit_of_couchdb(self, client, is_couchdb, listing):
        if not is_couchdb:
            pytest.skip("the embedded server takes 256 MB")
        with pytest.raises(InputError, match=r"its token has 8,200 kB, and the server takes about 7,9\d\d kB"):
            push_file(client, listing("x" * 8_200_000))

    def test_a_member_of_the_database_is_told_too(self, limited, location, listing):
        name = f"member_{uuid4().hex}"
        users = limited.server["_users"]
        users.save(User(name, "a password").value)
        try:
            limited.set_users(members=[name])
            member = CouchDB(location.url, limited.database_name, name, "a password")
            with pytest.raises(InputError, match=r"line 1 of .* is too large"):
                push_file(member, listing("x" * 1_400_000))
        finally:
            del users[f"org.couchdb.user:{name}"]

    def test_nothing_is_stored_by_the_question(self, client):
        before = client.doc_count()
        assert client.has_room_for({"_id": "token_0", "input": "x" * 200_000})
        assert client.doc_count() == before
        assert count_states(client)["todo"] == 0

    def test_a_proxy_may_have_the_limit(self, client, location):
        with SmallProxy(location.url) as proxy:
            far = CouchDB(proxy.url, client.database_name, location.username, location.password)
            with pytest.raises(InputError, match=r"item 1 is too large: its token has 500 kB, .* about 2\d\d kB"):
                push_tokens(far, ["x", "y" * 500_000])
        assert inputs(client) == {}

    def test_an_item_in_the_middle_is_named_with_what_is_pushed(self, limited):
        items = (("x" * 1_400_000 if number == 17 else number) for number in range(30))
        with pytest.raises(PushError) as raised:
            push_tokens(limited, items)
        assert re.fullmatch(
            r"item 17 is too large: its token has 1,400 kB, and the server takes about [\d,]+ kB; "
            "15 tokens were pushed before: token_0 to token_14",
            str(raised.value),
        )
        assert len(inputs(limited)) == 15

    def test_in_a_list_it_is_found_before_anything_is_pushed(self, limited):
        with pytest.raises(InputError, match=r"^item 17 is too large"):
            push_tokens(limited, [("x" * 1_400_000 if number == 17 else number) for number in range(30)])
        assert inputs(limited) == {}


class TestPushTokens:
    def test_an_input_may_be_any_json_value_but_an_object(self, client):
        given = ["text", 7, 2.5, True, None, [1, {"a": "\u20ac"}], ""]
        result = push_tokens(client, given)
        assert inputs(client) == dict(enumerate(given))
        assert (result.pushed, result.existing, result.ids()) == (7, 0, "token_0 to token_6")

    def test_a_mapping_has_fields_of_the_token(self, client):
        push_tokens(client, [{"input": {"a": 1}, "cores": 4, "mine": [1]}, {"mine": 2}])
        first, second = (client.get(f"token_{number}").value for number in (0, 1))
        empty = {"type": "token", "lock": 0, "done": 0, "hostname": "", "scrub_count": 0, "exit_code": ""}
        assert first == {**empty, "_id": "token_0", "_rev": first["_rev"], "input": {"a": 1}, "cores": 4, "mine": [1]}
        assert second == {**empty, "_id": "token_1", "_rev": second["_rev"], "mine": 2}

    def test_a_generator_is_sent_while_it_runs(self, client):
        seen = []

        def items():
            for number in range(12):
                seen.append((number, count_states(client)["todo"]))
                yield number

        assert push_tokens(client, items()).ids() == "token_0 to token_11"
        assert seen[-1] == (11, 10)

    def test_few_large_items_are_held(self, client, monkeypatch):
        monkeypatch.setattr(pushes, "CHUNK_BYTES", 1000)
        seen = []

        def items():
            for _ in range(9):
                seen.append(count_states(client)["todo"])
                yield "x" * 600

        push_tokens(client, items())
        assert seen == [max(0, number - 1) for number in range(9)]

    def test_numbers_go_on_from_those_of_files(self, client, listing):
        push_file(client, listing("a", "b"))
        assert push_tokens(client, ["c"]).ids() == "token_2"
        assert push_file(client, listing("d")).ids() == "token_3"

    def test_numbers_that_an_older_client_takes_meanwhile_are_replaced(self, client):
        push_tokens(client, ["first"])
        client.save_documents([make_token(2, input="theirs"), make_token(3, input="theirs too")])
        result = push_tokens(client, numbered(4))
        assert (result.pushed, result.ids()) == (4, "token_1, token_4 to token_6")
        assert sorted(inputs(client).values()) == sorted(["first", "theirs", "theirs too", *numbered(4)])

    def test_simultaneous_pushes_never_collide(self, client):
        threads = [threading.Thread(target=push_tokens, args=(client.copy(), range(7))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(inputs(client)) == list(range(56))

    def test_items_with_ids_can_be_pushed_again(self, client):
        items = [{"_id": f"star {number}", "input": number} for number in range(12)]
        result = push_tokens(client, items)
        assert (result.pushed, result.existing, result.ids()) == (12, 0, "")
        client.save(Task(client.get("star 3").value).lock().done())
        client.delete(client.get("star 4"))
        result = push_tokens(client, iter([*items, {"_id": "star 12", "input": 12}]))
        assert (result.pushed, result.existing, result.deleted) == (1, 12, 1)
        assert count_states(client) == {"todo": 11, "locked": 0, "done": 0, "error": 1}

    def test_of_items_with_the_same_id_the_first_counts(self, client):
        result = push_tokens(client, [{"_id": "a", "input": number} for number in range(7)])
        assert (result.pushed, result.existing, client.get("a")["input"]) == (1, 6, 0)

    def test_an_id_that_somebody_else_takes_meanwhile_counts_as_existing(self, client, monkeypatch):
        all_docs = client.all_docs

        def after_another(**params):
            rows = all_docs(**params)
            monkeypatch.undo()
            client.save({"_id": "a", "input": "theirs"})
            return rows

        monkeypatch.setattr(client, "all_docs", after_another)
        result = push_tokens(client, [{"_id": "a"}, {"_id": "b"}])
        assert (result.pushed, result.existing, client.get("a")["input"]) == (1, 1, "theirs")

    @pytest.mark.parametrize(
        ("item", "message"),
        [
            ({"input": 1, "walltime": "1:30"}, 'walltime can.t be "1:30": write seconds such as 3600'),
            ({"input": 1, "lock": 0}, "a token's field 'lock' can't be set: PiCaS writes it itself"),
            ({"_rev": "1-a"}, "a token's field '_rev' can't be set"),
            ({"": 1}, "a token's field '' can't be set"),
            ({3: 1}, "the name of a token's field must be a text, not 3"),
            ({"_id": ""}, "'' can't be the id of a token"),
            ({"_id": 7}, "7 can't be the id of a token"),
            ({"_id": "_design/x"}, "'_design/x' can't be the id of a token"),
            ({"_id": COUNTER_ID}, "'token_counter' can't be the id of a token"),
            ({"input": {"a": [0, float("nan")]}}, r"the database can't hold input.a\[1\]"),
            ([object()], r"the database can't hold input\[0\]"),
            (b"bytes", "the database can't hold input"),
            (Task({"input": 1}), "a token's field 'type' can't be set"),
        ],
    )
    @pytest.mark.parametrize("kind", [list, iter])
    def test_a_bad_item_is_named_by_its_position(self, client, item, message, kind):
        with pytest.raises(InputError, match=f"^item 2: {message}"):
            push_tokens(client, kind(["a", "b", item]))
        assert client.doc_count() == 1

    def test_a_bad_item_of_a_list_is_found_before_anything_is_pushed(self, client):
        with pytest.raises(InputError, match="item 11"):
            push_tokens(client, [*range(11), {"done": 1}])
        assert client.doc_count() == 1

    def test_a_bad_item_of_a_stream_is_named_with_what_is_pushed(self, client):
        with pytest.raises(PushError, match=r"^item 11: .*; 10 tokens were pushed before: token_0 to token_9$"):
            push_tokens(client, iter([*range(11), {"done": 1}]))
        assert len(inputs(client)) == 10

    def test_an_error_of_the_connection_says_what_is_pushed(self, client, monkeypatch):
        break_off_after(monkeypatch, client, 2, Unreachable("the network is gone"))
        with pytest.raises(PushError, match=r"^the network is gone; 10 tokens were pushed before: token_0 to token_9$"):
            push_tokens(client, range(30))

    def test_an_error_of_the_iterable_is_its_own(self, client):
        def items():
            yield from range(5)
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            push_tokens(client, items())

    @pytest.mark.parametrize("items", ["text", b"bytes", {"input": 1}, Task({"input": 1})])
    def test_a_single_item_is_refused(self, client, items):
        with pytest.raises(TypeError, match=r"put this .* into a list"):
            push_tokens(client, items)

    def test_no_items_make_no_tokens(self, client):
        assert push_tokens(client, []) == push_tokens(client, iter(())) == pushes.Pushed()
        assert client.doc_count() == 1

    def test_a_server_that_refuses_tokens_is_named(self, client, is_couchdb):
        if not is_couchdb:
            pytest.skip("the embedded server asks no validation functions")
        rule = "function(doc) { if (doc.type == 'token') throw({forbidden: 'not today'}); }"
        client.save({"_id": "_design/rule", "validate_doc_update": rule})
        for items in (["a"], [{"_id": "a"}]):
            with pytest.raises(PushError, match=r"the server refuses new tokens, e\.g\. "):
                push_tokens(client, items)

    def test_tokens_are_processed(self, client):
        class Doubling(RunActor):
            def process_task(self, token):
                token["output"] = 2 * token["input"]["n"]

        push_tokens(client, ({"input": {"n": number}} for number in range(3)))
        Doubling(client).run()
        assert [row.doc["output"] for row in client.view("done", include_docs=True).rows] == [0, 2, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no inputs"),
        (b"# nothing\n\n", "has no inputs"),
        (b"fine\n\xff\xfe\n", r"is not UTF-8 text \(after line"),
    ],
)
def test_a_file_that_is_not_a_list_of_inputs_is_rejected_before_anything_is_pushed(client, tmp_path, content, message):
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        push_file(client, path)
    assert inputs(client) == {}


def test_a_missing_file_is_named(client, tmp_path):
    with pytest.raises(InputError, match=r"can't read .*missing: No such file"):
        push_file(client, tmp_path / "missing")


def feed(path, content):
    """Write to a pipe as soon as somebody reads it."""
    writer = threading.Thread(target=path.write_bytes, args=(content,), daemon=True)
    writer.start()
    return writer


class TestPipe:
    @pytest.fixture
    def pipe(self, tmp_path):
        path = tmp_path / "pipe"
        os.mkfifo(path)
        return path

    def test_is_pushed_and_resumed_like_a_file(self, client, pipe):
        feed(pipe, b"a\nb\n")
        assert push_file(client, pipe).ids() == "token_0 to token_1"
        assert inputs(client) == {0: "a", 1: "b"}
        feed(pipe, b"a\nb\n")
        result = push_file(client, pipe, resume=True)
        assert (result.pushed, result.existing) == (0, 2)

    def test_without_inputs_is_named_in_the_error(self, client, pipe):
        feed(pipe, b"# nothing\n")
        with pytest.raises(InputError, match=f"{pipe} has no inputs"):
            push_file(client, pipe)

    def test_that_is_a_folder(self, client, tmp_path):
        with pytest.raises(InputError, match=f"can't read {tmp_path}: Is a directory"):
            push_file(client, tmp_path)

    def test_a_file_is_not_copied(self, listing):
        path = listing("a")
        with repeatable(path) as kept:
            assert kept == path


@pytest.mark.parametrize("lines", [["a"], ["a", "x", "c"]])
def test_a_file_that_changes_between_counting_and_sending_is_noticed(client, listing, monkeypatch, lines):
    path = listing("a", "b", "c")
    survey = pushes.survey_of

    def survey_and_change(path, layout):
        result = survey(path, layout)
        listing(*lines)
        return result

    monkeypatch.setattr(pushes, "survey_of", survey_and_change)
    with pytest.raises(PushError, match=f"changed while it was read: {len(lines)} tokens"):
        push_file(client, path)


class TestFields:
    def test_are_in_each_token(self, client, listing):
        push_file(client, listing("a", "b"), fields={"cores": 4, "tags": ["x"]})
        for number in (0, 1):
            token = client.get(f"token_{number}").value
            assert token.items() >= {"cores": 4, "tags": ["x"], "lock": 0, "done": 0, "type": "token"}.items()

    @pytest.mark.parametrize(
        "name", ["_id", "_rev", "", "lock", "done", "input", "type", "claim", "attempts", "lost_count", "job_ends"]
    )
    def test_that_picas_writes_itself_are_rejected_before_anything_is_pushed(self, client, listing, name):
        with pytest.raises(InputError, match="PiCaS writes it itself"):
            push_file(client, listing("a"), fields={name: 1})
        assert inputs(client) == {}


class TestLayouts:
    """Tables and JSON values are pushed like lines."""

    CSV = Layout("csv", Template("fit {name}"))

    def test_an_interrupted_push_of_a_table_is_finished_with_the_same_template(self, client, listing, monkeypatch):
        path = listing("name,x", *(f"star {number},1" for number in range(12)), name="stars.csv")
        with monkeypatch.context() as patch:
            break_off_after(patch, client, 1)
            with pytest.raises(ConnectionError):
                push_file(client, path, layout=self.CSV)
        result = push_file(client, path, resume=True, layout=self.CSV)
        assert (result.pushed, result.existing, result.ids()) == (7, 5, "token_0 to token_11")
        assert inputs(client) == {number: f"fit 'star {number}'" for number in range(12)}
        with pytest.raises(AlreadyPushed):
            push_file(client, path, again=False, layout=self.CSV)
        assert push_file(client, path, resume=True, layout=Layout("csv")).pushed == 12

    def test_fields_of_json_objects_are_kept_unless_others_are_given(self, client, listing):
        path = listing('{"input": [1], "cores": 4, "mine": {"a": 1}}', name="a.jsonl")
        push_file(client, path, layout=Layout("jsonl"), fields={"cores": 8})
        assert client.get("token_0").value.items() >= {"input": [1], "cores": 8, "mine": {"a": 1}, "lock": 0}.items()

    def test_tokens_with_ids_are_pushed_once(self, client, listing):
        path = listing("name,x", *(f"star {number},1" for number in range(12)), name="stars.csv")
        layout = Layout("csv", id_from="name")
        seen = []
        result = push_file(client, path, layout=layout, progress=lambda done, total: seen.append((done, total)))
        assert (result.pushed, result.existing, result.ids()) == (12, 0, "")
        assert seen == [(5, 12), (10, 12), (12, 12)]
        client.save(Task(client.get("star 3").value).lock())
        client.delete(client.get("star 4"))
        path = listing("name,x", *(f"star {number},2" for number in range(13)), name="stars.csv")
        result = push_file(client, path, layout=layout, again=False)
        assert (result.pushed, result.existing, result.deleted) == (1, 12, 1)
        assert client.get("star 0")["input"] == {"name": "star 0", "x": "1"}
        assert push_tokens(client, ["x"]).ids() == "token_0"

    def test_what_the_server_refuses_is_counted(self, client, listing, is_couchdb):
        if not is_couchdb:
            pytest.skip("the embedded server asks no validation functions")
        rule = "function(doc) { if (/bad/.test(doc.input)) throw({forbidden: 'not this'}); }"
        client.save({"_id": "_design/rule", "validate_doc_update": rule})
        lines = [f"{'bad' if number in (1, 7) else 'good'} {number}" for number in range(12)]
        result = push_file(client, listing(*lines))
        assert (result.pushed, result.existing, result.refused) == (10, 0, 2)
        assert result.ids() == "token_0, token_2 to token_6, token_8 to token_11"
        client.delete(client.get("_design/rule"))
        result = push_file(client, listing(*lines), resume=True)
        assert (result.pushed, result.existing, result.refused) == (2, 10, 0)

    def test_so_is_what_has_an_id(self, client, listing, is_couchdb):
        if not is_couchdb:
            pytest.skip("the embedded server asks no validation functions")
        rule = "function(doc) { if (doc._id == 'bad') throw({forbidden: 'not this'}); }"
        client.save({"_id": "_design/rule", "validate_doc_update": rule})
        result = push_file(client, listing("good", "bad", "best"), layout=Layout(id_from="line"))
        assert (result.pushed, result.existing, result.refused) == (2, 0, 1)
        with pytest.raises(PushError, match=r"the server refuses new tokens, e\.g\. bad"):
            push_file(client, listing("bad"), layout=Layout(id_from="line"))

    def test_large_values_are_sent_few_at_a_time(self, client, listing, monkeypatch):
        monkeypatch.setattr(pushes, "CHUNK_BYTES", 1000)
        seen = []
        push_file(client, listing(*["x" * 600] * 3), progress=lambda done, total: seen.append(done))
        assert seen == [1, 2, 3]
