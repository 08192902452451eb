"""Tokens for tests."""

from picas.generators import TokenGenerator


def make_token(number: int = 0, **fields: object) -> dict[str, object]:
    return {**TokenGenerator.get_empty_token(), "_id": f"token_{number}", "input": "", "exit_code": "", **fields}
