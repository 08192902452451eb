"""Make a web page of the images that are attached to the tokens of the pool.

The page is index.html in a folder, and the images are beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

try:
    from picas import connect, console
    from picas.documents import Document
    from picas.executers import as_text
    from picas.pool import Source, TokenQuery
    from picas.util import visible
    from picas.views import count_states
except ImportError as error:
    sys.exit(f"picas is not installed in {sys.executable} ({error}): activate its environment, or install it there")

PNG = b"\x89PNG\r\n\x1a\n"
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --paper: #faf8f5; --ink: #22201c; --faint: #5f5a52; --card: #fff; --edge: #e2ddd4 }}
@media (prefers-color-scheme: dark) {{
  :root {{ --paper: #14151a; --ink: #eceae6; --faint: #a9a59d; --card: #1e2027; --edge: #33363f }}
}}
body {{ margin: 0 auto; max-width: 1400px; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere }}
h1 {{ font-size: 1.6rem; margin: 0 }}
p {{ color: var(--faint); margin: .25rem 0 1.5rem }}
main {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)) }}
figure {{ margin: 0; background: var(--card); border: 1px solid var(--edge); border-radius: .5rem; overflow: hidden }}
img {{ display: block; width: 100%; height: auto }}
figcaption {{ padding: .6rem .8rem .8rem }}
figcaption span {{ display: block; color: var(--faint); font-size: .85rem }}
</style>
</head>
<body>
<header><h1>{title}</h1><p>{counts}</p></header>
<main>
{figures}
</main>
</body>
</html>
"""
FIGURE = """<figure><a href="{image}"><img src="{image}" alt="{alt}" loading="lazy"></a>
<figcaption><strong>{id}</strong> <span>{work}</span><span>{end}</span></figcaption></figure>"""


def images_of(token: Document) -> list[str]:
    """Return the names of a token's images."""
    attachments = token.get("_attachments", {})
    return sorted(name for name, stored in attachments.items() if stored.get("content_type") == "image/png")


def parameters_of(token: Document) -> str:
    """Return the arguments of the token's program for people: "julia, centre 0, width 3"."""
    given = visible(as_text(token.get("input", "")))
    words = given.split()[2:] if given.startswith("python ") else [given]
    return ", ".join(word.lstrip("-").replace("=", " ", 1) for word in words)


def end_of(token: Document) -> str:
    """Return what the last attempt says: the time that it took, and where."""
    last = (token.get("attempts") or [{}])[-1]
    time = [f"{last['seconds']:.1f} s"] if isinstance(last.get("seconds"), (int, float)) else []
    return " on ".join([*time, str(last.get("host", ""))])


def figures(pool: Any, folder: Path) -> Iterator[str]:
    """Save the images of all tokens that are done, and yield the figure of each, as HTML."""
    for token in TokenQuery(pool, [Source("done")]):
        for name in images_of(token):
            image = pool.read_attachment(token.id, name)
            if not image.startswith(PNG):
                continue
            file = quote(f"{token.id}.{name}", safe="")  # an id may have a slash, which a name of a file can't have
            (folder / file).write_bytes(image)
            work = parameters_of(token)
            yield FIGURE.format(
                image=quote(file),
                alt=escape(f"{visible(token.id)}: {work}"),
                id=escape(visible(token.id)),
                work=escape(work),
                end=escape(visible(end_of(token))),
            )


def main() -> None:
    parser = console.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("gallery"), help="where to write it (default: gallery)"
    )
    parser.add_argument("--title", default="Fractals", help="the title of the page")
    options = parser.parse_args()
    pool = connect()
    options.folder.mkdir(parents=True, exist_ok=True)
    found = list(figures(pool, options.folder))
    states = ", ".join(f"{state} {count}" for state, count in count_states(pool).items())
    page = options.folder / "index.html"
    page.write_text(
        PAGE.format(
            title=escape(options.title),
            counts=escape(f"{len(found)} images; tokens of the pool: {states}"),
            figures="\n".join(found),
        ),
        encoding="utf-8",
    )
    print(f"{page}: {len(found)} images")


if __name__ == "__main__":
    console.run(main)
