"""The autopilot's table, and how many pilots it finds missing."""

from __future__ import annotations

import pytest
from support.places import EXAMPLES

from picas.autopilot import Finding, JobClass, read_table
from picas.exceptions import SettingsError
from picas.schedulers import Granted, Jobs

NONE = frozenset()


def ids(count, start=0):
    return frozenset(f"7_{number}" for number in range(start, start + count))


class TestHowManyAreMissing:
    @pytest.mark.parametrize(
        ("waiting", "pending", "running", "free", "missing"),
        [
            (0, 0, 0, 0, 0),
            (1, 0, 0, 0, 1),
            (3, 0, 0, 0, 3),
            (50, 0, 0, 0, 10),  # never more than the maximum
            (50, 4, 5, 0, 1),
            (50, 6, 5, 0, 0),
            (3, 2, 0, 0, 1),  # the queued pilots will take two
            (1, 0, 6, 6, 0),  # six idle pilots are enough for one token
            (7, 0, 6, 6, 1),
            (7, 0, 6, 0, 4),
        ],
    )
    def test_with_one_token_for_each_pilot(self, waiting, pending, running, free, missing):
        kind = JobClass("all", "job.sh", max_pilots=10)
        assert Finding(waiting, Jobs(ids(pending), ids(running, pending)), free).missing(kind) == missing

    @pytest.mark.parametrize(("waiting", "missing"), [(1, 1), (20, 1), (21, 2), (400, 10)])
    def test_with_slots_and_several_tokens_for_each_pilot(self, waiting, missing):
        kind = JobClass("all", "job.sh", slots=4, tokens=5, max_pilots=10)
        assert Finding(waiting, Jobs(NONE, NONE), 0).missing(kind) == missing

    def test_queued_jobs_count_with_all_their_slots(self):
        kind = JobClass("all", "job.sh", slots=4, tokens=5, max_pilots=10)
        assert Finding(61, Jobs(ids(2), NONE), 4).missing(kind) == 1

    def test_jobs_that_can_not_start_are_no_help_but_count(self):
        kind = JobClass("all", "job.sh", max_pilots=5)
        jobs = Jobs(ids(3), NONE, {"7_0": "JobHeldUser", "7_1": "JobHeldUser"})
        assert Finding(3, jobs, 0).missing(kind) == 2
        assert Finding(9, jobs, 0).missing(kind) == 2
        assert str(Finding(3, jobs, 0)).startswith("3 tokens wait, 3 jobs are queued (2 can't start: JobHeldUser) and")


class TestTheTable:
    @pytest.fixture
    def table(self, tmp_path):
        (tmp_path / "job.sh").write_text("#!/bin/sh\n")

        def table(text):
            file = tmp_path / "table.ini"
            file.write_text(text)
            return file

        return table

    def test_has_a_section_for_each_class(self, table, tmp_path):
        text = "[DEFAULT]\nscript = job.sh\n[one]\n[gpu]\nview = waiting\nslots=2\noptions = --gpus=1 '--comment=a b'\n"
        one, gpu = read_table(table(text))
        assert one == JobClass("one", str(tmp_path / "job.sh"))
        assert (gpu.view, gpu.slots, gpu.options, gpu.name) == (
            "waiting",
            2,
            ("--gpus=1", "--comment=a b"),
            "gpu",
        )

    def test_can_say_what_the_jobs_have(self, table):
        (kind,) = read_table(
            table("[a]\nscript=job.sh\ncores = 8\nmemory = 4G\ngpus = 0\ntags = a, b\nwalltime = 2h\n")
        )
        assert kind.granted() == Granted(8, 4096.0, 0, frozenset("ab"), 7200.0)

    def test_counts_before_the_options_and_these_before_earlier_pilots(self, table):
        (kind,) = read_table(table("[a]\nscript=job.sh\ncores = 8\n"))
        had = Granted(cores=1, memory=500.0, gpus=1)
        assert kind.granted(Granted(cores=2, gpus=0), had) == Granted(cores=8, memory=500.0, gpus=0)

    def test_of_the_example_is_valid(self):
        assert [kind.name for kind in read_table(EXAMPLES / "autopilot.ini")] == ["all"]

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("", "has no class: "),
            ("script = job.sh", "is not a table of classes"),
            ("[a]\nslots = 2", r"\[a\]: the key script is missing"),
            ("[a]\nscript = none.sh", r"\[a\], script: there is no file .*none.sh"),
            ("[a]\nscript = job.sh\nslot = 2", r"\[a\], slot: unknown key; the keys are arguments, "),
            ("[a]\nscript = job.sh\nslots = many", r"\[a\], slots: 'many' is not a valid number"),
            ("[a]\nscript = job.sh\nslots = 0", r"\[a\], slots: '0' is not a valid number"),
            ("[a]\nscript = job.sh\nmax_pilots = -1", r"\[a\], max_pilots: '-1' is not a valid number"),
            ("[a]\nscript = job.sh\noptions = 'open", r"\[a\], options: No closing quotation"),
            ("[a]\nscript = job.sh\ncores = 0", r"\[a\], cores: '0' is not a valid number"),
            ("[a]\nscript = job.sh\noptions = --comment=a\0b", r"\[a\], options: a null character is not allowed"),
            ("\ufeff[a]\nscript = job.sh\nslots = 0", r"\[a\], slots: "),
            ("[a]\nscript = job.sh\nview =", r"\[a\], view: the value is missing"),
            ("[a]\nscript = job.sh\nmemory = much", r"\[a\], memory: 'much' is not a number of megabytes"),
            ("[a]\nscript = job.sh\nwalltime = soon", r"\[a\], walltime: 'soon' is not a duration"),
        ],
    )
    def test_with_an_error_is_refused_and_the_place_is_named(self, table, text, complaint):
        with pytest.raises(SettingsError, match=complaint):
            read_table(table(text))
