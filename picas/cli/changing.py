"""The verbs that change many tokens: `retry`, `set` and `delete`."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import takewhile
from typing import Any, Callable

from .. import console
from ..clients import CouchDB
from ..documents import Document
from ..exceptions import UsageError
from ..pilot import dead_holders, describe_loss, left_alone, watch_text
from ..pool import Change, Source, TokenQuery, delete_tokens, holders_of, retry_tokens, set_fields
from ..pool.edits import Progress, check_fields, holder_of
from ..pool.filters import Filter, parse_condition, parse_value
from ..tokens.states import STATES
from .arguments import add_json, add_verb, add_yes, confirm, connect, token_ids
from .output import number_of, print_json, tell
from .progress import progress_of
from .selecting import add_filters, filter_of, indexed, sources_of, tell_gaps


def add_verbs(verbs: Any) -> None:
    """Add these verbs to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    retry = add_verb(
        verbs,
        "retry",
        _retry,
        help="put tokens back to todo",
        description="Put tokens back to todo, with their logs and their history: those with the given ids, or those of "
        "a state, that meet all filters. With filters alone, these are tokens in error. A pilot that is working on "
        "such a token loses it.",
    )
    _add_selection(retry)
    retry.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="set a field in the same write, for example memory=16G",
    )
    retry.add_argument("--dead", action="store_true", help="only locked tokens of pilots that are dead or silent")

    change = add_verb(
        verbs,
        "set",
        _set,
        help="set fields of tokens",
        description="Set fields of tokens: of those with the given ids, or of those of a state, that meet all filters. "
        "A value is JSON, else a text.",
    )
    _add_selection(change, "FIELD=VALUE… TOKEN|STATE", "the fields to set; then ")
    change.add_argument("--unset", action="append", default=[], metavar="FIELD", help="remove a field")

    delete = add_verb(
        verbs,
        "delete",
        _delete,
        help="delete tokens",
        description="Delete tokens, with their logs: those with the given ids, or those of a state, that meet all "
        "filters.",
    )
    _add_selection(delete)


def _add_selection(parser: argparse.ArgumentParser, metavar: str = "TOKEN|STATE", first: str = "") -> None:
    parser.add_argument(
        "words",
        nargs="*",
        metavar=metavar,
        help=f"{first}ids of tokens, or states: todo, locked, done or error; - for ids on standard input, one a line",
    )
    add_filters(parser)
    parser.add_argument("--dry-run", action="store_true", help="count the tokens, and change nothing")
    add_yes(parser)
    add_json(parser)


def _retry(options: argparse.Namespace) -> int:
    fields = check_fields(dict(map(_assignment, options.set)))
    filter = filter_of(options)
    default = ("locked",) if options.dead else ("error",) if filter else ()
    sources, ids = _selected(options, options.words, default)
    if sources and sources[0].view not in STATES:  # such a view may hold tokens in any state
        state = parse_condition(f"state = {'locked' if options.dead else 'error'}")
        filter = replace(filter, conditions=(*filter.conditions, state))

    def retry(client: CouchDB, tokens: Iterable[Document], progress: Progress | None) -> Change:
        return retry_tokens(client, tokens, fields, progress)

    job = _Job(options, "retry", "Retried", sources, ids, filter, retry)
    return job.run_for_dead() if options.dead else job.run("; --dead leaves live pilots alone")


def _set(options: argparse.Namespace) -> int:
    words = list(takewhile(lambda word: "=" in word, options.words))
    fields = check_fields(dict(map(_assignment, words)))
    check_fields(dict.fromkeys(options.unset))
    if not fields and not options.unset:
        raise UsageError("nothing is to be set: give FIELD=VALUE before the tokens, or --unset FIELD")
    sources, ids = _selected(options, options.words[len(words) :])

    def change(client: CouchDB, tokens: Iterable[Document], progress: Progress | None) -> Change:
        return set_fields(client, tokens, fields, options.unset, progress)

    return _Job(options, "set", "Changed", sources, ids, filter_of(options), change).run(None)


def _delete(options: argparse.Namespace) -> int:
    sources, ids = _selected(options, options.words)

    def delete(client: CouchDB, tokens: Iterable[Document], progress: Progress | None) -> Change:
        return delete_tokens(client, tokens, progress=progress)

    return _Job(options, "delete", "Deleted", sources, ids, filter_of(options), delete).run("")


def _assignment(text: str) -> tuple[str, Any]:
    """Return the name and the value in an argument like "memory=16G".

    :raises UsageError: if it has another form
    """
    name, separator, value = text.partition("=")
    if not separator:
        raise UsageError(f"{text!r} is not like FIELD=VALUE")
    return name, parse_value(value)


def _selected(
    options: argparse.Namespace, words: Iterable[str], default: Iterable[str] = ()
) -> tuple[list[Source], list[str]]:
    """Return the states and the ids among some words.

    :param default: the states if there are no words
    :raises UsageError: if that names no tokens
    """
    states = [word for word in words if word in STATES]
    named = [word for word in words if word not in STATES]
    ids = list(token_ids(named))
    sources = [] if named and not states and options.view is None else sources_of(options, states, default)
    if not sources and not named:
        raise UsageError("which tokens? Name their ids or a state: todo, locked, done, error")
    return sources, ids


class _Job:
    """A change of many tokens that a person has asked for.

    :param options: the arguments of the verb
    :param verb: its name
    :param done: what was done, for the line about the tokens that were changed
    :param sources: the states or the view of the tokens
    :param ids: the ids of the tokens
    :param filter: what the tokens have to meet
    :param change: changes tokens
    """

    def __init__(
        self,
        options: argparse.Namespace,
        verb: str,
        done: str,
        sources: list[Source],
        ids: list[str],
        filter: Filter,
        change: Callable[[CouchDB, Iterable[Document], Progress | None], Change],
    ) -> None:
        self._options = options
        self._verb = verb
        self._done = done
        self._sources = sources
        self._client = connect()
        self._query = TokenQuery(self._client, sources, filter, ids)
        self._change = change
        self._is_bulk = len(ids) != 1 or bool(sources)
        self._may_be_locked = bool(ids) or any(
            source.view not in STATES or source.view == "locked" for source in sources
        )

    def run(self, hint: str | None) -> int:
        """Count the tokens, ask, change them, and return the exit code.

        :param hint: what to add to the warning that pilots lose work, None if the change takes none from them
        """
        with indexed(self._client, self._query):
            if self._options.yes and not self._options.dry_run:
                expected = None if self._query.filter else self._query.size()
                return self._report(self._apply(self._query, expected))
            holders: Counter[str] = Counter()
            if hint is not None and self._may_be_locked:
                count, holders = self._survey()
            else:
                count = self._query.count()
            if self._options.dry_run or not count:
                return self._report(Change(count))
            loss = describe_loss(self._client, holders)
            question = f"{self._verb.capitalize()} {number_of(count, 'token')}?"
            if loss is not None:
                question = f"{loss}{hint}. {question}"
            if (loss is not None or self._is_bulk) and not confirm(question, self._options.yes):
                return _refused()
            return self._report(self._apply(self._query, count))

    def run_for_dead(self) -> int:
        """Change only locked tokens of pilots that are dead or silent, and return the exit code."""
        with indexed(self._client, self._query):
            _, holders = self._survey()
            question = f"Retry those of {number_of(sum(holders.values()), 'locked token')} that dead pilots hold?"
            if holders and not self._options.dry_run and not confirm(question, self._options.yes):
                return _refused()
            dead: set[str] = set()
            total = Change()
            for pilots in dead_holders(self._client, holders, lambda *watched: tell(watch_text(*watched))):
                dead |= pilots
                result = self._apply((token for token in self._query if holder_of(token) in pilots), None)
                total = Change(total.changed + result.changed, total.kept + result.kept)
            for line in left_alone(holders, dead):
                tell(line)
            return self._report(total)

    def _survey(self) -> tuple[int, Counter[str]]:
        """Return how many tokens there are, and which pilots hold how many of them."""
        holders = holders_of(self._query)
        return self._query.matched, holders

    def _apply(self, tokens: Iterable[Document], count: int | None) -> Change:
        """Change the tokens, or count them if nothing is to be changed."""
        if self._options.dry_run:
            return Change(sum(1 for _ in tokens))
        with progress_of(count) as show:
            return self._change(self._client, tokens, show)

    def _report(self, result: Change) -> int:
        """Print what was done and return the exit code."""
        tell_gaps(self._query)
        matched, is_dry = result.changed + result.kept, self._options.dry_run
        if self._options.json:
            counts = {"matched": matched, "changed": 0 if is_dry else result.changed, "left_alone": result.kept}
            print_json(self._verb, {**counts, "missing": len(self._query.missing), "dry_run": is_dry})
        elif not matched:
            if not self._query.missing:  # else a line has named these
                tell("No token matches")
        elif is_dry:
            print(f"Would {self._verb} {number_of(matched, 'token')}")
        else:
            print(f"{self._done} {number_of(result.changed, 'token')}")
        if result.kept:
            tell(f"Left alone {number_of(result.kept, 'token')} that changed meanwhile")
        return 0 if matched and not self._query.missing else console.EXIT_FAILURE


def _refused() -> int:
    tell("Nothing was changed")
    return console.EXIT_FAILURE
