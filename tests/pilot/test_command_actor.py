"""`CommandActor`: programs as the work of tokens, for scripts."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time

import pytest

from picas.actors import CommandActor, on_end, outcomes
from picas.exceptions import TokenError
from picas.pilot import CommandLine
from picas.pilot.folders import TokenFolders
from picas.pushes import push_tokens

pytestmark = pytest.mark.usefixtures("quick", "nothing_left")


def log(client, token, stream="out"):
    return client.get(token).get_attachment(f"logs_{token}.{stream}", client)["data"]


@pytest.mark.parametrize("slots", [1, 3])
def test_runs_a_program_and_keeps_what_came_of_it(client, slots):
    push_tokens(client, [{"input": {"code": code}} for code in (0, 3)])
    program = "import sys; print(sys.argv[1:]); print('oops', file=sys.stderr); sys.exit(int(sys.argv[1]))"
    actor = CommandActor(client, command=CommandLine([sys.executable, "-c", program, "{code}", "{id}"]))
    actor.run(slots=slots)
    assert outcomes(actor) == {"done": 1, "failed": 1}
    assert [client.get(f"token_{number}")["exit_code"] for number in (0, 1)] == [0, 3]
    assert log(client, "token_1") == b"['3', 'token_1']\n"
    assert log(client, "token_1", "err") == b"oops\n"


def test_uploads_are_kept_and_the_folder_for_results_is_deleted(client, tmp_path):
    work = 'touch "$PICAS_RESULTS/a"; printf "a\\thttp://there/a\\n" > "$PICAS_UPLOADS"; pwd; echo "$PICAS_RESULTS"'
    push_tokens(client, [work])
    CommandActor(client, scratch=tmp_path).run()
    assert client.get("token_0")["uploads"] == {"a": "http://there/a"}
    folder, results = log(client, "token_0").decode().split()
    assert folder.startswith(f"{tmp_path}/picas-")
    assert results.startswith(f"{tmp_path}/picas-")
    assert list(tmp_path.glob("picas-*")) == []


@pytest.mark.parametrize("slots", [1, 2])
def test_a_token_sees_nothing_of_the_one_before_it(client, tmp_path, slots):
    work = 'ls -A "$PICAS_RESULTS" . "$(dirname "$PICAS_RESULTS")"; ls -ld "$PICAS_RESULTS" | cut -c1-10; '
    leave = ['touch "$PICAS_RESULTS/a"', "touch a", 'chmod 0 "$PICAS_RESULTS"', 'echo a > "$PICAS_UPLOADS"', "true"]
    push_tokens(client, [work + each for each in leave * 4])
    CommandActor(client, scratch=tmp_path).run(slots=slots)
    logs = {re.sub(rb"picas-\w+", b"picas", log(client, f"token_{number}")) for number in range(20)}
    assert len(logs) == 1, logs
    folder = str(tmp_path / "picas").encode()
    assert logs.pop().startswith(b".:\n\n%b:\nerr\nout\nresults\nwork\n\n%b/results:\ndrwx" % (folder, folder))
    assert list(tmp_path.iterdir()) == []


def test_no_folder_is_left_after_a_run_whatever_hooks_the_actor_has(client, tmp_path):
    class WithHooks(CommandActor):
        def prepare_env(self):
            self.tasks_processed = 0

        def cleanup_env(self):
            assert self.tasks_processed

    actor = WithHooks(client, scratch=tmp_path)
    for slots in (1, 3):
        push_tokens(client, ["true"] * 4)
        actor.run(slots=slots)
        actor.iterator.reset()
        assert list(tmp_path.iterdir()) == []


def test_a_forked_process_uses_no_folder_of_its_parent_and_deletes_none(tmp_path):
    folders = TokenFolders(tmp_path)
    with folders.folder() as first:
        pass
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(Exception), folders.folder() as second:
            code = int(second is first)
        folders.close()
        os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    with folders.folder() as third:
        assert third is first
    folders.close()
    assert list(tmp_path.iterdir()) == []


def test_a_time_out_keeps_the_log_so_far(client):
    push_tokens(client, ["echo begun; exec sleep 60"])
    actor = CommandActor(client)
    actor.run(max_token_time=1)
    assert outcomes(actor) == {"time-out": 1}
    assert log(client, "token_0") == b"begun\n"


def test_a_command_of_ones_own_may_refuse_a_token(client):
    def command(token):
        raise TokenError("not this one")

    push_tokens(client, ["x"])
    CommandActor(client, command=command).run()
    assert client.get("token_0")["error"][-1]["message"] == "TokenError: not this one"


class TestOnEnd:
    @pytest.mark.parametrize("slots", [1, 2])
    def test_is_called_at_the_end_of_each_attempt(self, client, slots):
        push_tokens(client, ["true", "false"])
        seen = []
        actor = CommandActor(client)
        on_end(actor, lambda token: seen.append((token.id, token["attempts"][-1]["outcome"])))
        actor.run(max_scrub=1, slots=slots)
        assert sorted(seen) == [("token_0", "done"), ("token_1", "failed"), ("token_1", "failed")]

    def test_its_errors_harm_nothing(self, client):
        push_tokens(client, ["true"])
        actor = CommandActor(client)
        on_end(actor, lambda token: 1 / 0)
        actor.run()
        assert outcomes(actor) == {"done": 1}

    def test_does_not_keep_short_tokens_from_being_saved_together(self, client, monkeypatch):
        push_tokens(client, [["true"]] * 20)
        actor = CommandActor(client)
        on_end(actor, lambda token: time.sleep(0))
        requests = []
        write = client.save
        monkeypatch.setattr(client, "save", lambda document: requests.append(document) or write(document))
        actor.run()
        assert outcomes(actor) == {"done": 20}
        assert len(requests) < 20
