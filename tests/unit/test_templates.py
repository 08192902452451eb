"""Templates, and the commands of tokens that are made from them."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picas import Task
from picas.exceptions import TokenError, UsageError
from picas.pilot import CommandLine
from picas.pilot.commands import input_command
from picas.pool.templates import Template, UnknownName, listed


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("fit {name} --alpha {alpha}", "fit a b --alpha 0.5"),
        ("{name}{alpha}", "a b0.5"),
        ("{{name}}", "{name}"),
        ("{{{name}}}", "{a b}"),
        ("awk '{{print $1}}'", "awk '{print $1}'"),
        ("{a name}", "1"),
        ("{list} {none}", '[1, "x"] null'),
        ("", ""),
    ],
)
def test_names_in_braces_are_replaced(text: str, filled: str) -> None:
    values = {"name": "a b", "alpha": 0.5, "a name": "1", "list": [1, "x"], "none": None}
    assert Template(text).fill(values) == filled


def test_the_names_of_a_template_are_known() -> None:
    assert Template("{b} {{c}} {a} {b}").names == ("b", "a", "b")


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0")))
def test_a_quoted_value_is_one_word_for_a_shell(value: str) -> None:
    assert shlex.split(Template("run {x}").fill({"x": value}, shlex.quote)) == ["run", value]


@given(st.text())
def test_a_text_with_doubled_braces_stays_as_it_is(text: str) -> None:
    assert Template(text.replace("{", "{{").replace("}", "}}")).fill({}) == text


@pytest.mark.parametrize(
    ("text", "what"),
    [("{", "a single {"), ("a}", "a single }"), ("{a{b}", "a single {"), ("{}", "no name"), ("{ }", "no name")],
)
def test_single_braces_are_refused(text: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        Template(text)


def test_a_name_without_a_value_is_named() -> None:
    with pytest.raises(UnknownName) as raised:
        Template("{a} {b}").fill({"a": 1})
    assert raised.value.name == "b"


def test_the_names_that_there_are_are_listed_with_the_nearest() -> None:
    assert listed(["name", "alpha"], "alpa") == "name, alpha, did you mean 'alpha'?"
    assert listed([f"x{number}" for number in range(23)], "-").endswith("x19 and 3 others")


def token(input: Any, **fields: Any) -> Task:
    return Task({"_id": "token_7", "input": input, **fields})


class TestCommandLine:
    @pytest.mark.parametrize(
        ("words", "input", "command"),
        [
            (["p", "{input}"], "a b; $c", ["p", "a b; $c"]),
            (["p", "{id}", "--x={x}"], {"x": [1], "id": "other"}, ["p", "token_7", "--x=[1]"]),
            (["p", "{input}"], {"x": 1}, ["p", '{"x": 1}']),
            (["p", "{cores}"], "", ["p", "4"]),
            (["p", "{cores}"], {"cores": "of the input"}, ["p", "of the input"]),
        ],
    )
    def test_each_value_is_a_part_of_one_argument(self, words: list[str], input: Any, command: list[str]) -> None:
        assert CommandLine(words)(token(input, cores=4)) == command

    def test_values_are_quoted_for_a_shell(self) -> None:
        made = CommandLine(["sort", "{input} | head {{}}"], shell=True)(token("a b; rm *"))
        assert made[1:] == ["-c", "sort 'a b; rm *' | head {}"]

    def test_an_unknown_field_is_an_error_of_the_token(self) -> None:
        with pytest.raises(TokenError) as raised:
            CommandLine(["{nam}"])(token({"name": 1}, cores=4))
        assert str(raised.value) == (
            "the token has no field 'nam': it has cores, error, id, input, name, output, uploads, "
            "did you mean 'name'? ({{ stands for a brace)"
        )


class TestInput:
    def test_a_text_is_run_by_a_shell_and_a_list_as_it_is(self) -> None:
        shell, *rest = input_command(token("echo a | cat"))
        assert (shell.rpartition("/")[2], rest) == ("bash", ["-c", "echo a | cat"])
        assert input_command(token(["echo", "a | cat", 3])) == ["echo", "a | cat", "3"]

    def test_without_bash_it_is_sh(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        assert input_command(token("true"))[0] == "sh"

    @pytest.mark.parametrize("input", ["", "  ", [], None])
    def test_nothing_is_an_error(self, input: Any) -> None:
        with pytest.raises(TokenError, match="no input"):
            input_command(token(input))

    @pytest.mark.parametrize("input", [{"a": 1}, 3, True])
    def test_anything_else_is_an_error(self, input: Any) -> None:
        with pytest.raises(TokenError, match="only a text or a list can be run without a command"):
            input_command(token(input))
