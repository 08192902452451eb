"""Create the views of the pool: todo, locked, done, error and overview_total.

If the pool has many tokens, this waits until the server has indexed them, which goes on if you interrupt it.
"""

import sys

try:
    from picas import config, connect, console
    from picas.cli.progress import wait_until_indexed
except ImportError as error:
    sys.exit(f"picas is not installed in {sys.executable} ({error}): activate its environment, or install it there")


def main() -> None:
    parser = console.ArgumentParser(description=__doc__, epilog="Example: createViews.py SingleCore 'doc.cores == 1'")
    parser.add_argument("design_doc", nargs="?", default="Monitor", help="design document (default: Monitor)")
    parser.add_argument("condition", nargs="?", help="a JavaScript condition on doc, to select the tokens of the views")
    parser.add_argument("--create-database", action="store_true", help="create the database unless it exists")
    arguments = parser.parse_args()
    settings = config.load()
    changed = console.make_views(
        settings, arguments.design_doc, arguments.condition, with_database=arguments.create_database
    )
    print(f"The views in {arguments.design_doc} are {'created' if changed else 'there already'}", flush=True)
    wait_until_indexed(connect(settings, max_outage=0), arguments.design_doc)


if __name__ == "__main__":
    console.run(main)
