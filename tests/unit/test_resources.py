"""What tokens need and pilots have, and what is left of it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picas.tokens.resources import Resources, Room, megabytes, needs_of

SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
JSON = SCALAR | st.lists(SCALAR, max_size=3) | st.dictionaries(st.text(max_size=3), SCALAR, max_size=2)


class TestNeeds:
    def test_a_token_that_says_nothing_needs_a_core(self):
        assert needs_of({}) == Resources(cores=1, memory=0, gpus=0, tags=frozenset())

    def test_a_token_says_what_it_needs(self):
        token = {"cores": 4, "memory": 2000, "gpus": 2, "tags": ["avx2", "scratch"]}
        assert needs_of(token) == Resources(4, 2000, 2, frozenset({"avx2", "scratch"}))

    def test_people_write_numbers_as_texts_and_a_single_tag_without_brackets(self):
        token = {"cores": "4", "memory": "2G", "gpus": " 1 ", "tags": " avx2 "}
        assert needs_of(token) == Resources(4, 2048, 1, frozenset({"avx2"}))

    def test_half_a_core_and_half_a_gpu_take_a_whole_one(self):
        assert needs_of({"cores": 0.5, "gpus": 0.5}) == Resources(cores=1, gpus=1)

    @pytest.mark.parametrize("value", [None, True, False, "", "many", 0, -3, math.nan, [4], {"count": 4}], ids=repr)
    def test_what_makes_no_sense_counts_as_not_said(self, value):
        assert needs_of({"cores": value, "memory": value, "gpus": value}) == Resources()

    @pytest.mark.parametrize("value", [None, True, 7, "", "  ", {}, [], [None, 3, ""]], ids=repr)
    def test_tags_are_texts(self, value):
        assert needs_of({"tags": value}) == Resources()

    @pytest.mark.parametrize("value", [math.inf, 1e30, 10**400, "9" * 400], ids=lambda value: repr(value)[:10])
    @pytest.mark.parametrize("field", ["cores", "memory", "gpus"])
    def test_more_than_all_is_what_no_pilot_has(self, field, value):
        assert not Resources(cores=10**9, memory=1e9, gpus=10**9).cover(needs_of({field: value}))

    @given(st.fixed_dictionaries({}, optional=dict.fromkeys(("cores", "memory", "gpus", "tags"), JSON)))
    def test_no_token_is_too_odd(self, token):
        needs = needs_of(token)
        assert needs.cores >= 1
        assert needs.gpus >= 0
        assert 0 <= needs.memory < math.inf


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
    def test_a_pilot_takes_what_it_has(self, needs):
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
    def test_but_nothing_that_needs_more_of_any(self, needs):
        assert not self.HAS.cover(needs)

    def test_memory_that_is_not_known_is_enough(self):
        assert Resources(memory=math.inf).cover(Resources(memory=1e9))


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        (Resources(), "1 core"),
        (Resources(4, 2000.4, 1, frozenset({"a"})), "4 cores, 2000 MB, 1 GPU, tag a"),
        (Resources(1, math.inf, 2, frozenset({"b", "a"})), "1 core, 2 GPUs, tags a b"),
    ],
)
def test_people_can_read_them(resources, text):
    assert str(resources) == text


class TestRoom:
    def test_a_token_takes_a_slot_for_each_of_its_cores(self):
        room = Room.of(8, Resources(8, 1000, 2), [Resources(4, 100, 1), Resources()])
        assert room == Room(total=8, slots=3, memory=900, gpus=1)
        assert room.fits(Resources(3))
        assert not room.fits(Resources(4))

    def test_memory_and_gpus_must_be_left_as_well(self):
        room = Room.of(8, Resources(8, 1000, 1), [Resources(1, 600, 1)])
        assert room.fits(Resources(1, 400))
        assert not room.fits(Resources(1, 401))
        assert not room.fits(Resources(1, 0, 1))

    def test_a_token_takes_no_more_slots_than_there_are(self):
        """A pilot with 16 cores may have been told to work on 2 tokens at a time."""
        room = Room.of(2, Resources(16))
        assert room.fits(Resources(16))
        assert room.without(Resources(16)).slots == 0
        assert not room.without(Resources()).fits(Resources(16))
