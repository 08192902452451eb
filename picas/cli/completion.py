"""The verb `completion`: a script that lets the Tab key of a shell complete the command."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ..exceptions import PicasError
from ..tokens.states import STATES
from .arguments import add_verb

SHELLS = ("bash", "zsh", "fish")
_STATE = "STATE"  # stands in the name of an argument that can be a state, in the help
_PATHS = {"FILE": "FILE", "TABLE": "FILE", "FOLDER": "DIRECTORY", "DIR": "DIRECTORY"}  # what shtab calls them
_INSTALL = 'pip install --upgrade "picas[cli]"'


def add_verbs(verbs: Any) -> None:
    """Add this verb to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    completion = add_verb(
        verbs,
        "completion",
        _completion,
        help="print a script with which a shell completes the command",
        description="Print a script with which the Tab key completes verbs, options, files and states. For bash, run: "
        'eval "$(picas completion bash)". To have it in each shell, add this line to ~/.bashrc. '
        "zsh: picas completion zsh > _picas, in a folder of $fpath. "
        "fish: picas completion fish > ~/.config/fish/completions/picas.fish.",
    )
    completion.add_argument(
        "shell", choices=SHELLS, metavar="SHELL", help=" or ".join((", ".join(SHELLS[:-1]), SHELLS[-1]))
    )


def _completion(options: argparse.Namespace) -> None:
    try:
        import shtab  # noqa: PLC0415  # an extra, which no other verb needs
    except ImportError:
        raise PicasError(f"completion needs the package shtab: {_INSTALL.replace('--upgrade ', '')}") from None
    if options.shell not in shtab.SUPPORTED_SHELLS:
        raise PicasError(f"this release of the package shtab knows no {options.shell}: {_INSTALL}")
    _mark(options.parser, {name: getattr(shtab, kind) for name, kind in _PATHS.items()})
    print(shtab.complete(options.parser, shell=options.shell))


def _mark(parser: argparse.ArgumentParser, paths: Mapping[str, Any]) -> None:
    """Mark which arguments are states and which are paths, in a parser that will parse nothing more.

    :param paths: what marks an argument as a path, for shtab, by the name of the argument in the help
    """
    for action in parser._actions:
        name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        if isinstance(action, argparse._SubParsersAction):
            for verb in set(action.choices.values()):
                _mark(verb, paths)
        elif action.choices is None and _STATE in name:
            action.choices = tuple(STATES)
        elif name in paths:
            action.complete = paths[name]  # type: ignore[attr-defined]
