"""Tokens that no pilot which runs can take."""

import pytest
from couchdb.http import ResourceNotFound
from support.tokens import make_token
from support.workers import wait_for

from picas import RunActor
from picas.pilot import kinds
from picas.pilot.fleet import running_pilots
from picas.pilot.identity import PREFIX
from picas.pilot.kinds import Kind, survey_needs
from picas.tokens.resources import Resources
from picas.views import create_views


@pytest.fixture
def put(client):
    """Save free tokens, one for each dictionary of needs."""

    def put(*needs, **fields):
        tokens = [make_token(number, **need, **fields) for number, need in enumerate(needs)]
        assert all(client.save_documents(tokens))

    return put


@pytest.fixture
def pilot(client):
    """Save the document of a pilot."""

    def pilot(name="a", **fields):
        client.save({"_id": f"{PREFIX}{name}", "type": "pilot", "state": "running", "cores": 1, "gpus": 0, **fields})

    return pilot


class TestWithoutPilot:
    def test_without_any_pilot_all_that_say_what_they_need_are_told_the_most_first(self, client, put):
        put({}, {"cores": 4}, {"gpus": 1}, {"cores": "4"}, {"walltime": 60}, {"cores": 1}, {"walltime": "soon"})
        assert survey_needs(client).without_pilot == [
            Kind(2, Resources(4), None),
            Kind(1, Resources(), 60),
            Kind(1, Resources(gpus=1), None),
        ]

    @pytest.mark.parametrize(
        ("needs", "has"),
        [
            ({"cores": 4}, {"cores": 4}),
            ({"memory": "2G"}, {"memory": 2048}),
            ({"memory": "2G"}, {}),  # it does not know how much it has
            ({"gpus": 1}, {"gpus": 2}),
            ({"tags": ["avx2"]}, {"tags": ["avx2", "fast"]}),
            ({"walltime": 60}, {"time_left": 60}),
            ({"walltime": 1e9}, {}),  # its job has no end
        ],
        ids=str,
    )
    def test_one_pilot_that_has_it_is_enough(self, client, put, pilot, needs, has):
        put(needs)
        assert len(survey_needs(client).without_pilot) == 1
        pilot("a", tags=[])
        pilot("b", **has)
        assert survey_needs(client).without_pilot == []

    def test_a_pilot_that_is_drained_takes_none(self, client, put, pilot):
        put({"cores": 4})
        pilot("a", cores=4, orders={"drain": {"by": "ann", "time": 1}})
        assert survey_needs(client).without_pilot == [Kind(1, Resources(4), None)]

    @pytest.mark.parametrize(
        ("needs", "has"),
        [
            ({"cores": 4}, {"cores": 3}),
            ({"memory": "2G"}, {"memory": 2047}),
            ({"gpus": 1}, {}),
            ({"tags": ["avx2", "slow"]}, {"tags": ["avx2", "fast"]}),
            ({"walltime": 60}, {"time_left": 59}),
            ({"cores": 4, "gpus": 1}, {"cores": 4}),
            ({"cores": 4}, {"cores": 4, "state": "dead"}),
        ],
        ids=str,
    )
    def test_one_that_has_less_is_not(self, client, put, pilot, needs, has):
        put(needs)
        pilot(**has)
        assert [kind.count for kind in survey_needs(client).without_pilot] == [1]

    def test_no_pilot_is_made_up_of_two(self, client, put, pilot):
        put({"cores": 4, "gpus": 1})
        pilot("a", cores=4)
        pilot("b", gpus=1)
        assert len(survey_needs(client).without_pilot) == 1

    def test_only_free_tokens_count(self, client, put):
        put({"cores": 4, "lock": 5}, {"cores": 4, "lock": 5, "done": 6})
        assert survey_needs(client).without_pilot == []

    def test_odd_needs_and_odd_pilots_are_no_obstacle(self, client, put, pilot):
        put({"cores": "many"}, {"tags": {"a": 1}}, {"walltime": "soon"}, {"memory": [1]})
        pilot(cores=None, memory="much", tags=7, time_left="long")
        assert survey_needs(client).without_pilot == []

    def test_each_design_document_has_its_own(self, client, put):
        create_views(client, "Large", "doc.cores > 4")
        put({"cores": 4}, {"cores": 8})
        assert survey_needs(client, "Large").without_pilot == [Kind(1, Resources(8), None)]

    def test_are_not_all_known_if_too_many_differ(self, client, monkeypatch):
        monkeypatch.setattr(kinds, "MAX_KINDS", 3)
        client.save_documents([make_token(number, memory=number + 1) for number in range(2)])
        assert survey_needs(client).is_complete
        client.save_documents([make_token(number, memory=number + 1) for number in range(2, 5)])
        assert not survey_needs(client).is_complete

    def test_the_views_of_an_older_release_do_not_tell(self, client):
        client.add_view("todo", "function(doc) {}", design_doc="Old")
        with pytest.raises(ResourceNotFound):
            survey_needs(client, "Old")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Kind(1, Resources(4), None), "1 needs 4 cores"),
        (Kind(3, Resources(1, 2000, 1), 3600.0), "3 need 1 core, 2000 MB, 1 GPU, 3600 s of walltime"),
    ],
)
def test_people_can_read_it(kind, text):
    assert str(kind) == text


@pytest.mark.usefixtures("quick")
def test_a_pilot_tells_what_it_has_and_what_is_free(client, push):
    """In its document, while it works and afterwards."""
    push(3, cores=2)
    seen = []

    class Looking(RunActor):
        def process_task(self, task):
            wait_for(lambda: next(running_pilots(client))["holds"])
            seen.extend(running_pilots(client))

    pilot = Looking(client, cores=5, memory="2G", gpus=1, tags="b,a", walltime=500, heartbeat=0.1)
    pilot.run(max_tasks=1, slots=4)
    (document,) = seen
    has = {"slots": 4, "cores": 5, "memory": 2048, "gpus": 1, "tags": ["a", "b"]}
    assert {name: document[name] for name in has} == has
    assert (len(document["holds"]), document["free"]) == (1, 2)
    assert 300 < document["time_left"] <= 500
    assert list(running_pilots(client)) == []
