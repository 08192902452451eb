"""Arguments that are misspelt, or make no sense, are refused before the first token."""

from __future__ import annotations

import logging
import math

import pytest
from support.workers import Worker

from picas import Actor, EndlessViewIterator, PrioritizedViewIterator, RunActor, TaskViewIterator
from picas.views import count_states

pytestmark = pytest.mark.usefixtures("quick", "nothing_left")


class TestNames:
    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("viw", "view"),
            ("desgin_doc", "design_doc"),
            ("limt", "limit"),
            ("heart_beat", "heartbeat"),
            ("core", "cores"),
        ],
    )
    def test_of_an_actor(self, client, name, meant):
        with pytest.raises(
            TypeError, match=f"Worker.. got an unexpected keyword argument '{name}', did you mean '{meant}'"
        ):
            Worker(client, **{name: 1})

    def test_of_an_actor_with_an_iterator_of_its_own(self, client):
        with pytest.raises(TypeError, match="'gracee'"):
            Actor(client, TaskViewIterator(client, "todo"), gracee=1)

    @pytest.mark.parametrize(
        ("name", "meant"),
        [("max_task", "max_tasks"), ("slot", "slots"), ("max_scrubs", "max_scrub"), ("max_failure", "max_failures")],
    )
    def test_of_a_run(self, client, push, name, meant):
        push(1)
        with pytest.raises(
            TypeError, match=f"run.. got an unexpected keyword argument '{name}', did you mean '{meant}'"
        ):
            Worker(client).run(**{name: 1})
        assert count_states(client)["todo"] == 1

    def test_without_any_that_is_similar(self, client):
        with pytest.raises(TypeError, match=r"argument 'xyzzy'$"):
            Worker(client).run(xyzzy=1)

    def test_of_arguments_that_the_stop_function_does_not_take(self, client, push):
        push(1)
        with pytest.raises(TypeError, match="stop_function does not take"):
            Worker(client).run(stop_function=lambda limit: True, limt=3)
        assert count_states(client)["todo"] == 1

    def test_of_arguments_that_it_takes(self, client, push):
        push(3)
        actor = Worker(client)
        actor.run(stop_function=lambda limit, **others: actor.tasks_processed >= limit, limit=2, max_task=5)
        assert actor.tasks_processed == 2

    def test_of_iterators(self, client):
        with pytest.raises(TypeError, match=r"TaskViewIterator.*'limi', did you mean 'limit'"):
            TaskViewIterator(client, "todo", limi=1)
        with pytest.raises(TypeError, match=r"PrioritizedViewIterator.*'desing_doc', did you mean 'design_doc'"):
            PrioritizedViewIterator(client, "todo", "todo", desing_doc="Monitor")
        with pytest.raises(TypeError, match=r"EndlessViewIterator.*'sleep_secs', did you mean 'sleep_sec'"):
            EndlessViewIterator(TaskViewIterator(client, "todo"), sleep_secs=1)

    @pytest.mark.parametrize("method", ["view", "get_from_view", "get_single_from_view", "is_view_nonempty"])
    def test_of_requests_for_a_view(self, client, push, method):
        push(1)
        with pytest.raises(TypeError, match="'start_kye', did you mean 'start_key'"):
            getattr(client, method)("todo", start_kye="token_0")

    def test_of_requests_for_all_documents(self, client):
        with pytest.raises(TypeError, match="'limits', did you mean 'limit'"):
            client.all_docs(limits=1)

    def test_of_couchdbs_parameters_are_known(self, client, push):
        push(3)
        actor = Worker(client, startkey="token_1", endkey="token_1", inclusive_end=True, stable=False, update="true")
        actor.run()
        assert actor.tasks_processed == 1


class TestNumbers:
    @pytest.mark.parametrize("name", ["max_tasks", "max_token_time", "max_total_time", "max_scrub", "max_failures"])
    @pytest.mark.parametrize("value", [-1, math.nan, "5", True, [1]], ids=str)
    def test_of_a_run(self, client, push, name, value):
        push(1)
        with pytest.raises(ValueError, match=f"{name} must be a number, at least 0, not"):
            Worker(client).run(**{name: value})
        assert count_states(client)["todo"] == 1

    @pytest.mark.parametrize("name", ["max_tasks", "max_token_time", "max_total_time"])
    def test_none_and_infinity_are_no_limit(self, client, push, name):
        push(2)
        actor = Worker(client)
        actor.run(**{name: None})
        actor.run(**{name: math.inf})
        assert actor.tasks_processed == 2

    @pytest.mark.parametrize(
        ("name", "value"), [("max_lost", -1), ("max_lost", math.nan), ("stop_exit_code", 300), ("stop_exit_code", "1")]
    )
    def test_of_an_actor(self, client, name, value):
        with pytest.raises(ValueError, match=f"{name} must be a number"):
            Worker(client, **{name: value})

    def test_of_an_iterator(self, client):
        with pytest.raises(ValueError, match="sleep_sec must be a number"):
            EndlessViewIterator(TaskViewIterator(client, "todo"), -1)


class TestHooks:
    def test_an_actor_without_the_right_process_task_takes_no_token(self, client, push):
        class Misspelt(RunActor):
            def proces_task(self, token):
                pass

        push(2)
        with pytest.raises(TypeError, match=r"Misspelt has no method process_task: is its proces_task to be that\?"):
            Misspelt(client).run()
        assert count_states(client) == {"todo": 2, "locked": 0, "done": 0, "error": 0}
        assert "attempts" not in client.get("token_0")

    def test_nor_does_one_without_any(self, client, push):
        push(1)
        with pytest.raises(TypeError, match=r"Actor has no method process_task$"):
            Actor(client).run()
        assert count_states(client)["todo"] == 1

    def test_process_task_may_be_set_by_prepare_env(self, client, push):
        class Late(RunActor):
            def prepare_env(self):
                self.process_task = lambda token: token.update(output="late")

        push(1)
        Late(client).run()
        assert client.get("token_0")["output"] == "late"

    def test_another_hook_with_a_misspelt_name_is_warned_of(self, client, push, caplog):
        class Misspelt(Worker):
            def prepare_evn(self):
                pass

        push(1)
        Misspelt(client).run()
        assert "Misspelt.prepare_evn is never called: is it to be prepare_env?" in caplog.text

    def test_a_method_with_a_similar_name_beside_the_hook_is_not(self, client, push, caplog):
        class Careful(Worker):
            def cleanup_run(self):
                self.cleanup_runs()

            def cleanup_runs(self):
                pass

        push(1)
        Careful(client).run()
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
