"""Delete all tokens of a view. A token that changes meanwhile, for example because a pilot takes it, is kept."""

import sys

try:
    from couchdb.http import ResourceNotFound

    from picas import connect, console
    from picas.cli.progress import progress_of, wait_until_indexed
    from picas.pool import count_tokens, delete_tokens
except ImportError as error:
    sys.exit(f"picas is not installed in {sys.executable} ({error}): activate its environment, or install it there")


def main() -> int:
    parser = console.ArgumentParser(description=__doc__)
    parser.add_argument("view", type=console.view_name, metavar="DESIGN_DOCUMENT/VIEW", help="for example Monitor/todo")
    parser.add_argument("--yes", action="store_true", help="do not ask first")
    arguments = parser.parse_args()
    design_doc, view = arguments.view

    client = connect(max_outage=0)
    try:
        wait_until_indexed(client, design_doc)
        count = count_tokens(client, view, design_doc)
        if count and not arguments.yes and not console.confirm(f"Delete {count} tokens of {design_doc}/{view}?"):
            print("Nothing was deleted")
            return console.EXIT_FAILURE
        with progress_of(count) as show:
            result = delete_tokens(client, view, design_doc, show)
    except ResourceNotFound:
        raise console.no_such_view(view, design_doc, client) from None
    print(f"Deleted {result.changed} tokens of {design_doc}/{view}")
    if result.kept:
        print(f"Kept {result.kept} tokens that changed meanwhile")
    return 0


if __name__ == "__main__":
    console.run(main)
