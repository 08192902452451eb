"""What tokens need, what pilots have, and what is left."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picas.tokens.resources import Resources, Room, megabytes, needs_of, walltime_of

SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
JSON = SCALAR | st.lists(SCALAR, max_size=3) | st.dictionaries(st.text(max_size=3), SCALAR, max_size=2)


class TestNeeds:
    def test_a_token_needs_one_core_by_default(self):
        assert needs_of({}) == Resources(cores=1, memory=0, gpus=0, tags=frozenset())

    def test_the_fields_of_a_token_say_what_it_needs(self):
        token = {"cores": 4, "memory": 2000, "gpus": 2, "tags": ["avx2", "scratch"]}
        assert needs_of(token) == Resources(4, 2000, 2, frozenset({"avx2", "scratch"}))

    def test_numbers_may_be_texts_and_a_single_tag_needs_no_list(self):
        token = {"cores": "4", "memory": "2G", "gpus": " 1 ", "tags": " avx2 "}
        assert needs_of(token) == Resources(4, 2048, 1, frozenset({"avx2"}))
        assert needs_of({"tags": "avx2, fast,"}).tags == {"avx2", "fast"}

    def test_fractions_of_cores_and_gpus_are_rounded_up(self):
        assert needs_of({"cores": 0.5, "gpus": 0.5}) == Resources(cores=1, gpus=1)

    @pytest.mark.parametrize("value", [None, True, False, "", "many", 0, -3, math.nan, [4], {"count": 4}], ids=repr)
    def test_invalid_values_are_ignored(self, value):
        assert needs_of({"cores": value, "memory": value, "gpus": value}) == Resources()

    @pytest.mark.parametrize("value", [None, True, 7, "", "  ", {}, [], [None, 3, ""]], ids=repr)
    def test_tags_that_are_not_texts_are_ignored(self, value):
        assert needs_of({"tags": value}) == Resources()

    @pytest.mark.parametrize("value", [math.inf, 1e30, 10**400, "9" * 400], ids=lambda value: repr(value)[:10])
    @pytest.mark.parametrize("field", ["cores", "memory", "gpus"])
    def test_no_pilot_covers_a_huge_need(self, field, value):
        assert not Resources(cores=10**9, memory=1e9, gpus=10**9).cover(needs_of({field: value}))

    @given(st.fixed_dictionaries({}, optional=dict.fromkeys(("cores", "memory", "gpus", "tags"), JSON)))
    def test_any_token_has_valid_needs(self, token):
        needs = needs_of(token)
        assert needs.cores >= 1
        assert needs.gpus >= 0
        assert 0 <= needs.memory < math.inf


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [
        *[(60, 60), (0.5, 0.5), (0, None), (-1, None), (1e12, None), (10**400, None), (math.nan, None)],
        *[("60", 60), ("90m", 5400), ("2h", 7200), ("01:30:00", 5400), ("1-12:00:00", 36 * 3600), (" 2h ", 7200)],
        *[(True, None), ("1:30", None), ("soon", None), ("", None), ("9" * 400, None), (None, None), ([60], None)],
    ],
    ids=lambda value: repr(value)[:10],
)
def test_the_walltime_of_a_token_is_in_seconds_or_as_people_write_it(walltime, seconds):
    assert walltime_of({"walltime": walltime}) == seconds
    assert walltime_of({}) is None


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (500, 500),
        ("500", 500),
        ("500M", 500),
        ("500 MB", 500),
        ("500MiB", 500),
        ("4G", 4096),
        ("4g", 4096),
        ("1.5 GiB", 1536),
        ("1T", 1024 * 1024),
        ("2048K", 2),
        ("4X", None),
        ("G", None),
        ("-4G", None),
        ("4 G B", None),
        (True, None),
        (None, None),
    ],
)
def test_memory_may_have_a_unit(value, number):
    assert megabytes(value) == number


class TestCovering:
    HAS = Resources(4, 2000, 1, frozenset({"avx2", "fast"}))

    @pytest.mark.parametrize(
        "needs",
        [Resources(), HAS, Resources(4), Resources(memory=2000), Resources(tags=frozenset({"fast"}))],
        ids=str,
    )
    def test_a_pilot_covers_what_it_has(self, needs):
        assert self.HAS.cover(needs)

    @pytest.mark.parametrize(
        "needs",
        [
            Resources(5),
            Resources(memory=2000.5),
            Resources(gpus=2),
            Resources(tags=frozenset({"slow"})),
            Resources(tags=frozenset({"fast", "slow"})),
        ],
        ids=str,
    )
    def test_a_pilot_does_not_cover_more_than_it_has(self, needs):
        assert not self.HAS.cover(needs)

    def test_unknown_memory_covers_any_need(self):
        assert Resources(memory=math.inf).cover(Resources(memory=1e9))


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        (Resources(), "1 core"),
        (Resources(4, 2000.4, 1, frozenset({"a"})), "4 cores, 2000 MB, 1 GPU, tag a"),
        (Resources(1, math.inf, 2, frozenset({"b", "a"})), "1 core, 2 GPUs, tags a b"),
    ],
)
def test_resources_in_words(resources, text):
    assert str(resources) == text


class TestRoom:
    def test_a_token_takes_one_slot_for_each_core(self):
        room = Room.of(8, Resources(8, 1000, 2), [Resources(4, 100, 1), Resources()])
        assert room == Room(total=8, slots=3, memory=900, gpus=1)
        assert room.fits(Resources(3))
        assert not room.fits(Resources(4))

    def test_a_token_needs_free_memory_and_gpus_too(self):
        room = Room.of(8, Resources(8, 1000, 1), [Resources(1, 600, 1)])
        assert room.fits(Resources(1, 400))
        assert not room.fits(Resources(1, 401))
        assert not room.fits(Resources(1, 0, 1))

    def test_a_token_never_takes_more_slots_than_the_pilot_has(self):
        """A pilot with 16 cores may have only 2 slots."""
        room = Room.of(2, Resources(16))
        assert room.fits(Resources(16))
        assert room.without(Resources(16)).slots == 0
        assert not room.without(Resources()).fits(Resources(16))
