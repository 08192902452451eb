"""The page of a pool, `picas web`: a small web server of the user's own, which shows the pool and changes nothing.

`server` listens, `guard` lets only its user in, `application` is the table of routes. All pages share what is read from
the pool: `poller` looks at the whole, `sharing` keeps answers for a moment, and `followers` read logs while they are
written; `events` sends what is new to each page. `api`, `log_files`, `charts` and `metrics` answer the other requests.
`assets` holds the page itself, in `static/`: plain modules, without a build step. It needs the extra `web`.
"""
