"""The verb `report`: what a pool has done, what it cost and what has failed, as one page with charts."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ..exceptions import PicasError
from ..util import import_extra
from .arguments import add_verb, connect, duration, positive
from .output import tell
from .progress import progress_of

STANDARD_OUTPUT = "-"


def add_verbs(verbs: Any) -> None:
    """Add this verb to the command's parser.

    :param verbs: what `ArgumentParser.add_subparsers` returned
    """
    report = add_verb(
        verbs,
        "report",
        _report,
        help="make a page with charts of what the pool has done",
        description="Make one file of HTML, which needs no network: the states of the tokens over time, slots at work, "
        "throughput, durations, pilots, failures with examples, core-hours and memory. Every document of the pool is "
        "read once. Needs the extra picas[report].",
    )
    report.add_argument(
        "-o", "--output", required=True, metavar="FILE", help='the file; "-" prints the page to standard output'
    )
    report.add_argument(
        "--since",
        type=positive(duration),
        metavar="DURATION",
        help="only what happened in this time, such as 12h or 3d",
    )
    report.add_argument("--png", type=Path, metavar="FOLDER", help="save each chart as a picture, too")
    report.add_argument("--csv", type=Path, metavar="FOLDER", help="save the whole tables and the charts' numbers, too")


def _report(options: argparse.Namespace) -> None:
    os.environ.pop("MPLBACKEND", None)  # nothing is shown; matplotlib refuses to be imported if it is invalid
    page, drawing, charting, surveying, tabling = (
        import_extra(f"picas.cli.report.{name}", "matplotlib", "report")
        for name in ("page", "drawing", "charts", "survey", "tables")
    )
    client = connect()
    with _replaced(options.output) as file:
        for folder in filter(None, (options.png, options.csv)):
            with _writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
        with progress_of(client.doc_count()) as notify:
            survey = surveying.read_survey(client, options.since, notify=notify)
        charts, tables = charting.charts_of(survey), tabling.tables_of(survey)
        if options.csv is not None:
            with _writing(options.csv):
                for table in (*tables.values(), *map(tabling.numbers_of, charts)):
                    tabling.save_csv(table, options.csv)
        if options.png is not None:
            with _writing(options.png):
                for chart in charts:
                    if not chart.is_empty:
                        drawing.save_png(chart, options.png / f"{chart.name}.png")
        with _writing(options.output):
            file.writelines(page.page_of(survey, charts, tables, options.csv and str(options.csv)))
    if options.output != STANDARD_OUTPUT:
        tell(f"The report on {survey.pool} is in {options.output}")


@contextlib.contextmanager
def _replaced(output: str) -> Iterator[TextIO]:
    """Open a file for writing that is there with all its content, or as it was before, when the block has ended."""
    if output == STANDARD_OUTPUT:
        yield sys.stdout
        return
    target = Path(output).expanduser()
    with _writing(output):
        if target.exists() and not target.is_file():  # a pipe or a device can't be replaced
            with target.open("w", encoding="utf-8") as file:
                yield file
            return
        target = target.resolve()  # if it is a link, what it leads to is replaced
        with tempfile.TemporaryFile(dir=target.parent):
            pass  # a file can be made there: say so if not, before the pool is read
    content = io.StringIO()  # so that no signal, while the pool is read, leaves a file behind
    yield content
    with _writing(output):
        _replace(target, content.getvalue())


def _replace(target: Path, text: str) -> None:
    """Replace a file, which has all of its new content at once.

    :raises OSError: if it can't be written; it is as before then
    """
    descriptor, fresh = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(fresh, 0o666 & ~mask)  # noqa: PTH101
        os.replace(fresh, target)  # noqa: PTH105
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(fresh)  # noqa: PTH108
        raise


@contextlib.contextmanager
def _writing(where: str | Path) -> Iterator[None]:
    """Turn an error of the file system into one line."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever reads the output has seen enough
    except OSError as error:
        raise PicasError(f"{where} can't be written: {error.strerror or error}") from None
