"""Scripts that were written for picas 1.1 run unchanged."""

import os
import signal
import subprocess
import sys

import pytest
from support.tokens import make_token
from support.workers import PATIENCE, wait_for

from picas.tokens.states import state_of
from picas.views import count_states

CONFIG = """
import os
PICAS_HOST_URL = os.environ["PICAS_HOST_URL"]
PICAS_DATABASE = os.environ["PICAS_DATABASE"]
PICAS_USERNAME = os.environ["PICAS_USERNAME"]
PICAS_PASSWORD = os.environ["PICAS_PASSWORD"]
"""

RUN_ACTOR = '''
import logging
import os
import time
import picasconfig

from picas.actors import RunActor
from picas.clients import CouchDB
from picas.executers import execute
from picas.iterators import TaskViewIterator
from picas.modifiers import BasicTokenModifier
from picas.picaslogger import picaslogger
from picas.util import Timer


class ExampleActor(RunActor):
    """
    The ExampleActor is the custom implementation of a RunActor that the user needs for the processing.
    """
    def __init__(self, db, modifier, view="todo", **viewargs):
        super(ExampleActor, self).__init__(db, view=view, **viewargs)
        self.timer = Timer()
        self.iterator = TaskViewIterator(self.db, view, **viewargs)
        self.modifier = modifier
        self.client = db

    def process_task(self, token):
        print("-----------------------")
        print("Working on token: " + token['_id'])
        for key, value in token.doc.items():
            print(key, value)
        print("-----------------------")

        command = ["/bin/bash", "-c", token['input']]
        out = execute(command)
        self.subprocess = out[0]

        logsout = f"logs_{token['_id']}.out"
        logserr = f"logs_{token['_id']}.err"

        # write the logs
        with open(logsout, 'wb') as f:
            f.write(out[2])
        with open(logserr, 'wb') as f:
            f.write(out[3])

        self.subprocess = out[0]

        # Get the job exit code and done in the token
        token['exit_code'] = out[1]
        token = self.modifier.close(token)

        # Attach logs in token
        curdate = time.strftime("%d/%m/%Y_%H:%M:%S_")
        try:
            log_handle = open(logsout, 'rb')
            token.put_attachment(logsout, log_handle.read())

            log_handle = open(logserr, 'rb')
            token.put_attachment(logserr, log_handle.read())
        except:
            pass


def main():
    logging.basicConfig(level=logging.INFO)
    # setup connection to db
    client = CouchDB(
        url=picasconfig.PICAS_HOST_URL,
        db=picasconfig.PICAS_DATABASE,
        username=picasconfig.PICAS_USERNAME,
        password=picasconfig.PICAS_PASSWORD)
    print("Connected to the database %s sucessfully. Now starting work..." %(picasconfig.PICAS_DATABASE))
    # Create token modifier
    modifier = BasicTokenModifier()
    # Create actor
    actor = ExampleActor(client, modifier, view="todo", design_doc="Monitor")
    # Start work!
    actor.run(max_token_time=1800, max_total_time=3600, max_tasks=10, max_scrub=2)
    picaslogger.info("all done")
    print("Time elapsed: ", actor.timer.elapsed() >= 0)

if __name__ == '__main__':
    main()
'''

ENDLESS = """
import picasconfig

from picas.actors import AbstractRunActor, RunActor
from picas.clients import CouchDB
from picas.iterators import EndlessViewIterator, PrioritizedViewIterator, TaskViewIterator
from picas.modifiers import BasicTokenModifier
from picas.picaslogger import picaslogger
from picas.util import Timer, time_elapsed


class ExampleActor(AbstractRunActor):
    def __init__(self, db, modifier, view="todo", **viewargs):
        super().__init__(db, view=view, **viewargs)
        self.timer = Timer()
        self.iterator = EndlessViewIterator(
            TaskViewIterator(self.db, view, **viewargs), sleep_sec=0.1, stop_callback=self.time_to_end, limit=3)
        self.modifier = modifier

    def time_to_end(self, limit):
        return time_elapsed(self.timer, max=60) or self.tasks_processed >= limit

    def prepare_env(self):
        print("prepare_env")

    def prepare_run(self):
        print("prepare_run", self.current_task['_id'] if self.current_task else None)

    def process_task(self, task):
        print("process_task", task.id, task['lock'] > 0, task.input)
        task.output = {"length": len(task.input)}
        task['exit_code'] = 0
        self.modifier.close(task)

    def cleanup_run(self):
        print("cleanup_run")

    def cleanup_env(self):
        print("cleanup_env")


class PriorityActor(RunActor):
    def __init__(self, db, modifier, view="todo", **viewargs):
        RunActor.__init__(self, db, view=view, **viewargs)
        self.iterator = PrioritizedViewIterator(db, "urgent", view)
        self.modifier = modifier
        self.failed = 0

    def process_task(self, task):
        print("process_task", task['_id'])
        if task['input'] == 'fail':
            self.failed += 1
            raise Exception("this one fails")
        task['exit_code'] = 0
        self.modifier.close(task)


client = CouchDB(url=picasconfig.PICAS_HOST_URL, db=picasconfig.PICAS_DATABASE,
                 username=picasconfig.PICAS_USERNAME, password=picasconfig.PICAS_PASSWORD)
"""

ENDLESS_MAIN = """
actor = ExampleActor(client, BasicTokenModifier())
actor.run()
"""

PRIORITY_MAIN = """
seen = []

def stop(actor, limit):
    seen.append(actor.current_task['_id'])
    return len(seen) == limit

actor = PriorityActor(client, BasicTokenModifier())
actor.run(max_scrub=1, stop_function=stop, actor=actor, limit=6)
print("seen", *seen)
print("current", actor.current_task['_id'])
print("failed", actor.failed, "processed", actor.tasks_processed)
"""


@pytest.fixture
def script(tmp_path, environment):
    """Write a script beside its picasconfig.py and return the arguments to start it with."""

    def script(text):
        (tmp_path / "picasconfig.py").write_text(CONFIG)
        (tmp_path / "script.py").write_text(text)
        return {"args": [sys.executable, "script.py"], "cwd": tmp_path, "env": environment, "text": True}

    return script


def run(arguments):
    done = subprocess.run(**arguments, capture_output=True, timeout=2 * PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_a_run_actor_with_its_own_init_execute_modifier_and_attachments(client, script, tmp_path):
    inputs = ["echo bash-echo; echo oops >&2", "echo two; exit 3", "printf '\\377'"]
    client.save_documents([make_token(number, input=text) for number, text in enumerate(inputs)])
    done = run(script(RUN_ACTOR))
    assert count_states(client) == {"todo": 0, "locked": 0, "done": 2, "error": 1}
    token = client.get("token_0")
    assert token["exit_code"] == 0
    assert token.get_attachment("logs_token_0.out", client)["data"] == b"bash-echo\n"
    assert token.get_attachment("logs_token_0.err", client)["data"] == b"oops\n"
    assert client.get("token_2").get_attachment("logs_token_2.out", client)["data"] == b"\xff"
    failed = client.get("token_1")
    assert (failed["exit_code"], failed["scrub_count"]) == (3, 2)
    assert done.stdout.count("Working on token: token_1\n") == 3
    assert "_id token_0\n" in done.stdout
    assert "INFO:PiCaS:all done" in done.stderr
    assert (tmp_path / "logs_token_0.out").exists()


def test_the_same_script_puts_its_token_back_on_a_signal(client, script, tmp_path):
    client.save(make_token(0, input="sleep 60"))
    process = subprocess.Popen(**script(RUN_ACTOR), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: client.get("token_0")["lock"] > 0)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
    assert state_of(client.get("token_0")) == "todo"


def test_an_actor_with_an_endless_iterator_and_a_stop_callback(client, script):
    client.save_documents([make_token(number, input="x" * number) for number in range(3)])
    done = run(script(ENDLESS + ENDLESS_MAIN))
    tokens = [
        [f"prepare_run token_{number}", f"process_task token_{number} True {'x' * number}", "cleanup_run"]
        for number in range(3)
    ]
    assert [line.strip() for line in done.stdout.splitlines()] == [
        "prepare_env",
        *[line.strip() for lines in tokens for line in lines],
        "cleanup_env",
    ]
    assert client.get("token_2")["output"] == {"length": 2}
    assert count_states(client)["done"] == 3


def test_a_run_actor_with_priorities_max_scrub_and_a_stop_function(client, script):
    client.save_documents([make_token(number, input="fail" if number == 1 else "") for number in range(5)])
    client.save(make_token(9, urgent=True))
    client.add_view(
        "urgent",
        "function(doc) { if (doc.urgent && doc.lock == 0 && doc.done == 0) emit(doc._id, doc._id); }",
    )
    done = run(script(ENDLESS + PRIORITY_MAIN)).stdout.splitlines()
    assert done[0] == "process_task token_9"
    seen = done[-3].split()[1:]
    assert len(seen) == 6
    assert f"current {seen[-1]}" == done[-2]
    assert done[-1] in ("failed 1 processed 6", "failed 2 processed 6")
    states = count_states(client)
    assert states["locked"] == 0
    assert sum(states.values()) == 6
    assert client.get("token_1")["scrub_count"] == 1
