"""Count the words of a text file, and print each with its number, the most frequent first.

    python wordcount.py texts/harbour.txt

This program does not know PiCaS.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
"""Letters of any language, with apostrophes and hyphens between them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--encoding", default="utf-8", help="of the file (default: utf-8)")
    parser.add_argument("--top", type=int, metavar="N", help="print only the N most frequent words")
    options = parser.parse_args()
    text = options.file.read_text(encoding=options.encoding)
    counts = Counter(word.lower() for word in WORD.findall(text))
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    print("\n".join(f"{count:4} {word}" for word, count in ranked[: options.top]))


if __name__ == "__main__":
    main()
