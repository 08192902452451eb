"""How iterators show themselves to people."""

from picas import EndlessViewIterator, PrioritizedViewIterator, TaskViewIterator, ViewIterator


class Pool:
    def __repr__(self):
        return "<CouchDB https://couch.example.org/pool>"


POOL = Pool()


def test_names_its_view_and_its_pool():
    iterator = TaskViewIterator(POOL, "todo")
    assert repr(iterator) == "<TaskViewIterator on Monitor/todo of <CouchDB https://couch.example.org/pool>>"


def test_names_another_design_document():
    iterator = TaskViewIterator(POOL, "mine", design_doc="Own", limit=5)
    assert repr(iterator) == "<TaskViewIterator on Own/mine of <CouchDB https://couch.example.org/pool>>"


def test_names_two_views_in_their_order():
    iterator = PrioritizedViewIterator(POOL, "first", "second")
    assert " on Monitor/first then Monitor/second of " in repr(iterator)


def test_names_the_iterator_that_claims_and_says_that_it_has_ended():
    inner = TaskViewIterator(POOL, "todo")
    iterator = EndlessViewIterator(inner)
    assert repr(iterator) == f"<EndlessViewIterator over {inner!r}>"
    iterator.stop()
    assert repr(iterator) == f"<EndlessViewIterator over {inner!r}, stopped>"


def test_of_a_user_s_own():
    class Mine(ViewIterator):
        pass

    assert repr(Mine()) == "<Mine>"
