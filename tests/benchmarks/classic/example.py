"""A script for picas 1.1, in the style of the example in its documentation; it has to run unchanged on later releases.

Beside it stand process_task.sh, which does the work, and picasconfig.py, which `programs.py` writes.
"""

import logging
from pathlib import Path

import picasconfig

from picas.actors import RunActor
from picas.clients import CouchDB
from picas.executers import execute
from picas.modifiers import BasicTokenModifier
from picas.util import Timer

log = logging.getLogger("example")


class ExampleActor(RunActor):
    """Runs process_task.sh for each token and attaches what that has written."""

    def __init__(self, db, modifier, view="todo", **viewargs):
        super().__init__(db, view=view, **viewargs)
        self.timer = Timer()
        self.modifier = modifier
        self.client = db

    def process_task(self, token):
        """Do the work of a token and close the token."""
        print("-----------------------")
        print("Working on token: " + token["_id"])
        for key, value in token.doc.items():
            print(key, value)
        print("-----------------------")

        out = execute(["/bin/bash", "process_task.sh", token["input"], token["_id"]])
        self.subprocess = out[0]
        token["exit_code"] = out[1]

        for suffix, content in (("out", out[2]), ("err", out[3])):
            name = f"logs_{token['_id']}.{suffix}"
            Path(name).write_bytes(content)
            token.put_attachment(name, Path(name).read_bytes())

        self.modifier.close(token)


def main():
    """Process the tokens of the pool."""
    client = CouchDB(
        url=picasconfig.PICAS_HOST_URL,
        db=picasconfig.PICAS_DATABASE,
        username=picasconfig.PICAS_USERNAME,
        password=picasconfig.PICAS_PASSWORD,
    )
    log.info("Connected to the database %s", picasconfig.PICAS_DATABASE)
    actor = ExampleActor(client, BasicTokenModifier(), view="todo", design_doc="Monitor")
    actor.run(max_token_time=1800, max_total_time=3600, max_scrub=2)
    print("Time elapsed:", actor.timer.elapsed())


if __name__ == "__main__":
    main()
