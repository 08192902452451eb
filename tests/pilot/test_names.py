"""A user's object is the user's: whatever a subclass calls its own attributes and methods, the pilot does its work."""

from __future__ import annotations

import ast
import copy
import inspect
import keyword
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import picas
from picas import Actor, CouchDB, RunActor, Task, ViewIterator
from picas.views import count_states

PUBLIC = frozenset(
    {
        *("db", "iterator", "token_reset_values", "current_task", "subprocess", "tasks_processed"),
        *("prepare_env", "prepare_run", "process_task", "cleanup_run", "cleanup_env"),
        *("run", "reconnect", "setup_handler", "handler"),
    }
)
"""The names of an actor that scripts rely on."""
PRIVATE = "_picas"
"""The one attribute that is not the user's."""

FORMER = """
    _are_seen _asked _at_work _begin _begin_heartbeat _break_off _check_claims _children _children_of _claim
    _clean_env_quietly _clean_run _conclude _count _counting _describe_work _end_children _end_for_stop
    _end_heartbeat _exchange _exchanging _finish _finish_all _finish_unsaved _free_slots _has_left_some _heartbeat
    _held _interrupt _is_stopping _judge_time_out _next _next_in_time _prepare_and_work _previous_handlers
    _process _put_back _recover _release _restore_handlers _room _save _save_change _set_value _settle _slots
    _start _stop_lost _stop_run _stop_signal _stop_without_run _thread _value _values _values_of_slot _wait_out
    _waits _wind_up _work _work_in_slots _work_in_turn _work_on auto_close grace heartbeat lease max_lost
    max_outage pilot resources spool_folder stop_exit_code stop_signals time walltime
"""
"""Names that earlier releases kept on the actor."""
LIKELY = """
    abort account action add aliases analysis api app apply args arguments array attempt attempts attributes auth
    backend backup base base_dir basedir batch begin benchmark bin binary block body bucket buffer build cache
    calculate call callback cancel catalog chain channel check check_input checkpoint children claim classes clean
    cleanup client clients close cluster cmd code collect columns command commands compute conditions conf config
    configuration configure connect connection container context copy cores couch count counter cpu create
    credentials cursor cwd data data_dir database datadir dataset date debug default defaults delete deadline
    describe design_doc device directory dirac disk doc docs document documents done download duration encode
    engine end endpoint env environment environ epoch error errors event events exchange execute executable
    executor exit exit_code experiment export extra fail failed failures fetch field fields file filename files
    filter finish finished fits flag flags flush folder format function get get_token gpu gpus graph grid group
    hash headers heartbeats helper history hold home host hostname hook hooks id identifier image index info init
    initialize input input_dir inputs install instance interrupt interval is_done is_running is_stopping item
    items job job_id jobid jobs join json key keys kill kwargs label last launch left length level limit limits
    line lines list load local location lock locked log log_dir logfile logger logging logs loop machine main
    manager map mask matcher memory message messages meta metadata method mode model modifier modules monitor name
    names namespace next node nodes notes notify number observation offset on_error on_exit open options order out
    output output_dir outputs owner params parameters parent parse password path paths pattern pause payload pid
    pipeline place plot policy pool port post prefix prepare pre print priority process processed processes
    processor profile progress project properties proxy publish pull push put query queue quiet random read record
    refresh release remote remove report request requests reset resource restart result results resume retries
    retry return_code returncode root rows rule run_id run_task runner running sample save scheduler scratch
    script search section seed send sensor server service session set settings setup shape signal signals site
    size sleep slot slots software source spec spool stage start started state stats status stderr stdin stdout
    step steps stop stop_callback storage stream string submit suffix summary sync system table tag tags target
    task tasks temp template terminate test text thread threads timeout timer timestamp title tmp tmpdir token
    token_id tokens tool total trace transfer type unit unlock update upload uploads url user username util
    validate value values variables verbose version view view_params views wait warn watch weights work workdir
    worker workers working_directory workspace write
"""
"""Names that scientists may well give to something of their own."""


def names_in_the_engine() -> set[str]:
    """Return all names of attributes and methods in picas/pilot and picas/actors.py, and those with an underscore."""
    package = Path(picas.__file__).parent
    found = set()
    for path in [package / "actors.py", *(package / "pilot").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, (ast.FunctionDef, ast.arg)):
                found.add(getattr(node, "name", "") or getattr(node, "arg", ""))
    return found


def all_names() -> list[str]:
    names = {*FORMER.split(), *LIKELY.split(), *names_in_the_engine()}
    names |= {f"_{name}" for name in names if not name.startswith("_")}
    usable = {name for name in names if not name.startswith("__") and not keyword.iskeyword(name)}
    return sorted(usable - PUBLIC - {PRIVATE, "self"})


NAMES = all_names()


class Mine:
    """Something of the user's that nobody else may use in any way."""

    def refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("somebody used what is the user's")

    __call__ = __bool__ = __iter__ = __len__ = __enter__ = __int__ = __float__ = __getitem__ = __eq__ = refuse
    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        return self.refuse()


MINE = Mine()


class Base(RunActor):
    def process_task(self, task: Any) -> None:
        task["output"] = {"seen": task.id}


def before_init() -> type[RunActor]:
    class Script(Base):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            for name in NAMES:
                setattr(self, name, MINE)
            super().__init__(*args, **kwargs)

    return Script


def after_init() -> type[RunActor]:
    class Script(Base):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            for name in NAMES:
                setattr(self, name, MINE)

    return Script


def while_it_works() -> type[RunActor]:
    class Script(Base):
        def process_task(self, task: Any) -> None:
            for name in NAMES:
                setattr(self, name, MINE)
            super().process_task(task)

    return Script


def as_methods() -> type[RunActor]:
    def method(self: Any, path: str, data: bytes, *, colour: str) -> None:
        raise AssertionError("somebody called a method of the user's")

    return type("Script", (Base,), dict.fromkeys(NAMES, method))


def as_properties() -> type[RunActor]:
    def read(self: Any) -> None:
        raise AssertionError("somebody read a property of the user's")

    return type("Script", (Base,), dict.fromkeys(NAMES, property(read)))


def as_class_attributes() -> type[RunActor]:
    return type("Script", (Base,), dict.fromkeys(NAMES, MINE))


KINDS = [before_init, after_init, while_it_works, as_methods, as_properties, as_class_attributes]


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_subclass_may_use_any_name(
    client: CouchDB, push: Callable[..., list[Task]], kind: Callable[[], type[RunActor]], slots: int
) -> None:
    push(2)
    actor = kind()(client)
    actor.run(slots=slots, max_total_time=60, max_scrub=1)
    assert count_states(client) == {"todo": 0, "locked": 0, "done": 2, "error": 0}
    assert [client.get(f"token_{number}")["output"] for number in range(2)] == [
        {"seen": "token_0"},
        {"seen": "token_1"},
    ]
    if kind in (before_init, after_init, while_it_works):
        assert all(vars(actor)[name] is MINE for name in NAMES)


def test_the_names_are_many_and_those_that_broke_scripts_are_among_them() -> None:
    assert len(NAMES) > 900
    assert {"_save", "_start", "_claim", "_release", "_process", "_count", "resources", "time", "pilot"} <= set(NAMES)


@pytest.mark.parametrize("slots", [1, 4])
def test_an_iterator_of_a_script_may_use_names_and_no_init(
    client: CouchDB, push: Callable[..., list[Task]], slots: int
) -> None:
    tokens = iter(push(2))

    class Own(ViewIterator):
        def __init__(self) -> None:
            self.poll = 10
            self.rest = MINE

        def __next__(self) -> Task:
            return client.save(next(tokens).lock())

    Base(client, Own()).run(slots=slots)
    assert count_states(client)["done"] == 2


@pytest.mark.parametrize("slots", [1, 4])
def test_a_copy_of_an_actor_runs_with_its_own_attributes(
    client: CouchDB, push: Callable[..., list[Task]], slots: int
) -> None:
    class Tagged(RunActor):
        tag = "original"

        def process_task(self, task: Any) -> None:
            task["output"] = self.tag

    push(2)
    original = Tagged(client)
    copied = copy.copy(original)
    copied.tag = "copy"
    copied.run(slots=slots)
    assert [client.get(f"token_{number}")["output"] for number in range(2)] == ["copy", "copy"]
    assert (original.tasks_processed, copied.tasks_processed) == (0, 2)


@pytest.mark.parametrize("slots", [1, 4])
def test_a_client_of_a_script_may_copy_itself_in_its_own_way(
    client: CouchDB, push: Callable[..., list[Task]], slots: int
) -> None:
    class Own(CouchDB):
        def copy(self) -> CouchDB:  # type: ignore[override]
            raise AssertionError("somebody called a method of the user's")

    push(2)
    own = copy.copy(client)
    own.__class__ = Own
    Base(own).run(slots=slots)
    assert count_states(client)["done"] == 2


@pytest.mark.parametrize("slots", [1, 4])
def test_a_stand_in_for_the_client_merges_an_edit(client: CouchDB, push: Callable[..., list[Task]], slots: int) -> None:
    class StandIn:
        def __init__(self) -> None:
            self.db, self.get, self.save = client.db, client.get, client.save

    class Edited(Base):
        def process_task(self, task: Any) -> None:
            client.edit(task.id, lambda content: {**content, "note": "by hand"})
            super().process_task(task)

    push(1)
    actor = Edited(client)
    actor.db = StandIn()  # type: ignore[assignment]
    actor.run(slots=slots)
    token = client.get("token_0")
    assert (token["note"], token["output"], token["exit_code"]) == ("by hand", {"seen": "token_0"}, 0)


@pytest.mark.parametrize("slots", [1, 4])
def test_a_counter_that_is_no_number_costs_no_result(
    client: CouchDB, push: Callable[..., list[Task]], slots: int
) -> None:
    class Uncounted(Base):
        def process_task(self, task: Any) -> None:
            self.tasks_processed = None  # type: ignore[assignment]
            super().process_task(task)

    push(1)
    with pytest.raises(TypeError):
        Uncounted(client).run(slots=slots)
    assert client.get("token_0")["output"] == {"seen": "token_0"}
    assert count_states(client)["done"] == 1


def test_a_subclass_may_declare_current_task(client: CouchDB, push: Callable[..., list[Task]]) -> None:
    seen = []

    class Declaring(Base):
        current_task = None

        def process_task(self, task: Any) -> None:
            seen.append(self.current_task is task)

    push(2)
    Declaring(client).run()
    assert seen == [True, True]


def own_names(kind: type) -> Iterator[str]:
    """Yield what the classes of picas define for an actor; not what every object has."""
    for base in kind.__mro__:
        if base is not object:
            yield from (name for name in vars(base) if not (name.startswith("__") and name.endswith("__")))


@pytest.mark.parametrize("kind", [Actor, RunActor])
def test_an_actor_has_its_public_names_and_one_private_attribute(client: CouchDB, kind: type[Actor]) -> None:
    assert {*own_names(kind), *vars(kind(client))} == PUBLIC | {PRIVATE}


def test_every_option_is_an_argument() -> None:
    parameters = inspect.signature(Actor.__init__).parameters.values()
    added = [each for each in parameters if each.kind is each.KEYWORD_ONLY]
    assert all(each.default is not each.empty for each in added)
    assert {"grace", "heartbeat", "lease", "stop_signals", "walltime", "cores", "tags"} <= {each.name for each in added}


class TestHowAnActorShowsItself:
    def test_names_its_class_its_pool_and_what_it_has_done(self, client: CouchDB, push: Callable[..., Any]) -> None:
        push(2)
        actor = Base(client)
        actor.run()
        assert repr(actor) == f"<Base on {client!r}, 2 tokens processed>"

    def test_also_before_it_is_initialised(self) -> None:
        class Early(RunActor):
            def __init__(self) -> None:
                self.shown = repr(self)

        assert Early().shown == "<Early>"
