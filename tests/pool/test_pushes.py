"""Filling the pool: ids that are never used twice, and pushes that can be resumed."""

import os
import threading

import pytest
from support.tokens import make_token

from picas import pushes
from picas.pushes import COUNTER_ID, InputError, PushError, push_file, read_inputs, repeatable, was_broken_off


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


def break_off_after(monkeypatch, client, chunks):
    """Let the connection fail permanently after this number of chunks."""
    save_documents = client.save_documents
    done = []

    def save(documents):
        if len(done) == chunks:
            raise ConnectionError("gone")
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
    monkeypatch.setattr(pushes, "_SCAN", 3)
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
        assert was_broken_off(client, path)
        result = push_file(client, path, resume=True)
        assert (result.pushed, result.existing, result.ids()) == (13, 10, "token_0 to token_22")
        assert inputs(client) == dict(enumerate(numbered(23)))
        assert not was_broken_off(client, path)

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
        assert push_file(client, path, resume=True).pushed == 7
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
    monkeypatch.setattr(pushes, "MAX_PUSHES", 3)
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no inputs"),
        (b"# nothing\n\n", "has no inputs"),
        (b"fine\n\xff\xfe\n", "is not UTF-8 text"),
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
    survey = pushes._survey

    def survey_and_change(path):
        result = survey(path)
        listing(*lines)
        return result

    monkeypatch.setattr(pushes, "_survey", survey_and_change)
    with pytest.raises(PushError, match=f"changed while it was read: {len(lines)} tokens"):
        push_file(client, path)


class TestFields:
    def test_are_in_each_token(self, client, listing):
        push_file(client, listing("a", "b"), fields={"cores": 4, "tags": ["x"]})
        for number in (0, 1):
            token = client.get(f"token_{number}").value
            assert token.items() >= {"cores": 4, "tags": ["x"], "lock": 0, "done": 0, "type": "token"}.items()

    @pytest.mark.parametrize("name", ["_id", "_rev", "", "lock", "done", "input", "type", "claim", "attempts"])
    def test_that_picas_writes_itself_are_rejected_before_anything_is_pushed(self, client, listing, name):
        with pytest.raises(InputError, match="PiCaS writes it itself"):
            push_file(client, listing("a"), fields={name: 1})
        assert inputs(client) == {}
