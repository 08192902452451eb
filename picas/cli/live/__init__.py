"""The live view of a pool, `picas top`.

`reader` reads the pool in threads of its own, of the tokens those that `shelf` says, and `steering` changes the pool;
none of them knows of a screen. `app` is the application of the package textual. `main_screen` has the counts, the
charts (`charts`) and the lists (`panels`); `token_screens` show a token and its log; `dialogs` ask and explain.
`widgets` draw lines so that only those that change are sent to the terminal, and `background` keeps requests away from
the thread with the keys.

Only `app`, and what it imports, need textual.
"""
