"""The autopilot submits exactly as many pilots as are missing."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from support.places import EXAMPLES
from support.tokens import make_token

from picas.autopilot import Autopilot, JobClass
from picas.clients import CouchDB
from picas.couch.writes import Written
from picas.exceptions import NoSuchDocument, PicasError
from picas.pilot import clocks, kinds, turns
from picas.pilot.job_records import Record
from picas.pilot.orders import pause_pool, resume_pool
from picas.schedulers import Jobs, LimitReached, Scheduler, SchedulerError
from picas.tokens.states import STATES
from picas.views import count_all, count_states, create_views

NONE = frozenset()


class Queue(Scheduler):
    """A batch system whose jobs change only when the test changes them."""

    def __init__(self):
        self.pending = set()
        self.running = set()
        self.submitted = []
        self.error = None

    def jobs(self, name):
        return Jobs(frozenset(self.pending), frozenset(self.running))

    def submit(self, name, count, script, arguments, options):
        if self.error is not None:
            raise self.error
        self.submitted.append(count)
        job = str(len(self.submitted))
        self.pending |= {f"{job}_{number}" for number in range(1, count + 1)}
        return job


class NamedQueue(Queue):
    """A batch system that knows the names of its jobs."""

    def __init__(self):
        super().__init__()
        self.names = {}

    def jobs(self, name):
        return Jobs(frozenset(self.names.get(name, ())), NONE)

    def submit(self, name, count, *arguments):
        job = super().submit(name, count, *arguments)
        self.names.setdefault(name, set()).update(f"{job}_{number}" for number in range(1, count + 1))
        return job


@pytest.fixture
def queue():
    return Queue()


def running(id, job, **fields):
    """Return the document of a pilot at work."""
    return {"_id": id, "type": "pilot", "state": "running", "slurm_job_id": job, **fields}


@pytest.fixture
def left(client):
    """Save what a pilot leaves that has ended cleanly."""

    def left(job, **fields):
        client.save({"_id": f"picas_ended_{job}", "type": "pilot", "state": "ended", "slurm_job_id": job, **fields})

    return left


@pytest.fixture
def far_pool(client, location):
    """Another pool of the same user."""
    name = f"{client.database_name}_far"
    pool = CouchDB(location.url, name, location.username, location.password, create=True)
    create_views(pool)
    yield pool
    del pool.server[name]


@pytest.fixture
def lines():
    return []


@pytest.fixture
def pilot(client, queue, lines):
    """An autopilot for one class of tokens."""

    def pilot(is_dry=False, **values):
        kind = JobClass(**{"name": "all", "script": "job.sh", "max_pilots": 10, **values})
        return Autopilot(client, [kind], queue, is_dry, lines.append)

    return pilot


class TestOneRound:
    def test_submits_the_missing_pilots_once(self, pilot, queue, push, lines):
        push(3)
        autopilot = pilot()
        assert autopilot.look()
        assert autopilot.look()
        assert queue.submitted == [3]
        assert lines == [
            "all: 3 tokens wait, 0 jobs are queued and 0 run, with 0 free slots: submitted 3 pilots as job 1",
            "all: 3 tokens wait, 3 jobs are queued and 0 run, with 0 free slots: that is enough",
        ]

    def test_submits_nothing_while_the_pool_is_paused(self, client, pilot, queue, push, lines):
        push(1)
        pause_pool(client, "maintenance", "ann")
        assert pilot().look()
        assert (queue.submitted, lines) == ([], ["the pool is paused by ann: maintenance; nothing is submitted"])
        resume_pool(client)
        assert pilot().look()
        assert queue.submitted == [1]

    def test_a_dry_run_only_prints_what_it_would_submit(self, pilot, queue, push, lines):
        push(1)
        pilot(is_dry=True).look()
        assert queue.submitted == []
        assert lines[0].endswith("1 pilot would be submitted")

    def test_counts_the_free_slots_of_living_pilots(self, pilot, queue, push, client):
        push(5)
        state = {"type": "pilot", "state": "running", "slots": 4}
        client.save({"_id": "picas_pilot_a", **state, "slurm_job_id": "9_1", "free": 3})
        client.save({"_id": "picas_pilot_b", **state, "slurm_job_id": "9_2", "free": 2})
        client.save({"_id": "picas_pilot_c", **state, "slurm_job_id": "8_1", "free": 4})  # its job has ended
        client.save({"_id": "picas_pilot_d", **state, "slurm_job_id": ["odd"], "free": "some"})
        queue.running = {"9_1", "9_2"}
        pilot().look()
        assert queue.submitted == []
        push_more = [make_token(number) for number in range(10, 13)]
        client.save_documents(push_more)
        pilot().look()
        assert queue.submitted == [3]

    def test_counts_all_slots_of_a_job_without_a_pilot_document_as_free(self, pilot, queue, push):
        push(4)
        queue.running = {"9_1"}
        pilot(slots=4).look()
        assert queue.submitted == []

    def test_counts_the_tokens_in_the_view_of_the_class(self, pilot, queue, client):
        create_views(client, "FourCores", "doc.cores == 4")
        client.save_documents([make_token(0), make_token(1, cores=4), make_token(2, cores=4)])
        pilot(design_doc="FourCores").look()
        assert queue.submitted == [2]

    @pytest.mark.parametrize("view", ["needs", "overview_total"])
    def test_counts_the_rows_of_views_that_count_themselves(self, pilot, queue, client, view):
        client.save_documents([make_token(number, cores=1) for number in range(3)])
        pilot(view=view).look()
        assert queue.submitted == [3]

    def test_reports_missing_views_and_continues_with_the_other_classes(self, client, queue, push, lines):
        push(1)
        kinds = [JobClass("gpu", "job.sh", design_doc="Gpu"), JobClass("all", "job.sh")]
        assert not Autopilot(client, kinds, queue, tell=lines.append).look()
        assert re.search(r"^gpu: there is no view Gpu/todo .* picas views Gpu$", lines[0])
        assert queue.submitted == [1]


class TestFreeSlots:
    def test_are_those_without_a_claim_even_between_two_heartbeats(self, pilot, queue, client):
        """Both pilots have just started, and hold a token that is not in their documents yet."""
        client.save_documents([make_token(number) for number in range(2)])
        for number in (1, 2):
            client.save(running(f"picas_pilot_{number}", f"9_{number}", slots=1, free=1, holds=[]))
            client.save(make_token(10 + number, lock=1, claim={"id": "x", "pilot": f"picas_pilot_{number}"}))
        queue.running = {"9_1", "9_2"}
        pilot().look()
        assert queue.submitted == [2]

    def test_of_all_pilots_of_a_job_are_added(self, pilot, queue, push, client):
        push(3)
        for number in range(3):
            client.save(running(f"picas_pilot_{number}", "9", slots=1, free=1, holds=[]))
        queue.running = {"9"}
        pilot().look()
        assert queue.submitted == []


class TestMatching:
    """Tokens make jobs of a class that can take them."""

    def look(self, client, queue, lines, *kinds):
        Autopilot(client, list(kinds), queue, tell=lines.append).look()

    def test_a_token_that_no_job_can_take_makes_none(self, client, queue, lines):
        client.save_documents([make_token(0, cores=1000)])
        self.look(client, queue, lines, JobClass("small", "job.sh", cores=4))
        assert queue.submitted == []
        assert lines[1] == "Monitor/todo: no job of these classes can take all tokens: 1 needs 1000 cores"

    def test_a_token_that_a_class_of_another_view_takes_is_not_called_out_of_reach(self, client, queue, lines):
        create_views(client, "Gpu", "doc.gpus > 0")
        client.save_documents([make_token(0, gpus=1)])
        kinds = [JobClass("cpu", "job.sh", gpus=0), JobClass("gpu", "job.sh", design_doc="Gpu", gpus=1)]
        self.look(client, queue, lines, *kinds)
        assert [line.split(":")[0] for line in lines] == ["cpu", "gpu"]

    def test_needs_without_end_are_cut_in_the_line(self, client, queue, lines):
        client.save_documents([make_token(0, tags=["x" * 10_000])])
        self.look(client, queue, lines, JobClass("small", "job.sh", tags=frozenset()))
        assert len(lines[1]) < 300

    def test_what_earlier_pilots_had_counts_where_nothing_says_it(self, client, queue, lines, left, pilot):
        client.save_documents([make_token(0, cores=1000)])
        pilot().look()
        queue.pending.clear()
        left("1_1", processed=0, cores=4)
        pilot().look()
        assert queue.submitted == [1]
        assert (client.get("picas_autopilot_all")["had"])["cores"] == 4
        lines.clear()
        pilot().look()
        assert lines[1].endswith("1 needs 1000 cores")

    def test_a_token_longer_than_the_jobs_of_earlier_pilots_makes_none(self, client, queue, lines, left, pilot):
        """Nothing says how long the jobs are: the limit of the partition goes for them."""
        client.save_documents([make_token(0, walltime=3600)])
        pilot().look()
        queue.pending.clear()
        left("1_1", processed=0, walltime=600)
        for _ in range(2):
            pilot().look()
        assert queue.submitted == [1]
        assert lines[-1].endswith("1 needs 1 core, 3600 s of walltime")

    def test_what_earlier_pilots_had_is_forgotten_once_the_script_has_changed(
        self, client, queue, left, pilot, lines, tmp_path
    ):
        """Otherwise no pilot would ever find out that the jobs have it now."""
        script = tmp_path / "job.sh"
        script.write_text("export PICAS_TAGS=old")
        client.save_documents([make_token(0, tags=["new"])])
        pilot(script=str(script)).look()
        queue.pending.clear()
        left("1_1", processed=0, tags=["old"])
        for _ in range(2):
            pilot(script=str(script)).look()
        assert "no job of these classes can take all tokens" in lines[-1]
        script.write_text("export PICAS_TAGS=new")
        pilot(script=str(script)).look()
        assert lines[-1].startswith("all: 1 tokens wait")

    @pytest.mark.parametrize(("field", "waiting"), [("walltime", 5), ("memory", 2)])
    def test_too_many_different_needs_are_not_taken_for_none(self, client, queue, lines, monkeypatch, field, waiting):
        monkeypatch.setattr(kinds, "MAX_KINDS", 2)
        client.save_documents([make_token(number, gpus=1, **{field: number + 1}) for number in range(5)])
        self.look(client, queue, lines, JobClass("cpu", "job.sh", gpus=0), JobClass("gpu", "job.sh", gpus=1))
        assert [line.split(" tokens wait")[0] for line in lines] == ["cpu: 0", f"gpu: {waiting}"]

    @pytest.mark.parametrize(
        ("needs", "kind"),
        [
            ({}, "small"),
            ({"cores": 4}, "large"),
            ({"memory": "3G"}, "large"),
            ({"gpus": 1}, "gpu"),
            ({"tags": ["cvmfs"]}, "gpu"),
            ({"walltime": 3500}, "long"),
        ],
    )
    def test_a_token_makes_a_job_of_the_smallest_class_that_can_take_it(self, client, queue, lines, needs, kind):
        client.save_documents([make_token(0, **needs)])
        none = frozenset()
        kinds = [
            JobClass("gpu", "job.sh", cores=4, memory=4096, gpus=1, tags=frozenset({"cvmfs"}), walltime=3600),
            JobClass("small", "job.sh", cores=1, memory=1024, gpus=0, tags=none, walltime=3600),
            JobClass("large", "job.sh", cores=4, memory=4096, gpus=0, tags=none, walltime=3600),
            JobClass("long", "job.sh", cores=1, memory=2048, gpus=0, tags=none, walltime=36000),
        ]
        self.look(client, queue, lines, *kinds)
        assert [line.split(":")[0] for line in lines if "submitted" in line] == [kind]

    def test_no_job_with_a_gpu_is_submitted_for_tokens_that_others_take(self, client, queue, push, lines):
        push(5)
        kinds = [JobClass("cpu", "job.sh", max_pilots=3, gpus=0), JobClass("gpu", "job.sh", gpus=1)]
        self.look(client, queue, lines, *kinds)
        self.look(client, queue, lines, kinds[1])
        assert queue.submitted == [3, 2]

    def test_a_full_class_leaves_tokens_to_the_next(self, client, queue, push, lines):
        push(5)
        self.look(client, queue, lines, *(JobClass(name, "job.sh", max_pilots=3) for name in "ab"))
        assert queue.submitted == [3, 2]


class TestSeveralAutopilots:
    def test_submit_no_more_than_one(self, client, queue, push, lines, pilot):
        """The second one looks while the first one submits."""
        push(4)
        submit, others = queue.submit, []

        def submit_slowly(*arguments):
            others.append(pilot(max_pilots=4).look())
            return submit(*arguments)

        queue.submit = submit_slowly
        pilot(max_pilots=4).look()
        assert (queue.submitted, others) == ([4], [True])
        assert "another autopilot is at work" in lines[0]
        assert client.get("picas_autopilot_all")["turn"] is None

    def test_submit_no_jobs_of_several_classes_for_the_same_tokens(self, client, queue, push, lines, monkeypatch):
        """Each has one of the two turns."""
        push(2)
        kinds = [JobClass("a", "job.sh"), JobClass("b", "job.sh")]
        take = turns.Turns.take

        def take_late(self, name):
            if not others:
                others.append(self)
                Autopilot(client, kinds, queue, tell=lines.append).look()
            return take(self, name)

        others = []
        monkeypatch.setattr(turns.Turns, "take", take_late)
        Autopilot(client, kinds, queue, tell=lines.append).look()
        assert sum(queue.submitted) == 2

    def test_take_over_from_one_that_was_killed_after_a_while(self, client, queue, push, lines, pilot, monkeypatch):
        push(1)

        def kill(*arguments):
            raise SystemExit

        monkeypatch.setattr(turns.Turns, "give_back", lambda self: None)
        with monkeypatch.context() as patch:
            patch.setattr(queue, "submit", kill)
            with pytest.raises(SystemExit):
                pilot().look()
        for seconds in (0, turns.LEASE - 1, turns.LEASE + 1):
            monkeypatch.setattr(clocks, "time", lambda seconds=seconds: 1e9 + seconds)
            pilot().look()
        assert [("another autopilot" in line, "submitted" in line) for line in lines] == [(1, 0), (1, 0), (0, 1)]
        assert queue.submitted == [1]

    def test_do_not_wait_for_themselves_after_an_outage(self, client, queue, push, pilot, monkeypatch):
        push(1)
        autopilot = pilot()
        monkeypatch.setattr(queue, "submit", lambda *arguments: autopilot.client.get("nothing"))
        with monkeypatch.context() as patch:
            patch.setattr(turns.Turns, "give_back", lambda self: None)
            with pytest.raises(NoSuchDocument):
                autopilot.look()
        monkeypatch.undo()
        autopilot.look()
        assert queue.submitted == [1]

    def test_with_clocks_that_differ_wait_as_long(self, client, queue, push, pilot, monkeypatch):
        push(1)
        queue.error = SchedulerError("no")
        pilot().look()
        queue.error = None
        monkeypatch.setattr(clocks, "time", lambda: 2e9)
        monkeypatch.setattr(clocks.socket, "gethostname", lambda: "elsewhere")
        pilot().look()
        assert queue.submitted == []
        monkeypatch.setattr(clocks, "time", lambda: 2e9 + 61)
        pilot().look()
        assert queue.submitted == [1]

    def test_of_two_pools_count_only_their_own_jobs(self, client, far_pool, push, lines):
        """The jobs of a pool have its mark in their names."""
        queue = NamedQueue()
        push(2)
        far_pool.save_documents([make_token(0)])
        kind = JobClass("all", "job.sh", max_pilots=2)
        for each in (client, far_pool, client):
            Autopilot(each, [kind], queue, tell=lines.append).look()
        assert queue.submitted == [2, 1]
        assert all("picas-all-" in name for name in queue.names)

    def test_of_two_clusters_judge_only_their_own_jobs(self, client, push, lines):
        """Neither sees the jobs of the other in its queue."""
        push(2)
        queues = [NamedQueue(), NamedQueue()]
        for number in (0, 1, 0, 1):
            queues[number].place = lambda number=number: f"cluster{number}"
            Autopilot(client, [JobClass("all", "job.sh")], queues[number], tell=lines.append).look()
        assert [queue.submitted for queue in queues] == [[2], [2]]
        assert all(line.endswith("that is enough") for line in lines[2:])

    def test_without_the_right_to_change_documents_say_so(self, client, queue, push, pilot, monkeypatch):
        push(1)
        monkeypatch.setattr(client, "write_documents", lambda documents: Written([None], [False]))
        with pytest.raises(PicasError, match="the server accepts no change of picas_autopilot_all by this user"):
            pilot().look()
        assert queue.submitted == []

    def test_give_jobs_names_that_fit_into_those_of_files(self):
        name = Record("é/" + "x" * 300).job_name("p" * 200)
        assert re.fullmatch(r"picas-[\w.-]{10,150}", name, re.ASCII)

    def test_leave_the_document_alone_when_nothing_waits(self, client, queue, pilot):
        pilot().look()
        assert not [row for row in client.all_docs() if row.id.startswith("picas_autopilot_")]

    def test_keep_a_document_that_is_no_token(self, client, queue, push, pilot):
        push(1)
        pilot().look()
        assert count_states(client)["todo"] == 1
        assert count_all(client).keys() == {*STATES}


class TestFailures:
    @pytest.fixture(autouse=True)
    def clock(self, monkeypatch):
        """The seconds that the autopilot believes to have passed."""
        passed = [0.0]
        monkeypatch.setattr(clocks, "time", lambda: 1e9 + passed[0])
        return passed

    def test_of_submissions_are_reported_and_not_retried_at_once(self, pilot, queue, push, lines, clock):
        push(1)
        queue.error = SchedulerError("sbatch: error: no such partition")
        autopilot = pilot()
        assert not autopilot.look()
        assert "no such partition; the next try is in 60 s at the earliest" in lines[0]
        queue.error = None
        assert autopilot.look()
        assert "nothing is submitted for another 60 s: sbatch: error: no such partition" in lines[1]
        clock[0] += 61
        autopilot.look()
        assert queue.submitted == [1]

    def test_double_the_wait_up_to_an_hour(self, pilot, queue, push, lines, clock):
        push(1)
        queue.error = SchedulerError("no")
        autopilot = pilot()
        for _ in range(8):
            autopilot.look()
            clock[0] += 4000
        waits = [int(line.split("next try is in ")[1].split()[0]) for line in lines]
        assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]

    def test_include_jobs_that_end_without_taking_a_token(self, pilot, queue, push, lines, clock):
        """Otherwise a faulty script would be submitted for ever. Each look may be another process, as with cron."""
        push(2)
        for minute in range(37):
            clock[0] = 60.0 * minute
            pilot().look()
            queue.pending.clear()
        assert queue.submitted == [2, 1, 1, 1, 1, 1]
        failure = "nothing is submitted for another 60 s: 2 of the last 2 jobs took no token, see the output of job 1_1"
        assert failure in lines[1]
        assert "the last job took no token, see the output of job 2_1" in lines[3]
        assert "submitted 1 pilot as job 2, to try again after a failure" in lines[2]

    def test_are_followed_by_a_single_job_however_long_it_waits_for_a_node(self, pilot, queue, push, lines, clock):
        push(9)
        pilot().look()
        queue.pending.clear()
        for minute in range(5):
            clock[0] = 60.0 * minute
            pilot().look()
        assert queue.submitted == [9, 1]
        assert "job 2_1 has to take a token first: 9 of the last 9 jobs took no token" in lines[-1]

    def test_are_forgotten_once_a_job_has_taken_a_token(self, pilot, queue, push, clock, left):
        push(3)
        pilot().look()
        queue.pending.clear()
        pilot().look()
        clock[0] += 61
        pilot().look()
        queue.pending.clear()
        left("2_1", processed=1)
        pilot().look()
        assert queue.submitted == [3, 1, 3]

    def test_include_most_jobs_of_a_node_that_kills_pilots_while_others_work(self, pilot, queue, push, client, clock):
        push(20)
        client.save(running("picas_pilot_a", "1_1", slots=1, free=0, holds=["x"]))
        autopilot = pilot(max_pilots=4)
        autopilot.look()
        for minute in range(1, 30):
            clock[0] = 60.0 * minute
            queue.pending, queue.running = set(), {"1_1"}
            autopilot.look()
        assert queue.submitted == [4, 1, 1, 1, 1]

    def test_for_want_of_room_in_the_queue_are_tried_again_soon(self, pilot, queue, push, lines, clock):
        push(3)
        queue.error = LimitReached("sbatch: error: the job queue is full")
        for _ in range(3):
            pilot().look()
            clock[0] += 61
        assert all("the next try is in 60 s" in line for line in lines)
        queue.error = None
        pilot().look()
        assert queue.submitted == [3]

    def test_do_not_include_jobs_whose_pilots_have_no_documents(self, pilot, queue, push, client, clock):
        """As those of older releases, or programs that use an iterator by themselves."""
        push(2)
        pilot().look()
        queue.pending.clear()
        client.save({**client.get("token_0").value, "lock": 1, "done": 1, "slurm_job_id": "1_1"})
        client.save_documents([make_token(number) for number in range(5, 9)])
        pilot().look()
        assert queue.submitted == [2, 5]

    def test_include_jobs_that_only_locked_a_token(self, pilot, queue, push, client, clock):
        push(2)
        pilot().look()
        queue.pending.clear()
        client.save({**client.get("token_0").value, "lock": 1, "done": 0, "slurm_job_id": "1_1"})
        pilot().look()
        assert queue.submitted == [2]

    def test_include_jobs_whose_pilots_were_killed_with_their_first_token(self, pilot, queue, push, client, clock):
        push(2)
        pilot().look()
        queue.pending.clear()
        client.save(running("picas_pilot_a", "1_1", slots=1, free=0, holds=["token_0"]))
        pilot().look()
        assert queue.submitted == [2]

    def test_do_not_include_jobs_that_processed_tokens(self, pilot, queue, push, lines, left):
        push(2)
        pilot().look()
        queue.pending.clear()
        left("1_1", processed=1)
        left("1_2", processed=0)
        pilot().look()
        assert queue.submitted == [2, 2]
        assert "took no token" not in lines[1]

    def test_do_not_include_jobs_that_came_too_late_for_any_token(self, pilot, queue, push, client, clock):
        push(2)
        pilot().look()
        queue.pending.clear()
        client.delete_documents([client.get("token_0"), client.get("token_1")])
        pilot().look()
        push(2)
        pilot().look()
        assert queue.submitted == [2, 2]

    def test_include_pilots_that_find_no_token_to_take(self, pilot, queue, push, clock, left):
        push(1)
        pilot().look()
        queue.pending.clear()
        left("1_1", processed=0)
        pilot().look()
        assert queue.submitted == [1]

    def test_of_one_class_do_not_affect_the_others(self, client, push, queue, lines):
        push(1)

        class Odd(Queue):
            def jobs(self, name):
                if name.startswith("picas-odd-"):
                    raise SchedulerError("squeue: error: slurm_load_jobs")
                return super().jobs(name)

        odd = Odd()
        kinds = [JobClass(name, "job.sh") for name in ("odd", "good")]
        assert not Autopilot(client, kinds, odd, tell=lines.append).look()
        assert odd.submitted == [1]
        assert "slurm_load_jobs" in lines[0]

    def test_of_the_database_do_not_end_a_permanent_autopilot(self, far, gate, push, queue, lines, caplog):
        push(1)
        autopilot = Autopilot(far, [JobClass("all", "job.sh")], queue, tell=lines.append)
        pauses = []

        def sleep(seconds):
            pauses.append(seconds)
            if len(pauses) == 1:
                gate.open()
            else:
                raise KeyboardInterrupt

        gate.close()
        with pytest.raises(KeyboardInterrupt):
            autopilot.stay(5, sleep)
        assert pauses == [5, 5]
        assert "The pool can't be read now" in caplog.text
        assert queue.submitted == [1]


class TestTheScript:
    def test_without_slurm_prints_one_line_and_fails(self, environment, tmp_path, push):
        push(1)
        ran = subprocess.run(
            [sys.executable, EXAMPLES / "run_autopilot.py"],
            env={**environment, "PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 1
        assert ran.stdout.count("\n") == 1
        assert "there is no command scontrol here" in ran.stdout
        assert ran.stderr == ""

    def test_with_an_invalid_table_prints_one_line_and_fails(self, environment, tmp_path):
        table = tmp_path / "table.ini"
        table.write_text("nonsense")
        ran = subprocess.run(
            [sys.executable, EXAMPLES / "run_autopilot.py", table],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
