"""The stages of an attempt: which may follow which, and what each means for the token."""

import itertools

import pytest

from picas import Task
from picas.pilot.attempt import Attempt
from picas.pool.results import ClaimedToken, Stage

PATHS = [
    (Stage.RETURNED, Stage.CONCLUDED, Stage.SAVED),
    (Stage.CONCLUDED, Stage.SAVED),
    (Stage.LOST, Stage.CONCLUDED, Stage.TAKEN),
    (Stage.RETURNED, Stage.LOST, Stage.CONCLUDED, Stage.UNSAVED),
    (Stage.CONCLUDED, Stage.UNSAVED, Stage.SAVED),
    (Stage.CANCELLED, Stage.CONCLUDED, Stage.SAVED),
    (Stage.CANCELLED, Stage.LOST, Stage.CONCLUDED, Stage.TAKEN),
]


def attempt(**fields):
    return Attempt(Task({"_id": "token_0", "lock": 1, "done": 0, "exit_code": "", **fields}), {})


def walk(stages):
    walked = attempt()
    return [walked.advance(stage) for stage in stages]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: " ".join(stage.value for stage in path))
def test_valid_sequences_of_stages(path):
    assert all(walk(path))


def test_a_stage_never_returns_to_an_earlier_one():
    for path in PATHS:
        stages = [Stage.WORKING, *path]
        for earlier, later in itertools.combinations(stages, 2):
            walked = ClaimedToken(Task({"_id": "token_0"}), stage=later)
            assert not walked.advance(earlier)
            assert walked.stage is later


def test_a_concluded_token_cannot_be_lost():
    concluded = attempt()
    concluded.conclude(None, auto_close=True)
    assert not concluded.advance(Stage.LOST)
    assert concluded.is_concluded


def test_a_lost_token_stays_lost():
    lost = attempt()
    assert lost.advance(Stage.LOST)
    assert not lost.advance(Stage.RETURNED)
    assert lost.stage is Stage.LOST


class TestIsFinished:
    """Whether an interrupted attempt has a result to keep."""

    def test_if_the_user_s_code_has_returned(self):
        returned = attempt()
        assert not returned.is_finished(auto_close=True)
        returned.advance(Stage.RETURNED)
        assert returned.is_finished(auto_close=True)

    def test_if_the_token_has_an_exit_code(self):
        assert attempt(exit_code=3).is_finished(auto_close=True)
        assert not attempt(exit_code=3).is_finished(auto_close=False)

    def test_if_the_token_is_closed(self):
        assert attempt(exit_code=0, done=5).is_finished(auto_close=False)

    @pytest.mark.parametrize("exit_code", [-15, 143, -9, 137, -2, 130])
    def test_not_if_its_child_was_ended_with_the_pilot(self, exit_code):
        ended = attempt(exit_code=exit_code)
        ended.advance(Stage.RETURNED)
        assert not ended.is_finished(auto_close=True)


def test_a_token_that_is_put_back_is_free_and_its_attempt_is_recorded():
    stopped = attempt()
    assert stopped.put_back("stopped: SIGTERM") == "stopped"
    assert (stopped.token["lock"], stopped.token["done"], stopped.stage) == (0, 0, Stage.CONCLUDED)
    assert [entry["outcome"] for entry in stopped.token["attempts"]] == ["stopped"]
