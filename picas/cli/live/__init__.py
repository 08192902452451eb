"""The live view of a pool, `picas top`.

`reader` reads the pool in threads of its own, and `steering` changes it; neither knows of a screen. `app` is the
application of the package textual: `screens` are what fills the terminal, `panels` the lists on the first of them,
`dialogs` ask and explain, and `widgets` draw lines so that only those that change are sent to the terminal. `charts`
are the bar and the columns over time.

Only `app`, and what it imports, need textual.
"""
