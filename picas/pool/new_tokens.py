"""The fields of new tokens: which may be given, and what the database can hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..exceptions import InputError
from ..generators import TokenGenerator
from ..tokens.job_ends import FIELD as JOB_ENDS
from ..tokens.needs import as_stored, fault_in
from ..tokens.storable import make_storable
from .counter import COUNTER_ID

OWN_FIELDS = frozenset(
    {*TokenGenerator.get_empty_token(), "input", "exit_code", "claim", "attempts", "lost_count", JOB_ENDS}
)
"""The fields of a token that a push of a file sets itself, so that they can't be given. Neither can CouchDB's own
fields, whose names begin with an underscore."""

_MAX_SHOWN = 3  # paths in an error


def new_token(fields: Mapping[str, Any], number: int | None = None) -> dict[str, Any]:
    """Return a free token.

    :param fields: its own fields
    :param number: the number in its id; None if the fields have an id, or it gets one later
    """
    id = {} if number is None else {"_id": f"token_{number}"}
    return {**id, **TokenGenerator.get_empty_token(), "exit_code": "", **fields}


def check_fields(fields: Mapping[str, Any], allowed: Collection[str] = ()) -> None:
    """Check the names of a token's own fields.

    :param allowed: names that may be given although PiCaS writes such fields
    :raises InputError: if one can't be given
    """
    for name in fields:
        if not isinstance(name, str):
            raise InputError(f"the name of a token's field must be a text, not {name!r}")
        if name not in allowed and (not name or name.startswith("_") or name in OWN_FIELDS):
            raise InputError(f"a token's field {name!r} can't be set: PiCaS writes it itself")


def check_id(id: object) -> None:
    """Check the id of a token.

    :raises InputError: if it can't be that
    """
    if not isinstance(id, str) or not id or id.startswith("_") or id == COUNTER_ID:
        raise InputError(f"{id!r} can't be the id of a token")


def storable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields as the database holds them.

    :raises InputError: if something would be lost, or if a field that says what the token needs is invalid
    """
    stored = dict(fields)
    lost = make_storable(stored)
    if lost:
        shown = ", ".join(lost[:_MAX_SHOWN]) + (", …" if len(lost) > _MAX_SHOWN else "")
        raise InputError(f"the database can't hold {shown}")
    fault = fault_in(stored)
    if fault is not None:
        raise InputError(fault)
    return as_stored(stored)
