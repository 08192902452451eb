"""Create the views of the pool: todo, locked, done, error and overview_total."""

from picas import config, console
from picas.views import create_views


def main() -> None:
    parser = console.ArgumentParser(description=__doc__, epilog="Example: createViews.py SingleCore 'doc.cores == 1'")
    parser.add_argument("design_doc", nargs="?", default="Monitor", help="design document (default: Monitor)")
    parser.add_argument("condition", nargs="?", help="JavaScript condition on doc that its tokens must meet as well")
    parser.add_argument("--create-database", action="store_true", help="create the database if there is none")
    arguments = parser.parse_args()
    if not arguments.design_doc or "/" in arguments.design_doc:
        parser.error(f"{arguments.design_doc!r} is not the name of a design document")

    settings = config.load()
    if arguments.create_database:
        console.create_database(settings)
    client = console.connect(settings)
    changed = create_views(client, arguments.design_doc, arguments.condition)
    print(f"The views in {arguments.design_doc} are {'created' if changed else 'there already'}")


if __name__ == "__main__":
    console.run(main)
