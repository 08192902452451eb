"""The verb `check`: can the pool be reached, how, and what may this user do there?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Callable, TypeVar

from couchdb.http import HTTPError

from .. import config, console
from ..clients import CouchDB
from ..couch.outages import is_outage_at_start
from ..exceptions import PicasError
from ..tokens.states import STATES
from ..util import duration_text, one_line
from ..views import DESIGN_DOC, FREE_VIEW, QUEUE, REPORT, has_queue, report_definitions, view_definitions
from .arguments import add_json, add_verb, settings_here
from .output import number_of, print_json

T = TypeVar("T")

MAX_CLOCK_DIFFERENCE = 60.0
"""Seconds by which the clocks of the server and of this machine may differ without a word."""
_ADMINS = "only an administrator of the database or the server may"
_APACHE = "The Apache Software Foundation"
_WIDTH = max(map(len, config.NAMES.values())) + 2


@dataclass(frozen=True)
class Line:
    """A line of what was found: a name, and a text that says what to do unless it is ok."""

    name: str
    text: str
    ok: bool = True


@dataclass(frozen=True)
class Findings:
    """What `examine` has found. None stands for what the server does not say."""

    server_product: str | None
    server_version: str | None
    document_count: int | None
    views: Line | None
    write_rules: list[str] | None
    """The design documents whose rules say which documents this user may write."""
    may_change_views: bool | None
    clock_ahead_seconds: float | None
    """How far the server's clock is ahead of this machine's."""


def add_verbs(verbs: Any) -> None:
    """Add this verb to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    check = add_verb(
        verbs,
        "check",
        _check,
        help="check whether the pool can be reached, and show how",
        description="Check whether the pool can be reached with the settings that are found. Show the server, where "
        "each setting comes from, whether the views are complete, what this user may do, and whether the clocks agree. "
        "Each line says ok, or what to do. The exit code is 0 if the pool can be reached, "
        f"{console.EXIT_TRY_LATER} if it may be possible later or from elsewhere, and {console.EXIT_FAILURE} if the "
        "settings are wrong.",
    )
    add_json(check)


def _check(options: argparse.Namespace) -> int:
    settings = settings_here()
    findings, error, code = None, None, 0
    try:
        client = console.connect(settings, max_outage=0)
        findings = examine(client)
    except (PicasError, HTTPError) as exception:
        error = console.describe(exception)
        code = console.EXIT_TRY_LATER if is_outage_at_start(exception) else console.EXIT_FAILURE
        print(f"picas: {error}", file=sys.stderr, flush=True)
    lines = [*_lines(settings, findings), *_origins(settings)]
    if options.json:
        _print_json(settings, findings, error, lines)
        return code
    if findings is not None:
        print(f"The pool {settings.database} can be reached")
    for line in lines:
        text = one_line(f"ok: {line.text}" if line.ok and line.text else line.text or "ok")
        print(f"{line.name:{_WIDTH}}{text}")
    return code


def examine(client: CouchDB) -> Findings:
    """Find out what can be known of a pool and of what this user may do there."""
    info = _ask(client.server_info) or {}
    return Findings(
        server_product=_ask(lambda: _product(info)),
        server_version=_ask(lambda: str(info["version"])),
        document_count=_ask(client.doc_count),
        views=_ask(lambda: _examine_views(client)),
        write_rules=_ask(lambda: _write_rules(client)),
        may_change_views=_ask(client.is_admin),
        clock_ahead_seconds=_ask(client.clock_difference),
    )


def _ask(question: Callable[[], T]) -> T | None:
    """Return an answer, None if the server does not give it, or gives an odd one."""
    try:
        return question()
    except (PicasError, HTTPError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _product(info: Mapping[str, Any]) -> str:
    vendor = str(info.get("vendor", {}).get("name", _APACHE))
    return "Apache CouchDB" if vendor == _APACHE else vendor


def _examine_views(client: CouchDB) -> Line:
    text, ok = _describe_views(client)
    return Line("views", text, ok)


def _describe_views(client: CouchDB) -> tuple[str, bool]:
    """Return a text about the views, and whether they are as they should be."""
    documents = client.design_documents()
    found = console.views_in(documents.get(DESIGN_DOC, {}))
    wanted = view_definitions()
    if not found.keys() >= set(STATES):
        return f"missing in {DESIGN_DOC}: picas views creates them", False
    older = [view for view in wanted if found.get(view) != wanted[view]]
    if not older:
        return _describe_report(console.views_in(documents.get(REPORT, {})))
    if FREE_VIEW not in older:
        return f"{DESIGN_DOC} is of an older release: picas views updates {', '.join(older)}", False
    missing = [view for view in wanted if view not in found] or ([] if has_queue(client) else [QUEUE])
    if missing:
        return f"{DESIGN_DOC} has a condition of its own, and no working {', '.join(missing)}", False
    return f"{DESIGN_DOC} has a condition of its own", True


def _describe_report(found: Mapping[str, Any]) -> tuple[str, bool]:
    """Return a text about the views that people read, and whether they are as they should be."""
    wanted = report_definitions()
    if all(found.get(view) == wanted[view] for view in wanted):
        return f"{DESIGN_DOC} and {REPORT} are complete", True
    how = "of an older release: picas views updates it" if found else "missing: picas views creates it"
    return f"{DESIGN_DOC} is complete, but {REPORT} is {how}", False


def _write_rules(client: CouchDB) -> list[str]:
    documents = client.design_documents()
    return [f"_design/{name}" for name, document in documents.items() if "validate_doc_update" in document]


def _lines(settings: config.Settings, findings: Findings | None) -> Iterator[Line]:
    """Yield the lines about the pool; without findings, only what the settings say, and that is not ok."""
    if findings is None:
        yield Line("server", settings.host_url, ok=False)
        yield Line("database", settings.database, ok=False)
        yield Line("user", settings.username, ok=False)
        return
    yield Line("server", f"{settings.host_url}{_describe_server(findings)}")
    count = findings.document_count
    yield Line("database", settings.database + ("" if count is None else f", {number_of(count, 'document')}"))
    yield Line("user", settings.username)
    if findings.views is not None:
        yield findings.views
    yield Line("may read", "")
    if findings.write_rules is not None:
        rules = " and ".join(findings.write_rules)
        yield Line("may write", rules and f"what {rules} accepts")
    if findings.may_change_views is not None:
        yield Line("may change views", "" if findings.may_change_views else f"no: {_ADMINS}", findings.may_change_views)
    if findings.clock_ahead_seconds is not None:
        yield describe_clock(findings.clock_ahead_seconds)


def _describe_server(findings: Findings) -> str:
    product, version = findings.server_product, findings.server_version
    if product is None or version is None:
        return ""
    return (
        f", {product} {version}" if product == "Apache CouchDB" else f", {product}, compatible with CouchDB {version}"
    )


def describe_clock(ahead: float) -> Line:
    """Return the line about the clocks.

    :param ahead: how many seconds the server's clock is ahead of this machine's
    """
    if abs(ahead) <= MAX_CLOCK_DIFFERENCE:
        return Line("clock", f"{abs(ahead):.0f} s from the server's")
    where = "ahead of" if ahead > 0 else "behind"
    text = (
        f"the clock of the server is {duration_text(abs(ahead))} {where} this machine's: correct the one that is wrong"
    )
    return Line("clock", text, ok=False)


def _origins(settings: config.Settings) -> Iterator[Line]:
    """Yield where the settings come from, by their variables; an old `export` may be in the way of a file."""
    for name, origin in settings.origins.items():
        yield Line(config.NAMES[name], f"from {origin}")


def _print_json(settings: config.Settings, findings: Findings | None, error: str | None, lines: list[Line]) -> None:
    ahead = None if findings is None else findings.clock_ahead_seconds
    print_json(
        "check",
        {
            "is_reachable": findings is not None,
            "error": error,
            "server_url": settings.host_url,
            "server_product": findings and findings.server_product,
            "server_version": findings and findings.server_version,
            "database": settings.database,
            "document_count": findings and findings.document_count,
            "username": settings.username,
            "may_read": None if findings is None else True,
            "write_rules": findings and findings.write_rules,
            "may_change_views": findings and findings.may_change_views,
            "clock_ahead_seconds": None if ahead is None else round(ahead, 1),
            "origins": {config.NAMES[name]: origin for name, origin in settings.origins.items()},
            "lines": [asdict(line) for line in lines],
        },
    )
