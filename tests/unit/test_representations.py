"""The repr() of iterators."""

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


def test_names_both_views_in_order():
    iterator = PrioritizedViewIterator(POOL, "first", "second")
    assert " on Monitor/first then Monitor/second of " in repr(iterator)


def test_names_the_inner_iterator_and_whether_it_has_stopped():
    inner = TaskViewIterator(POOL, "todo")
    iterator = EndlessViewIterator(inner)
    assert repr(iterator) == f"<EndlessViewIterator over {inner!r}>"
    iterator.stop()
    assert repr(iterator) == f"<EndlessViewIterator over {inner!r}, stopped>"


def test_of_a_custom_iterator():
    class Mine(ViewIterator):
        pass

    assert repr(Mine()) == "<Mine>"
