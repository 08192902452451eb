"""The pages: their commands are run, their output is compared, their messages exist, and their links lead somewhere.

In a block marked `console`, each line after "$ " is a command, and the lines below it are its output, in which "…"
stands for anything. All such blocks of a page are run one after the other, in one pool. Commands in blocks marked
`bash` are listed in RUN_ELSEWHERE with the test that runs them.
"""

from __future__ import annotations

import ast
import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from couchdb.http import Forbidden, HTTPError
from support.places import EXAMPLES, ROOT
from support.workers import wait_for

from picas import CouchDB
from picas.views import count_states, create_report

PAGES = {
    str(path.relative_to(ROOT)): path
    for path in (
        ROOT / "README.md",
        *sorted(EXAMPLES.glob("*.md")),
        EXAMPLES / "tutorial" / "README.md",
        *sorted((ROOT / ".github").glob("*.md")),
        ROOT / "tests" / "benchmarks" / "README.md",
    )
}
TUTORIAL = "examples/tutorial/README.md"
TROUBLESHOOTING = PAGES["examples/troubleshooting.md"]

BENCHMARK = "python tests/benchmarks/{}.py --url http://admin:secret@127.0.0.1:5984"
RUN_ELSEWHERE = {
    "examples/quickstart.sh": ("tests/pages/test_quickstart.py", '"quickstart.sh"), *arguments]'),
    "examples/quickstart.sh --keep": ("tests/pages/test_quickstart.py", 'quickstart(clone, env, "--keep")'),
    ". .venv/quickstart/bin/activate": ("tests/pages/test_tutorial.py", "def test_what_the_page_installs_exists"),
    'pip install -e ".[cli,embedded,report,tutorial,web]"': (
        "tests/pages/test_tutorial.py",
        "def test_what_the_page_installs_exists",
    ),
    "cd examples/tutorial": ("tests/pages/test_pages.py", '"within": PAGES[page].parent'),
    "jupyter lab tutorial.ipynb": ("tests/pages/test_tutorial.py", "NotebookClient("),
    "sbatch slurm-fractals.sh": ("tests/batch/test_slurm.py", 'script="slurm-fractals.sh"'),
    "picas autopilot fractals.ini": ("tests/batch/test_slurm.py", '"autopilot", "fractals.ini"'),
    "tests/run.sh --install": (".ci/run", "exec tests/run.sh --install"),
    "tests/run.sh unit": (".github/workflows/tests.yml", "run: tests/run.sh unit"),
    "grid-sandbox/build.sh": ("tests/batch/test_dirac.py", '["grid-sandbox/build.sh"]'),
    "tar cfv grid-sandbox/picas.tar ../picas/": (
        "tests/batch/test_grid.py",
        '"tar cfv grid-sandbox/picas.tar ../picas/"',
    ),
    "pip download --no-deps --no-binary CouchDB --dest grid-sandbox CouchDB==1.2": (
        "tests/batch/test_grid.py",
        '"pip download --no-deps --no-binary CouchDB --dest grid-sandbox CouchDB==1.2"',
    ),
    "dirac-wms-job-submit grid-example.jdl": ("tests/batch/test_dirac.py", 'dirac.submit("grid-example.jdl"'),
    "sbatch slurm-example.sh": ("tests/batch/test_slurm.py", 'script="slurm-example.sh"'),
    "sbatch --array=1-50 --time=12:00:00 slurm-example.sh --design-doc SingleCore": (
        "tests/batch/test_slurm.py",
        '"--design-doc",',
    ),
    "PICAS_GRACE=240 sbatch --signal=B:USR1@360 slurm-example.sh": (
        "tests/batch/test_slurm.py",
        '"--signal=B:USR1@360"), PICAS_GRACE="240")',
    ),
    "sbatch --array=1 --nodes=2 --ntasks-per-node=1 --cpus-per-task=4 slurm-example.sh --slots auto": (
        "tests/batch/test_slurm.py",
        '("--array=1", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=4")',
    ),
    "sbatch --array=1-2 --cpus-per-task=2 --gpus=2 slurm-example.sh --slots 2": (
        "tests/batch/test_slurm.py",
        'options=("--array=1-2", "--cpus-per-task=2", "--gpus=2")',
    ),
    "pip install .": ("tests/pages/test_quickstart.py", '"install", "--quiet", "."]'),
    "picas serve": ("tests/cli/test_command.py", 'command("serve", '),
    "picas top": ("tests/cli/test_top.py", 'at_terminal("top")'),
    "picas web": ("tests/support/web_page.py", 'command("web", *arguments)'),
    BENCHMARK.format("claim") + " --pilots 16 --tokens 5000": (
        "tests/pilot/test_benchmarks.py",
        'measure("claim.py", "--pilots", ',
    ),
    BENCHMARK.format("programs"): ("tests/pilot/test_benchmarks.py", 'measure("programs.py", "--repeat", '),
    BENCHMARK.format("bound") + " --connections 1 4 16": (
        "tests/pilot/test_benchmarks.py",
        'measure("bound.py", "--connections", ',
    ),
    BENCHMARK.format("push") + " --tokens 1000000": (
        "tests/pilot/test_benchmarks.py",
        'measure("push.py", "--tokens", ',
    ),
    BENCHMARK.format("bulk") + " --tokens 50000": ("tests/pilot/test_benchmarks.py", 'measure("bulk.py", "--tokens", '),
    BENCHMARK.format("idle") + " --pilots 100 --seconds 120": ("tests/pilot/test_benchmarks.py", '"idle.py", '),
    BENCHMARK.format("beats") + " --pilots 1000 --seconds 300 --server-pid $(pgrep -x beam.smp)": (
        "tests/pilot/test_benchmarks.py",
        'measure("beats.py", "--pilots", ',
    ),
    BENCHMARK.format("crowd") + " --pilots 1000 --server-pid $(pgrep -x beam.smp)": (
        "tests/pilot/test_benchmarks.py",
        'measure("crowd.py", *few)',
    ),
}


def text_of(page: str) -> str:
    return PAGES[page].read_text(encoding="utf-8")


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)


def dialogue(page: str) -> list[tuple[str, str]]:
    """Return the commands of a page's console blocks, each with its expected output."""
    steps: list[tuple[str, list[str]]] = []
    for line in "".join(blocks(page, "console")).splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], []))
        else:
            steps[-1][1].append(line)
    return [(command, "\n".join(lines)) for command, lines in steps]


def matches(expected: str, output: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in expected.split("…"))
    return bool(re.fullmatch(pattern, re.sub(r" +$", "", output.rstrip("\n"), flags=re.MULTILINE), re.DOTALL))


@pytest.fixture
def shell(environment, tmp_path):
    """Run commands in a copy of the examples, with this environment's `python` and `picas`, and an idle Slurm."""
    folder = tmp_path / "examples"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("__pycache__", "*.tar"))
    binaries = tmp_path / "bin"
    binaries.mkdir()
    programs = {
        "python": f'exec "{sys.executable}" "$@"',
        "picas": f'exec "{sys.executable}" -m picas.cli "$@"',
        "scontrol": "echo ClusterName = lab",
        "squeue": "true",
    }
    for name, line in programs.items():
        (binaries / name).write_text(f"#!/bin/sh\n{line}\n")
        (binaries / name).chmod(0o755)
    path = f"{binaries}{os.pathsep}{environment['PATH']}"
    env = {**environment, "PATH": path, "FRACTAL_SIZE": "12x8"}  # a fractal of the tutorial takes seconds otherwise

    def run(command: str, within: Path = EXAMPLES) -> str:
        result = subprocess.run(
            ["bash", "-c", command], cwd=folder / within.relative_to(EXAMPLES), env=env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
        )  # fmt: skip
        return result.stdout

    return run


class TestCommands:
    @pytest.mark.parametrize(
        ("page", "least"),
        [
            ("README.md", 5),
            ("examples/README.md", 9),
            ("examples/command.md", 25),
            ("examples/tokens.md", 6),
            ("examples/slurm.md", 2),
            (TUTORIAL, 35),
        ],
    )
    def test_print_what_the_page_shows(self, shell, client, page, least):
        if page in ("examples/README.md", "examples/command.md", TUTORIAL):
            client.delete(client.get("_design/Monitor"))  # the page creates the views itself
        steps = dialogue(page)
        assert len(steps) >= least
        folder = {"within": PAGES[page].parent} if page == TUTORIAL else {}
        for command, expected in steps:
            output = shell(command, **folder)
            assert matches(expected, output), f"$ {command}\n{output}\ninstead of\n{expected}"

    def test_every_page_with_a_dialogue_is_tested(self):
        tested = {
            "README.md",
            "examples/README.md",
            "examples/command.md",
            "examples/tokens.md",
            "examples/slurm.md",
            TUTORIAL,
        }
        assert {page for page in PAGES if blocks(page, "console")} == tested

    @pytest.mark.parametrize("page", PAGES)
    def test_in_bash_blocks_are_run_by_a_test(self, page):
        commands = [line for block in blocks(page, "bash") for line in block.splitlines() if line.strip()]
        for command in commands:
            if command.startswith("export "):
                continue  # see TestSettings
            runner, words = RUN_ELSEWHERE[command]
            assert words in (ROOT / runner).read_text(encoding="utf-8"), f"{runner} does not run {command}"

    def test_run_elsewhere_are_all_on_a_page(self):
        commands = {line for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()}
        assert set(RUN_ELSEWHERE) <= commands

    @pytest.mark.parametrize("page", PAGES)
    def test_in_the_text_have_options_that_exist(self, page):
        """Commands like `python pushTokens.py --resume FILE` name a script and options that it has."""
        for script, arguments in re.findall(r"`python (\S+\.py)([^`]*)`", text_of(page)):
            (path,) = [
                folder / script for folder in {PAGES[page].parent, EXAMPLES, ROOT} if (folder / script).is_file()
            ]
            options = re.findall(r"(?<= )--[a-z-]+", arguments)
            if options:
                result = subprocess.run(
                    [sys.executable, str(path), "--help"], capture_output=True, text=True, timeout=60, check=True
                )
                assert [option for option in options if option not in result.stdout] == []


class TestSettings:
    @pytest.mark.parametrize("page", ["README.md", "examples/README.md"])
    def test_exports_are_found(self, environment, page):
        exports = "".join(block for block in blocks(page, "bash") if "export" in block)
        settings = dict(re.findall(r"^export PICAS_(\w+)=(.*)$", exports, re.MULTILINE))
        password = Path(settings["PASSWORD_FILE"].replace("~", environment["HOME"]))
        password.parent.mkdir(parents=True, exist_ok=True)
        password.write_text("s3cret\n")
        password.chmod(0o600)
        clean = {name: value for name, value in environment.items() if not name.startswith("PICAS_")}
        code = f"{exports}\n{sys.executable} -c 'from picas.config import load; s = load(); print(s, s.password)'"
        result = subprocess.run(["bash", "-c", code], env=clean, capture_output=True, text=True, check=False)
        assert result.stderr == ""
        shown = (
            f"host_url='{settings['HOST_URL']}', database='{settings['DATABASE']}', username='{settings['USERNAME']}'"
        )
        assert shown in result.stdout
        assert result.stdout.endswith(" s3cret\n")


class TestPython:
    """The Python code on the pages runs as it is."""

    @pytest.fixture
    def run(self, environment, tmp_path):
        def run(page: str, words: str, more: str = "") -> str:
            (code,) = [block for block in blocks(page, "python") if words in block]
            script = tmp_path / "script.py"
            script.write_text(code + more)
            ran = subprocess.run(
                [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True,
                timeout=60, check=False,
            )  # fmt: skip
            assert (ran.returncode, ran.stderr) == (0, "")
            return ran.stdout

        return run

    def test_every_block_is_tested(self):
        assert {page: len(blocks(page, "python")) for page in PAGES if blocks(page, "python")} == {
            "README.md": 2,
            "examples/tokens.md": 1,
            "examples/pilots.md": 3,
            "examples/troubleshooting.md": 1,
        }

    def test_the_ten_lines_on_the_first_page(self, run, client, push):
        push(1, input="four words are here")
        run("README.md", "WordCounter")
        token = client.get("token_0")
        assert (token["output"], token["exit_code"]) == ({"words": 4}, 0)
        (code,) = [block for block in blocks("README.md", "python") if "WordCounter" in block]
        assert len([line for line in code.splitlines() if line.strip()]) <= 10

    def test_tokens_made_by_a_script(self, run, client):
        assert run("examples/tokens.md", "push_tokens") == "3\n0\n"
        tokens = [row.doc for row in client.view("todo", include_docs=True).rows]
        assert [(token["_id"], token["input"], token.get("cores")) for token in tokens] == [
            ("andromeda", {"ra": 10.68, "dec": 41.27}, 4),
            ("cygnus", {"ra": 308.0, "dec": 42.0}, 4),
            ("orion", {"ra": 83.82, "dec": -5.39}, 4),
        ]

    def test_the_actor_that_runs_a_program(self, run, client, push):
        push(1, input="echo hello")
        run("examples/pilots.md", "class Runner")
        token = client.get("token_0")
        assert token["exit_code"] == 0
        assert token.get_attachment("out.txt", client)["data"] == b"hello\n"

    def test_from_a_table_to_a_table(self, environment, client, tmp_path):
        """1,000 rows, of which 2 % fail in two ways."""
        (code,) = [block for block in blocks("examples/pilots.md", "python") if "Luminosity" in block]
        assert len([line for line in code.splitlines() if line.strip()]) < 20
        rows = [[f"star {number}", "2", "5772"] for number in range(1000)]
        for number in range(0, 1000, 100):
            rows[number][1] = ""
            rows[number + 50][2] = "hot"
        with (tmp_path / "stars.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["name", "radius", "temperature"], *rows])
        (tmp_path / "script.py").write_text(code)
        for _ in range(2):
            command = [sys.executable, "script.py"]
            ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=300, check=False)
            assert ran.returncode == 0, ran.stderr
        assert count_states(client) == {"todo": 0, "locked": 0, "done": 980, "error": 20}
        with (tmp_path / "luminosities.csv").open(newline="") as file:
            table = {name: results for name, *results in csv.reader(file)}
        assert len(table) == 1000
        assert float(table["star 1"][0]) == 4
        assert table["star 100"] == ["", "ValueError: could not convert string to float: ''"]
        assert table["star 150"] == ["", "ValueError: could not convert string to float: 'hot'"]

    def test_the_compaction_of_a_large_pool(self, run, client, is_couchdb):
        if not is_couchdb:
            pytest.skip("the embedded server can't compact")
        create_report(client)
        client.save_documents([{"_id": f"token_{number}", "type": "token", "x": "x" * 1000} for number in range(500)])
        for _ in range(4):
            client.save_documents(client.get_documents(f"token_{number}" for number in range(500)))
        before = client.db.info()["sizes"]["file"]
        run("examples/troubleshooting.md", "compact")
        wait_for(lambda: client.db.info()["sizes"]["file"] < before / 2)

    def test_the_endless_iterator(self, run, push):
        push(1)
        assert run("examples/pilots.md", "EndlessViewIterator", "print(next(tokens).id)\n") == "token_0\n"

    def test_the_user_with_few_rights_on_the_first_page(self, location, client, is_couchdb):
        if not is_couchdb:
            pytest.skip("the embedded server has one user only")
        name = f"pilot_{uuid4().hex}"
        (code,) = [block for block in blocks("README.md", "python") if "set_users" in block]
        for old, new in {
            "https://couch.example.org:6984": location.url,
            "my_pool": client.db.name,
            '"admin"': repr(location.username),
            "the admin's password": location.password,
            '"pilot"': repr(name),
        }.items():
            assert old in code
            code = code.replace(old, new)
        users = client.server["_users"]
        try:
            exec(code, {})
            pilot = CouchDB(location.url, client.db.name, name, "a long password")
            pilot.save({"_id": "token_0"})
            with pytest.raises(HTTPError):
                pilot.set_users(members=[])
            client.save({"_id": "secret"})
            client.set_users(members=["somebody else"])
            with pytest.raises(Forbidden):
                CouchDB(location.url, client.db.name, name, "a long password")
        finally:
            del users[f"org.couchdb.user:{name}"]


def in_python(source: str) -> Iterator[str]:
    """Yield the string constants of a module, with "…" for what is put into them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
            yield "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[.\d]*[sdfg]", "…", node.value)


def in_shell(source: str) -> Iterator[str]:
    """Yield the lines of a script, with "…" for the values of variables."""
    for line in source.splitlines():
        yield re.sub(r"\$\{[^}]*\}|\$\w+", "…", line)


def messages() -> list[str]:
    """Return everything that the library and the example scripts may print."""
    python = [*(ROOT / "picas").rglob("*.py"), *EXAMPLES.glob("*.py")]
    found = [text for path in python for text in in_python(path.read_text(encoding="utf-8"))]
    shell = [text for path in EXAMPLES.rglob("*.sh") for text in in_shell(path.read_text(encoding="utf-8"))]
    return [re.sub(r"…+", "…", text) for text in found + shell]


class TestTroubleshooting:
    HEADINGS = re.findall(r"^### (.*)$", TROUBLESHOOTING.read_text(encoding="utf-8"), re.MULTILINE)

    @pytest.mark.parametrize("heading", HEADINGS)
    def test_a_heading_is_a_message_that_exists(self, heading):
        assert re.fullmatch(r"`[^`]+`", heading)
        message = heading.strip("`")
        # The name of the script, and what `describe` adds to an error, are put around a message.
        parts = re.sub(r"^startpilot\.sh: ", "", message).split(": is the address")
        known = messages()
        for part in (parts[0], *(f": is the address{rest}" for rest in parts[1:])):
            assert any(part in text for text in known), f"no source has the message {part!r}"

    def test_there_are_many(self):
        assert len(self.HEADINGS) > 15


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", text_of(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (PAGES[page].parent / name).resolve() if name else PAGES[page]
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in anchors, target


def test_the_first_page_is_short():
    assert len(text_of("README.md").split()) < 900


def test_the_hooks_use_the_versions_of_the_tests():
    """.pre-commit-config.yaml runs the tools of test_style.py, in the versions that setup.py names."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert {line.split()[0] for line in re.findall(r"entry: (.*)", hooks)} == {"ruff", "mypy"}
    for tool in ("ruff", "mypy"):
        (version,) = set(re.findall(rf'"({tool}==[^";]+)"', hooks))
        assert f'"{version}' in setup
