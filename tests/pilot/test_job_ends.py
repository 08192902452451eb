"""Tokens that are longer than their jobs: they are not taken for ever."""

import pytest
from support.tokens import make_token
from support.workers import Worker, stop_this_pilot

from picas import modifiers
from picas.exceptions import PilotStopped
from picas.pilot import matching
from picas.pool import retry_tokens
from picas.tokens import job_ends
from picas.tokens.states import state_of

pytestmark = pytest.mark.usefixtures("in_folder")

OVER = "stopped: the time of the job was over after 0 s"


@pytest.fixture
def stopped(client, monkeypatch):
    """Return a function that runs a pilot that is stopped at once while it works on a token, as if it were late."""
    monkeypatch.setattr(matching, "EARLY_SHARE", 0.0)
    monkeypatch.setattr(matching, "MOST", 0.0)

    def run(walltime=100.0, slots=1, **options):
        worker = Worker(client, lambda task: stop_this_pilot(), walltime=walltime, **options)
        with pytest.raises(PilotStopped):
            worker.run(slots=slots)
        return client.get("token_0")

    return run


def last(token):
    attempt = token["attempts"][-1]
    return attempt["outcome"], attempt["reason"]


class TestAStop:
    @pytest.mark.parametrize("slots", [1, 2])
    def test_at_the_end_of_the_job_is_called_so_and_counted(self, push, stopped, slots):
        push(1)
        token = stopped(slots=slots)
        assert (state_of(token), last(token)) == ("todo", ("stopped", OVER))
        assert token["job_ends"] == {"count": 1, "seconds": 1}
        assert "lost_count" not in token

    @pytest.mark.parametrize("walltime", [10_000, None], ids=["long before the end", "without an end"])
    def test_at_another_time_is_none(self, push, stopped, walltime):
        push(1)
        token = stopped(walltime)
        assert last(token) == ("stopped", "stopped: SIGTERM")
        assert "job_ends" not in token

    def test_after_a_while_is_one_of_a_job_of_any_length(self, client):
        """The end is near in the last two minutes, or the last tenth, but never at the beginning."""
        conditions = matching.StopConditions(started=1000.0)

        def is_end(length, passed):
            matcher = matching.Matcher(job_ends, 1000.0 + length, "", conditions)
            return matcher.is_end_of_job(1000.0 + passed)

        assert [is_end(100_000, passed) for passed in (0, 99_099, 99_100)] == [False, False, True]
        assert [is_end(3600, passed) for passed in (0, 3239, 3240, 3700)] == [False, False, True, True]
        assert [is_end(600, passed) for passed in (0, 479, 480, 700)] == [False, False, True, True]
        assert [is_end(60, passed) for passed in (0, 14, 15, 60)] == [False, False, True, True]


class TestAToken:
    def test_is_in_error_after_five_such_attempts(self, push, stopped):
        push(1, job_ends={"count": 3, "seconds": 50})
        token = stopped()
        assert (state_of(token), token["job_ends"]) == ("todo", {"count": 4, "seconds": 50})
        token = stopped()
        why = f"{OVER}, 5 times: the token takes longer than its jobs"
        assert (state_of(token), last(token), token["error"][-1]["message"]) == ("error", ("stopped", why), why)
        assert token["attempts"][-1]["group"]
        assert token["scrub_count"] == 0

    def test_is_in_error_only_after_an_attempt_that_had_most_of_a_job(self, push, stopped, monkeypatch):
        """Pilots that take it late in their jobs, with little time left, do not show that it is longer than a job."""
        monkeypatch.setattr(matching, "MOST", 0.5)
        push(1, job_ends={"count": 9, "seconds": 50})
        token = stopped()
        assert (state_of(token), last(token), token["job_ends"]["count"]) == ("todo", ("stopped", OVER), 10)

    def test_may_be_in_error_earlier(self, push, stopped):
        push(1)
        assert state_of(stopped(max_job_ends=1)) == "error"

    def test_begins_anew_when_a_person_retries_it(self, client, push, stopped):
        push(1, job_ends={"count": 4, "seconds": 50})
        token = stopped()
        retry_tokens(client, [token])
        token = client.get("token_0")
        assert (state_of(token), "job_ends" in token) == ("todo", False)
        assert last(token)[0] == "stopped"

    @pytest.mark.parametrize(
        ("had", "is_taken"),
        [((1, 500), True), ((2, 500), False), ((2, 90), False), ((2, 80), True), (None, True), ((2, "x"), True)],
        ids=str,
    )
    def test_is_taken_only_by_a_pilot_with_more_time_after_two(self, client, had, is_taken):
        noted = {} if had is None else {"job_ends": dict(zip(("count", "seconds"), had))}
        client.save_documents([make_token(0, **noted), make_token(1)])
        worker = Worker(client, walltime=100)  # 90 s until the deadline
        worker.run()
        assert ("token_0" in worker.processed) is is_taken
        assert "token_1" in worker.processed

    def test_is_taken_without_a_deadline(self, client, push):
        push(1, job_ends={"count": 2, "seconds": 10**6})
        worker = Worker(client)
        worker.run(max_total_time=50)
        assert worker.processed == ["token_0"]

    def test_is_taken_if_the_run_ends_its_work_earlier(self, client, push):
        push(1, job_ends={"count": 2, "seconds": 10**6})
        worker = Worker(client, walltime=100)
        worker.run(max_token_time=10)
        assert worker.processed == ["token_0"]

    def test_keeps_its_own_walltime(self, client, push):
        push(1, walltime=200, job_ends={"count": 2, "seconds": 10})
        worker = Worker(client, walltime=100)
        worker.run()
        assert worker.processed == []


@pytest.mark.parametrize(
    "odd",
    [None, 3, [], {"count": "2"}, {"count": -1, "seconds": 5}, {"count": float("inf")}, {"count": 2, "seconds": 1e300}],
    ids=repr,
)
def test_odd_values_begin_anew(odd):
    token = make_token(0, job_ends=odd)
    assert job_ends.time_had(token) is None
    modifiers.end_with_job(token, 12.3, 5)
    assert token["job_ends"] == {"count": 1, "seconds": 13}


@pytest.mark.parametrize("limit", [0, -1, "five", True])
def test_an_invalid_limit_is_refused(client, limit):
    with pytest.raises(ValueError, match="max_job_ends must be a number, at least 1"):
        Worker(client, max_job_ends=limit)
