"""The report on a pool: what was done when, by which pilots, at what cost, and what has failed.

`survey` reads the pool once and adds up, with bounded memory (`bins`, `tallies`, `crew`). `charts` makes from that what
is to be drawn, as data (`chart_data`); the page of `picas web` draws the same with other means. `drawing` makes
pictures of it with matplotlib, `tables` the numbers, and `page` the one file.
"""
