"""Files that describe tokens: what each layout makes of them, and what is said about bad ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from picas.exceptions import InputError, UnknownColumn, UsageError
from picas.pool.surveys import survey_of
from picas.pool.tables import Layout, format_of, read_rows, read_tokens
from picas.pool.templates import Template

TABLE = 'name,alpha\nfirst,1\n\n"a, b",2\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def tokens(path: Path, content: str | bytes, **layout: Any) -> list[dict[str, Any]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if "template" in layout:
        layout["template"] = Template(layout["template"])
    return list(read_tokens(path, Layout(**layout)))


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.csv", "csv"),
        ("A.CSV", "csv"),
        ("b.tsv", "tsv"),
        ("c.jsonl", "jsonl"),
        ("d.ndjson", "jsonl"),
        ("e.txt", "lines"),
        ("-", "lines"),
        ("csv", "lines"),
    ],
)
def test_the_ending_says_the_format(name: str, format: str) -> None:
    assert format_of(name) == format


def test_a_json_file_may_not_be_lines_of_json() -> None:
    with pytest.raises(UsageError, match="--format jsonl"):
        format_of("a.json")


@pytest.mark.parametrize("name", ["a.xlsx", "B.XLS", "c.ods"])
def test_a_spreadsheet_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is a spreadsheet: save it there as CSV"):
        format_of(name)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UsageError, match="'xml' is no format: it must be one of lines, csv, tsv, jsonl"):
        Layout("xml")


class TestTables:
    def test_a_row_is_an_object(self, path: Path) -> None:
        assert tokens(path, TABLE, format="csv") == [
            {"input": {"name": "first", "alpha": "1"}},
            {"input": {"name": "a, b", "alpha": "2"}},
        ]

    @pytest.mark.parametrize(
        "content",
        [
            "\ufeffname , alpha\nx,1\n".encode(),
            b"name,alpha\r\nx,1\r\n",
            b"name,alpha\rx,1\r",
            b"\nname,alpha\n\nx,1",
            b'"name","alpha"\n"x","1"\n',
            b"name,alpha\r\nx,1\r\n,\r\n , \r\n",
            b",\nname,alpha\nx,1\n",
            b"name;alpha\r\nx;1\r\n;\r\n",
            b'"name";alpha\n"x";"1"\n',
            b"name\talpha\nx\t1\n",
        ],
        ids=[
            "mark",
            "Windows",
            "old Macintosh",
            "blank rows",
            "quotes",
            "empty cells",
            "empty cells first",
            "semicolons",
            "semicolons and quotes",
            "tabs",
        ],
    )
    def test_marks_line_ends_and_blank_rows_mean_nothing(self, path: Path, content: bytes) -> None:
        assert tokens(path, content, format="csv") == [{"input": {"name": "x", "alpha": "1"}}]

    def test_tabs_separate_cells(self, path: Path) -> None:
        path.write_text("a\tb\n1,5\t2\n")
        assert list(read_rows(path, "\t")) == [{"a": "1,5", "b": "2"}]

    def test_a_comma_in_the_headings_comes_before_a_semicolon(self, path: Path) -> None:
        assert tokens(path, "a;b,c\n1;2,3\n", format="csv") == [{"input": {"a;b": "1;2", "c": "3"}}]

    def test_a_cell_with_a_decimal_comma(self, path: Path) -> None:
        assert tokens(path, "a;b\n1,5;2\n", format="csv") == [{"input": {"a": "1,5", "b": "2"}}]

    def test_a_quoted_comma_does_not_separate_headings(self, path: Path) -> None:
        assert tokens(path, '"a, b";c\n1;2\n', format="csv") == [{"input": {"a, b": "1", "c": "2"}}]

    def test_a_cell_may_have_several_lines(self, path: Path) -> None:
        with pytest.raises(InputError, match=r"line 4 of .*: 1 cell instead of 2"):
            tokens(path, 'a,b\n"1\n2",3\n4\n', format="csv")

    def test_a_template_makes_a_command_line(self, path: Path) -> None:
        made = tokens(path, TABLE, format="csv", template="fit {name} --alpha {alpha} {{}}")
        assert [token["input"] for token in made] == ["fit first --alpha 1 {}", "fit 'a, b' --alpha 2 {}"]

    def test_a_column_is_the_id(self, path: Path) -> None:
        made = tokens(path, TABLE, format="csv", id_from="name", template="{alpha}")
        assert made == [{"input": "1", "_id": "first"}, {"input": "2", "_id": "a, b"}]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("a,b\n1,2\n3\n", "line 3 of .*: 1 cell instead of 2, the number of headings"),
            ("a,b\n1,2,3\n", "line 2 of .*: 3 cells instead of 2"),
            ("a,,b\n1,2,3\n", "line 1 of .*: column 2 has no heading"),
            ("a,b,a\n1,2,3\n", "line 1 of .*: two columns have the heading 'a'"),
            ('a,b\n1,2\n"3,4\n5,6\n', "line 3 of .*: no valid table: unexpected end"),
            ("a,b\n1,\0\n", "line 2 has a zero byte"),
            (b"a,b\n1,\xff\n", "is not UTF-8 text .*: save it as UTF-8"),
            ("a;b\n1;2;3\n", "line 2 of .*: 3 cells instead of 2"),
            ("a,b\n1,2\n".encode("utf-16"), "iconv -f UTF-16"),
            ("a,b\n", "has no inputs: each row below the headings makes a token"),
            ("", "has no inputs"),
        ],
    )
    def test_a_bad_table_is_named_with_the_line(self, path: Path, content: str | bytes, message: str) -> None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(InputError, match=message):
            survey_of(path, Layout("csv"))

    @pytest.mark.parametrize("layout", [{"template": "x {alfa}"}, {"id_from": "alfa"}])
    def test_a_column_that_is_missing_is_named_with_those_that_there_are(self, path: Path, layout: Any) -> None:
        with pytest.raises(
            UnknownColumn, match=r"no column 'alfa': the columns are name, alpha, did you mean 'alpha'\?$"
        ):
            tokens(path, TABLE, format="csv", **layout)

    @pytest.mark.parametrize("id", ["_x", "", "token_counter"])
    def test_a_bad_id_is_named_with_the_line(self, path: Path, id: str) -> None:
        with pytest.raises(InputError, match=f"line 3 of .*: '{id}' can't be the id of a token"):
            tokens(path, f"name,b\na,1\n{id},2\n", format="csv", id_from="name")

    def test_an_id_may_be_there_once(self, path: Path) -> None:
        path.write_text("name\na\nb\na\n")
        with pytest.raises(InputError, match=r"line 4 of .*: an earlier line has the id 'a', too"):
            survey_of(path, Layout("csv", id_from="name"))


class TestLines:
    @pytest.mark.parametrize("name", ["input", "line"])
    def test_a_template_has_the_line(self, path: Path, name: str) -> None:
        assert tokens(path, "a b\n# no\n", template=f"run {{{name}}}") == [{"input": "run 'a b'"}]

    def test_a_line_can_be_the_id(self, path: Path) -> None:
        assert tokens(path, "x\n", id_from="line") == [{"input": "x", "_id": "x"}]

    def test_other_names_are_refused(self, path: Path) -> None:
        with pytest.raises(UnknownColumn, match="no column 'name': a line has the names input, line"):
            tokens(path, "a\n", template="{name}")


class TestValues:
    def test_an_object_with_input_or_id_holds_fields_and_all_else_is_the_input(self, path: Path) -> None:
        lines = ['{"a": 1}', "", '"x"', "[1, null]", "2.5", '{"input": {"a": 1}, "cores": 4}', '{"_id": "z"}']
        assert tokens(path, "\n".join(lines), format="jsonl") == [
            {"input": {"a": 1}},
            {"input": "x"},
            {"input": [1, None]},
            {"input": 2.5},
            {"input": {"a": 1}, "cores": 4},
            {"_id": "z"},
        ]

    def test_a_template_has_the_keys_of_the_object_and_of_its_input(self, path: Path) -> None:
        lines = '{"a": "x y", "n": 7}\n{"input": {"a": true}, "n": 8, "mine": 1}\n'
        assert tokens(path, lines, format="jsonl", template="p {a}", id_from="n") == [
            {"input": "p 'x y'", "_id": "7"},
            {"input": "p true", "n": 8, "mine": 1, "_id": "8"},
        ]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("{", "no JSON value: Expecting property name .* at column 2"),
            ("NaN", "no JSON value: NaN is not allowed"),
            ('{"a": 1e999}', "the database can't hold input.a"),
            ('"\\ud800"', "the database can't hold input"),
            ('{"_id": "x", "lock": 1}', "a token's field 'lock' can't be set"),
            ('{"_id": 7}', "7 can't be the id of a token"),
            ("[" * 100_000, "its value is nested too deeply|no JSON value"),
        ],
    )
    def test_a_bad_value_is_named_with_the_line(self, path: Path, line: str, message: str) -> None:
        with pytest.raises(InputError, match=f"line 2 of .*: ({message})"):
            tokens(path, f"1\n{line}\n", format="jsonl")

    @pytest.mark.parametrize("layout", [{"template": "{b}"}, {"id_from": "b"}])
    def test_a_key_that_is_missing_is_named_with_those_that_there_are(self, path: Path, layout: Any) -> None:
        with pytest.raises(InputError, match=r"line 2 of .* has no field 'b': it has c$"):
            tokens(path, '{"b": "1"}\n{"c": "2"}\n', format="jsonl", **layout)

    def test_an_id_must_be_a_text_or_a_whole_number(self, path: Path) -> None:
        with pytest.raises(InputError, match=r"line 1 of .*: a is 1\.5, which can't be the id"):
            tokens(path, '{"a": 1.5}\n', format="jsonl", id_from="a")

    def test_either_all_have_ids_or_none(self, path: Path) -> None:
        path.write_text('{"_id": "a"}\n1\n')
        with pytest.raises(InputError, match=r"line 2 of .*: either each token has an _id, or none has"):
            survey_of(path, Layout("jsonl"))


class TestDigest:
    def digest(self, path: Path, content: str, layout: Layout) -> str:
        path.write_text(content)
        return survey_of(path, layout).digest

    def test_is_the_same_for_the_same_tokens(self, path: Path) -> None:
        lines = self.digest(path, "# one\np a\np b\n", Layout())
        assert self.digest(path, "x\na\nb\n", Layout("csv", Template("p {x}"))) == lines
        assert self.digest(path, '"p a"\n"p b"\n', Layout("jsonl")) == lines

    def test_covers_what_makes_the_tokens(self, path: Path) -> None:
        layouts = [
            Layout("csv"), Layout("csv", Template("p {a}")), Layout("csv", Template("q {a}")),
            Layout("csv", id_from="a"), Layout("csv", id_from="b"), Layout(),
        ]  # fmt: skip
        assert len({self.digest(path, "a,b\n1,2\n", layout) for layout in layouts}) == len(layouts)

    def test_a_cell_of_two_lines_is_not_two_lines(self, path: Path) -> None:
        assert self.digest(path, "a\nb\n", Layout()) != self.digest(path, '"a\\nb"\n', Layout("jsonl"))
