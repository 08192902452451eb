"""Create the views of the pool: todo, locked, done, error and overview_total."""

from picas import config, connect, console
from picas.views import DESIGN_DOC, create_report, create_views


def main() -> None:
    parser = console.ArgumentParser(description=__doc__, epilog="Example: createViews.py SingleCore 'doc.cores == 1'")
    parser.add_argument("design_doc", nargs="?", default=DESIGN_DOC, help="design document (default: Monitor)")
    parser.add_argument("condition", nargs="?", help="a JavaScript condition on doc, to select the tokens of the views")
    parser.add_argument("--create-database", action="store_true", help="create the database unless it exists")
    arguments = parser.parse_args()
    if not arguments.design_doc or "/" in arguments.design_doc:
        parser.error(f"{arguments.design_doc!r} is not the name of a design document")

    settings = config.load()
    if arguments.create_database:
        console.create_database(settings)
    client = connect(settings, max_outage=0)
    changed = create_views(client, arguments.design_doc, arguments.condition)
    if arguments.design_doc == DESIGN_DOC:
        changed |= create_report(client)
    print(f"The views in {arguments.design_doc} are {'created' if changed else 'there already'}")


if __name__ == "__main__":
    console.run(main)
