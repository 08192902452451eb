"""The verb `report`: its numbers are those of the pool, whatever is in there, and its files are whole."""

from __future__ import annotations

import csv
import json
import os
import re
import stat
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from support.large_pool import LargePool
from support.places import ROOT
from support.tokens import ended_token, make_token, odd_tokens

from picas import CouchDB
from picas.cli import reporting
from picas.cli.report import tallies
from picas.cli.report.chart_data import HEAT, LANES, MOST_POINTS, Chart, as_json
from picas.cli.report.charts import charts_of
from picas.cli.report.drawing import as_svg
from picas.cli.report.page import page_of
from picas.cli.report.survey import AT_WORK, SLOTS, Survey, read_survey
from picas.cli.report.tables import tables_of
from picas.pool.facts import attempts_of
from picas.tokens.states import state_of

FAILED = ("failed", "time-out", "cancelled")
HOUR = 3600


def by_name(survey: Survey) -> dict[str, Chart]:
    return {chart.name: chart for chart in charts_of(survey)}


def series_of(chart: Chart) -> dict[str, tuple[float | None, ...]]:
    return {series.name: series.values for series in chart.series}


def page(survey: Survey) -> str:
    return "".join(page_of(survey, charts_of(survey), tables_of(survey)))


class Known:
    """What is in a pool, counted from its documents without the code of the report."""

    def __init__(self, pool: LargePool) -> None:
        documents = list(pool.documents())
        self.tokens = [document for document in documents if document["type"] == "token"]
        self.pilots = [document for document in documents if document["type"] == "pilot"]
        self.attempts = [attempt for token in self.tokens for attempt in token.get("attempts", [])]
        self.states = Counter(str(state_of(token)) for token in self.tokens)
        self.outcomes = Counter(attempt["outcome"] for attempt in self.attempts)


@pytest.fixture
def pool() -> LargePool:
    """A few hundred tokens, at work for a day."""
    return LargePool(400, 30, days=1.0, seed=5)


@pytest.fixture
def filled(client: CouchDB, pool: LargePool) -> LargePool:
    pool.fill(client)
    return pool


def test_generated_documents_are_like_those_of_a_real_run(client: CouchDB, run_picas: Any) -> None:
    inputs = ["exit 0", "echo no >&2; exit 3"]
    client.save_documents([make_token(number, input=text) for number, text in enumerate(inputs)])
    assert run_picas("run", "--max-scrub", "1", "--software", "v1").returncode == 0
    real = [dict(client.get(f"token_{number}").value) for number in range(2)]
    pilot = dict(client.all_docs(startkey="picas_ended_", limit=1, include_docs=True)[0].doc)
    known = Known(LargePool(300, 12, days=1.0))
    made = [
        next(token for token in known.tokens if token.get("attempts", [{}])[-1].get("outcome") == outcome)
        for outcome in ("done", "failed")
    ]
    for one, other in zip(real, made):
        own = {"_rev", "_attachments", "error", "cores", "memory", "gpus", "walltime", "lost_count"}
        of_job = {name for name in other if name.endswith("_job_id")}
        assert set(one) - own == set(other) - own - of_job
        assert set(one["attempts"][-1]) == set(other["attempts"][-1])
    assert set(real[1]["error"][-1]) == set(made[1]["error"][-1])
    ended = next(pilot for pilot in known.pilots if pilot["state"] == "ended")
    of_job = {name for name in ended if name.endswith("_job_id")} | {"walltime"}
    assert set(pilot) - {"_rev"} == set(ended) - of_job


class TestSums:
    def test_are_those_of_the_documents(self, client: CouchDB, filled: LargePool) -> None:
        survey, known = read_survey(client), Known(filled)
        assert {state: count for state, count in survey.states.items() if count} == known.states
        assert {name: tally.attempts for name, tally in survey.outcomes.items()} == known.outcomes
        for outcome, tally in survey.outcomes.items():
            own = [attempt for attempt in known.attempts if attempt["outcome"] == outcome and "seconds" in attempt]
            if outcome != "lost":
                spent = sum(attempt["seconds"] * attempt["cores"] for attempt in own)
                assert tally.core_seconds == pytest.approx(spent)
                assert tally.cpu_seconds == pytest.approx(sum(attempt["cpu_seconds"] for attempt in own))
                assert tally.seconds.largest == max(attempt["seconds"] for attempt in own)
        assert survey.idle_seconds == pytest.approx(sum(pilot["idle_seconds"] for pilot in known.pilots))
        groups = Counter(attempt["group"] for attempt in known.attempts if attempt["outcome"] in FAILED)
        assert {name: group.attempts for name, group in survey.groups.items()} == groups
        in_error = Counter(t["attempts"][-1]["group"] for t in known.tokens if state_of(t) == "error")
        assert {name: group.in_error for name, group in survey.groups.items() if group.in_error} == in_error
        slowest = max(attempt["seconds"] for attempt in known.attempts if "seconds" in attempt)
        assert survey.slowest.list()[0].seconds == slowest
        assert survey.retries == sum(
            before["outcome"] in (*FAILED, "lost")
            for token in known.tokens
            for before, _ in zip(token.get("attempts", []), token.get("attempts", [])[1:])
        )

    def test_of_the_charts_are_the_same(self, client: CouchDB, filled: LargePool) -> None:
        survey, known = read_survey(client), Known(filled)
        charts = by_name(survey)
        at_the_end = {name: values[-1] for name, values in series_of(charts["states"]).items()}
        assert at_the_end == {state: known.states[state] for state in ("done", "error", "locked", "todo")}
        throughput = {name: sum(map(float, values)) for name, values in series_of(charts["throughput"]).items()}
        assert throughput["done"] == known.outcomes["done"]
        assert throughput["failed"] == sum(known.outcomes[outcome] for outcome in FAILED)
        durations = series_of(charts["durations"])
        assert sum(durations["done"]) == known.outcomes["done"]
        cost = dict(zip(charts["cost"].x, charts["cost"].series[0].values))
        done = sum(attempt["seconds"] * attempt["cores"] for attempt in known.attempts if attempt["outcome"] == "done")
        assert cost["done"] == pytest.approx(done / HOUR)

    def test_of_slots_are_the_time_at_work(self, client: CouchDB, filled: LargePool) -> None:
        survey, known = read_survey(client), Known(filled)
        window = survey.window
        assert window is not None
        past = [edge for edge in by_name(survey)["slots"].x if edge + window.width <= survey.read_at]
        at_work, slots = (
            survey.timeline.level(name, window.start, window.end, window.width)[1] for name in (AT_WORK, SLOTS)
        )
        until = past[-1] + window.width
        held = [(token["claim"]["start"], until, token.get("cores", 1)) for token in known.tokens if "claim" in token]
        jobs = [(a["start"], a["end"], a["cores"]) for a in known.attempts if a["outcome"] != "lost"] + held
        spent = sum(cores * max(0, min(end, until) - start) for start, end, cores in jobs)
        lost = sum(attempt["outcome"] == "lost" for attempt in known.attempts)
        assert sum(at_work[: len(past)]) * window.width == pytest.approx(spent, rel=0.001 if not lost else 0.05)
        lives = [(pilot["start"], pilot.get("end", until), pilot["slots"]) for pilot in known.pilots]
        there = sum(number * max(0, min(end, until) - start) for start, end, number in lives)
        assert sum(slots[: len(past)]) * window.width == pytest.approx(there, rel=0.02)

    def test_with_since_are_those_of_the_window(self, client: CouchDB, filled: LargePool) -> None:
        survey, known = read_survey(client, 4 * HOUR), Known(filled)
        begin = survey.read_at - 4 * HOUR
        ended = Counter(attempt["outcome"] for attempt in known.attempts if attempt["end"] >= begin)
        assert {name: tally.attempts for name, tally in survey.outcomes.items()} == ended
        assert survey.gaps.earlier == len(known.attempts) - sum(ended.values())
        charts = by_name(survey)
        assert charts["states"].x[0] <= begin < charts["states"].x[0] + charts["states"].width
        done_before = sum(state_of(token) == "done" and token["done"] < begin for token in known.tokens)
        assert done_before <= charts["states"].series[0].values[0] <= charts["states"].series[0].values[-1]
        assert charts["states"].series[0].values[-1] == known.states["done"]
        whole = [pilot for pilot in known.pilots if pilot["start"] >= begin]
        assert survey.idle_seconds == pytest.approx(sum(pilot["idle_seconds"] for pilot in whole))

    def test_of_a_lost_attempt_end_at_the_last_sign_of_its_pilot(self, client: CouchDB) -> None:
        start = int(time.time()) - 10_000
        pilot = {"_id": "picas_pilot_a", "type": "pilot", "state": "dead", "slots": 8, "start": start - 50}
        client.save({**pilot, "saved": start + 500, "end": start + 1200})
        lost = {"claim": "1", "start": start, "end": start + 1200, "outcome": "lost", "reason": "lost: silent"}
        known, unknown = {**lost, "pilot": "picas_pilot_a"}, {**lost, "pilot": "picas_pilot_gone"}
        client.save_documents([make_token(1, cores=4, attempts=[known]), make_token(2, attempts=[unknown])])
        survey = read_survey(client)
        assert survey.core_seconds["lost"] == 4 * 500
        assert "1 attempt is left out" in by_name(survey)["cost"].note


class TestCharts:
    @pytest.mark.parametrize(("pilots", "kind"), [(30, LANES), (230, HEAT)])
    def test_have_few_points_and_are_json(self, client: CouchDB, pilots: int, kind: str) -> None:
        LargePool(500, pilots, days=2.0).fill(client)
        charts = by_name(read_survey(client))
        assert charts["pilots"].kind == kind
        for chart in charts.values():
            assert 0 < chart.points <= MOST_POINTS
            assert all((chart.text, chart.title, chart.x_title, chart.y_title))
            assert all(len(series.values) == len(chart.x) for series in chart.series)
            json.dumps(as_json(chart), allow_nan=False)

    def test_mark_deaths_and_retries(self, client: CouchDB, filled: LargePool) -> None:
        survey, known = read_survey(client), Known(filled)
        marks = by_name(survey)["pilots"].marks
        dead = sum(pilot["state"] == "dead" for pilot in known.pilots)
        assert sum(mark.count for mark in marks if mark.role == "death") == dead
        running = sum(
            "claim" in token and token.get("attempts", [{}])[-1].get("outcome") in (*FAILED, "lost")
            for token in known.tokens
        )
        assert sum(mark.count for mark in marks if mark.role == "retry") == survey.retries + running

    def test_of_a_short_time_have_seconds(self, client: CouchDB) -> None:
        start = int(time.time()) // 3600 * 3600 - 3600 + 7
        client.save_documents([ended_token(n, "done", start=start + n, seconds=2.0) for n in range(3)])
        survey = read_survey(client)
        text = page(survey)
        assert len(set(re.findall(r":00:(\d\d) ", text))) >= 4
        assert re.search(r"on average over the 1 s from [-0-9]+ \d\d:00:08 ", text)

    def test_of_lanes_end_with_the_last_pilot(self, client: CouchDB) -> None:
        now = int(time.time())
        times = {"start": now - 90_000, "end": now - 86_400, "saved": now - 86_400}
        pilot = {"_id": "picas_ended_1_x", "pilot": "x", "type": "pilot", "state": "ended", "slots": 1, **times}
        client.save(pilot)
        client.save(ended_token(1, "done", start=now - 90_000, seconds=3000.0))
        chart = by_name(read_survey(client))["pilots"]
        assert chart.x[-1] + chart.width <= now - 86_400 + chart.width
        assert chart.spans[-1].end == now - 86_400
        begun = by_name(read_survey(client, 100_000.0))["pilots"]
        assert begun.x[-1] + begun.width >= now


class TestOddPools:
    def test_an_empty_one(self, client: CouchDB) -> None:
        text = page(read_survey(client))
        assert "Nothing has happened in this pool yet." in text
        assert "No attempt has failed." in text

    def test_one_token(self, client: CouchDB, push: Any) -> None:
        push(1)
        assert "<b>1</b><span>token</span>" in page(read_survey(client))

    def test_without_any_view(self, client: CouchDB) -> None:
        for row in client.all_docs(startkey="_design/", endkey="_design0", include_docs=True):
            client.delete(dict(row.doc))
        client.save(ended_token(1, "done", start=int(time.time()) - 100))
        assert read_survey(client).states["done"] == 1

    def test_of_picas_1_1(self, client: CouchDB) -> None:
        start = int(time.time()) - 5000
        done = [make_token(n, lock=start + n, done=start + n + 60, exit_code=0, hostname="a") for n in range(20)]
        failed = [make_token(100, lock=99, done=99, exit_code=99, error=[{"message": "no", "time": start + 30}])]
        client.save_documents([*done, *failed, make_token(200)])
        survey = read_survey(client)
        assert survey.gaps.old == 21
        states = series_of(by_name(survey)["states"])
        assert [states[name][-1] for name in ("done", "error", "locked", "todo")] == [20, 1, 0, 1]
        assert max(map(float, states["locked"])) > 0
        assert "21 tokens processed by a release that notes no attempts" in page(survey)

    def test_with_documents_of_any_kind(self, client: CouchDB) -> None:
        odd: list[Any] = ["x", None, 5, [], {}, {"start": "a", "end": [], "seconds": {}, "cores": "4", "outcome": 7}]
        odd += [{"start": -5, "end": 1e300, "seconds": -1, "cores": -3, "cpu_seconds": True, "max_memory_mb": "1 GB"}]
        odd += [{"start": 1e9, "end": 1e9 - 1, "outcome": "fa\x1biled", "reason": 5, "group": ["x"], "software": 1}]
        odd += [{"start": 2_000_000_000.5, "end": 1.9e9, "outcome": "failed", "pilot": ["a"], "host": {}}]
        odd += 2 * [
            {"outcome": "failed", "seconds": 1e308, "cores": 1},
            {"outcome": "failed", "seconds": 9, "cores": 1e308},
        ]
        odd += 2 * [{"outcome": "done", "seconds": 9, "cores": 1, "cpu_seconds": 1e308, "max_memory_mb": 1e308}]
        tokens = [make_token(n, lock=5, done=7, attempts=[entry]) for n, entry in enumerate(odd)]
        tokens += [
            make_token(90, attempts="none", error="x", lock=5, done=0, claim="x"),
            make_token(91, lock="", done=0),
        ]
        tokens += [make_token(92, lock=5, done=0, claim={"pilot": {}, "start": "x"}), {"_id": "a", "type": ["token"]}]
        pilots = [
            {"_id": f"picas_pilot_{n}", "type": "pilot", "state": state} for n, state in enumerate((None, "running"))
        ]
        pilots += [
            {"_id": "picas_pilot_x", "type": "pilot", "state": "running", "start": "a", "slots": -4, "saved": {}}
        ]
        client.save_documents([*tokens, *odd_tokens(), *pilots])
        survey = read_survey(client)
        assert survey.tokens == len(tokens) - 1 + len(odd_tokens())
        text = page(survey)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
        for chart in charts_of(survey):
            json.dumps(as_json(chart), allow_nan=False)

    @pytest.mark.parametrize("amount", [1e308, 1 << 80, 1e15])
    def test_with_amounts_that_can_not_be_true(self, client: CouchDB, amount: float) -> None:
        start = int(time.time()) - 1000
        tokens = [ended_token(number, "done", start=start, seconds=600.0) for number in range(6)]
        for token in tokens:
            token["attempts"][0].update(cores=1, cpu_seconds=300.0, max_memory_mb=100.0)
        for token, name in zip(tokens, ("seconds", "cores", "cpu_seconds", "max_memory_mb")):
            token["attempts"][0][name] = amount
        del tokens[0]["attempts"][0]["start"]  # which would say how long it took
        locked = make_token(9, lock=start, cores=amount)
        client.save_documents([*tokens, locked])
        survey = read_survey(client)
        tally = survey.outcomes["done"]
        assert (tally.attempts, tally.costed, tally.core_seconds) == (6, 4, 4 * 600.0)
        assert (tally.cpu_seconds, tally.cpu_core_seconds) == (3 * 300.0, 3 * 600.0)
        assert sum(used.count for used in survey.memory.used.values()) == 5
        for chart in charts_of(survey):
            as_svg(chart)
        assert "whose duration or cores are unknown: not in the core-hours" in page(survey)
        assert max(filter(None, series_of(by_name(survey)["slots"])["at work"])) <= 7

    def test_with_more_groups_than_are_told_apart(self, client: CouchDB, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tallies, "MOST_GROUPS", 14)
        groups = [f"r{number:04x}" for number in range(40)]
        tokens = [ended_token(number, reason="exit 1", group=group) for number, group in enumerate(groups)]
        client.save_documents([*tokens, ended_token(99, reason="exit 1", group="r0001")])
        survey = read_survey(client)
        chart, text = by_name(survey)["failures"], page(survey)
        assert chart.text == "41 attempts failed in more than 14 ways. The most frequent, r0001: 2 attempts."
        assert chart.note == "More than 2 further groups with 28 attempts in the table."
        assert "--reason others" not in text
        assert (tables_of(survey)["failures"].rows[-1][:2]) == ("others", 26)

    def test_a_failure_in_the_future_dates_no_group(self, client: CouchDB) -> None:
        now = int(time.time())
        starts = (now - 100, now + 9_000_000)
        client.save_documents([ended_token(n, reason="no", group="r1", start=start) for n, start in enumerate(starts)])
        group = read_survey(client).groups["r1"]
        assert (group.attempts, group.last) == (2, now - 90)

    def test_with_a_token_that_is_nested_too_deeply(self, client: CouchDB, is_couchdb: bool) -> None:
        if not is_couchdb:
            pytest.skip("the embedded server refuses it")
        deep = f'{{"docs": [{{"_id": "deep", "type": "token", "x": {"[" * 3000}{"]" * 3000}}}]}}'
        client.db.resource.post("_bulk_docs", deep.encode(), {"Content-Type": "application/json"})
        client.save(ended_token(1, "done", start=int(time.time()) - 100))
        assert read_survey(client).states["done"] == 1

    def test_with_clocks_that_are_wrong_by_days(self, client: CouchDB) -> None:
        now = int(time.time())
        tokens = [ended_token(n, "done", start=now - 7000 + 30 * n) for n in range(200)]
        wrong = [ended_token(900, "done", start=now + 9 * 86_400), ended_token(901, "done", start=now - 4000 * 86_400)]
        client.save_documents([*tokens, *wrong])
        survey = read_survey(client)
        assert survey.window is not None
        assert now - 7200 <= survey.window.start <= now - 6900
        assert survey.window.end <= time.time()
        assert (survey.gaps.later, survey.gaps.outliers, survey.outcomes["done"].attempts) == (1, 1, 202)
        assert series_of(by_name(survey)["states"])["done"][-1] == 202
        assert "1 attempt with times in the future" in page(survey)


class TestMemory:
    def test_each_container_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("MOST_SLOW", "MOST_AMOUNTS", "MOST_NAMES", "MOST_OUTCOMES", "MOST_GROUPS"):
            monkeypatch.setattr(tallies, name, 10)
        slowest, memory = tallies.Slowest(), tallies.MemoryTally()
        software: Counter[str] = Counter()
        outcomes: dict[str, tallies.OutcomeTally] = {}
        groups: dict[str, tallies.GroupTally] = {}
        monkeypatch.setattr(tallies.count_name, "__defaults__", (10,))
        for number in range(100):
            (attempt,) = tallied(number)
            slowest.add(f"token_{number}", attempt)
            memory.add(float(number), 5.0)
            tallies.count_name(software, f"v{number}")
            tallies.tally_of(outcomes, f"o{number}").add(1.0, 1, None)
            tallies.group_of(groups, f"g{number}").attempts += 1
        assert [each.seconds for each in slowest.list()] == [float(number) for number in range(99, 89, -1)]
        assert [len(each) for each in (memory.used, software, outcomes, groups)] == [11, 11, 11, 11]
        assert sum(software.values()) == sum(group.attempts for group in groups.values()) == 100
        assert sum(tally.attempts for tally in outcomes.values()) == 100


def tallied(number: int) -> tuple[Any, ...]:
    return attempts_of({"attempts": [{"seconds": float(number), "outcome": "done"}]})


class TestVerb:
    @pytest.fixture
    def hostile(self, client: CouchDB) -> None:
        start = int(time.time()) - 1000
        reason = "<script>alert(1)</script> & $x^2$ \u202e\x1b[31m costs $5"
        fields = {"reason": reason, "group": "<b>r$1$", "start": start}
        token = {**ended_token(1, **fields), "_id": "tok<i>en"}  # type: ignore[arg-type]
        token["attempts"][0].update(host="<u>", outcome="failed", software="<s>\x00")
        log = b"\x1b]0;title\x07 <img src=x onerror=alert(1)>\n"
        client.save(token)
        stored = client.get("tok<i>en")
        stored.put_attachment("logs_tok<i>en.err", log)
        client.save(stored)
        client.save({"_id": "picas_pilot_<i>", "type": "pilot", "state": "running", "host": "$a$<i>", "slots": 1,
                     "start": start, "saved": int(time.time()), "heartbeat": 60})  # fmt: skip

    def test_writes_one_file_without_scripts_or_addresses(
        self, hostile: None, client: CouchDB, run_picas: Any, tmp_path: Path
    ) -> None:
        result = run_picas("report", "-o", "report.html")
        assert (result.returncode, result.stdout) == (0, "")
        assert result.stderr == f"The report on {client.database_name} is in report.html\n"
        file = tmp_path / "report.html"
        text = file.read_text(encoding="utf-8")
        assert "default-src 'none'" in text
        assert not re.search(r"<(script|img|b>r|i>|u|s|link|iframe|object)[ >]?(?!\w)", text)
        assert not re.search(r"(src|href|action)=[\"'](?!#)|url\((?!#)", text)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
        assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; $x^2$ \\u202e\\x1b[31m costs $5" in text
        assert "\\x1b]0;title\\x07 &lt;img src=x onerror=alert(1)&gt;" in text
        ids = re.findall(r'\bid="([^"]+)"', text)
        assert len(ids) == len(set(ids)) > 10
        assert set(re.findall(r"(?:href=\"|url\()#([^\")]+)", text)) <= set(ids)
        assert stat.S_IMODE(file.stat().st_mode) & 0o600 == 0o600
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".report")] == []

    def test_ends_quietly_if_the_reader_of_the_page_has_gone(self, environment: Any, client: CouchDB) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-m", "picas.cli", "report", "-o", "-"]
        result = subprocess.run(
            command, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True, check=False
        )  # fmt: skip
        os.close(writing)
        assert (result.returncode, result.stderr) == (1, "")

    def test_saves_tables_and_pictures(self, filled: LargePool, run_picas: Any, tmp_path: Path) -> None:
        result = run_picas("report", "-o", "-", "--csv", "tables", "--png", "pictures")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith("<!DOCTYPE html>")
        assert "All tables, and the numbers of all charts, are in tables/." in result.stdout
        with (tmp_path / "tables" / "pilots.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        pilots = [document for document in filled.documents() if document["type"] == "pilot"]
        assert len(rows) == len(pilots)
        assert sum(int(row["done"]) for row in rows) == sum(pilot["outcomes"].get("done", 0) for pilot in pilots)
        names = {"states", "slots", "throughput", "pilots", "durations", "failures", "cost", "memory"}
        assert {path.stem for path in (tmp_path / "pictures").iterdir()} == names
        assert {f"chart_{name}" for name in names} < {path.stem for path in (tmp_path / "tables").iterdir()}

    @pytest.mark.parametrize("place", ["no/such/folder/report.html", "."])
    def test_a_place_that_can_not_be_written_is_one_line(self, client: CouchDB, run_picas: Any, place: str) -> None:
        result = run_picas("report", "-o", place)
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert "can't be written" in result.stderr

    def test_what_was_there_stays_if_it_fails(self, client: CouchDB, run_picas: Any, tmp_path: Path) -> None:
        (tmp_path / "report.html").write_text("old")
        (tmp_path / "file").write_text("")
        assert run_picas("report", "-o", "report.html", "--csv", "file/folder").returncode == 1
        assert [(path.name, path.read_text()) for path in sorted(tmp_path.glob("*report*"))] == [("report.html", "old")]

    def test_has_no_file_before_all_is_read(self, tmp_path: Path) -> None:
        file = tmp_path / "report.html"
        with reporting._replaced(str(file)) as content:  # a signal may end the process here
            content.write("all")
            assert list(tmp_path.iterdir()) == []
        assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
        assert file.read_text() == "all"

    def test_does_not_heed_the_window_system_of_matplotlib(self, client: CouchDB, run_picas: Any) -> None:
        result = run_picas("report", "-o", "report.html", variables={"MPLBACKEND": "nonsense"})
        assert (result.returncode, result.stderr.count("\n")) == (0, 1)

    def test_a_reader_that_goes_away_is_no_error(self) -> None:
        with pytest.raises(BrokenPipeError), reporting._writing("-"):
            raise BrokenPipeError

    def test_names_the_extra_that_is_missing(self, client: CouchDB, run_picas: Any, tmp_path: Path) -> None:
        (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')")
        path = os.pathsep.join([str(tmp_path), str(ROOT)])
        result = run_picas("report", "-o", "report.html", variables={"PYTHONPATH": path})
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == 'picas: the package matplotlib is missing: pip install "picas[report]"\n'


def test_the_users_own_settings_of_matplotlib_are_neither_heeded_nor_changed(
    client: CouchDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.save(ended_token(1, "done", start=int(time.time()) - 100))
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)  # needs LaTeX
    picture = as_svg(by_name(read_survey(client))["durations"])
    assert ">attempts<" in picture
    assert matplotlib.rcParams["text.usetex"] is True
