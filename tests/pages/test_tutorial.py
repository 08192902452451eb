"""The tutorial: its programs, its pilot and its notebook. What its page shows is compared in test_pages.py."""

from __future__ import annotations

import ast
import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.places import EXAMPLES, ROOT
from support.tokens import make_token
from support.workers import PATIENCE, is_alive, wait_for

from picas.views import count_states

TUTORIAL = EXAMPLES / "tutorial"
NOTEBOOK = TUTORIAL / "tutorial.ipynb"
SIZE = "24x16"
SCRIPTS = ("fractal_pilot.py", "gallery.py")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tutorial, so that nothing is written into the project."""
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    return Path(shutil.copytree(TUTORIAL, tmp_path / "tutorial", ignore=ignored))


@pytest.fixture
def variables(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a participant who computes small images, and finds `python` and `picas` in it."""
    folders = f"{Path(sys.executable).parent}:{environment['PATH']}"
    return {**environment, "PATH": folders, "FRACTAL_SIZE": SIZE, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def run(folder: Path, variables: dict[str, str]) -> Any:
    """Run a script of the tutorial, and return its exit code, its output and its errors."""

    def run(*arguments: str, **changes: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env={**variables, **changes}, capture_output=True, text=True,
            timeout=2 * PATIENCE, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    return run


def parameters() -> list[dict[str, str]]:
    """Return the rows of the table of fractals."""
    with (TUTORIAL / "fractals.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class TestWordCount:
    def test_counts_words_in_letters_of_any_language(self, run: Any, folder: Path) -> None:
        (folder / "text.txt").write_text("Zoé's café, the CAFÉ of Zürich.\n7 well-known words\n", encoding="utf-8")
        code, output, errors = run("wordcount.py", "text.txt")
        assert (code, errors) == (0, "")
        counts = [tuple(line.split()) for line in output.splitlines()]
        assert counts[0] == ("2", "café")
        assert sorted(counts[1:]) == sorted(
            ("1", word) for word in ("zoé's", "the", "of", "zürich", "well-known", "words")
        )

    def test_all_texts_but_the_letter_are_utf_8(self) -> None:
        texts = sorted((TUTORIAL / "texts").glob("*.txt"))
        assert sum(text.stat().st_size for text in texts) > 20_000
        odd = []
        for text in texts:
            try:
                assert len(text.read_text(encoding="utf-8").split()) > 250
            except UnicodeDecodeError:
                odd.append(text.name)
        assert odd == ["letter.txt"]
        assert "Zürich" in (TUTORIAL / "texts" / "letter.txt").read_text(encoding="latin-1")


class TestFractals:
    def test_an_image_of_the_size_that_was_asked_for(self, run: Any, folder: Path) -> None:
        from matplotlib.image import imread

        code, output, errors = run("fractal.py", "mandelbrot", "--centre=-0.5", "--width=3", FRACTAL_SIZE="30x20")
        assert (code, errors) == (0, "")
        assert output.splitlines()[-2:][0] == "100 %"
        image = imread(folder / "fractal.png")
        assert image.shape == (20, 30, 3)
        assert image[10, 15].sum() == 0  # the middle stays
        assert image[0, 0].sum() > 0

    def test_escape_times_are_those_of_the_plain_loop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import numpy as np

        monkeypatch.syspath_prepend(str(TUTORIAL))
        from fractal import RADIUS, escape_times

        percents: list[int] = []
        times = escape_times("julia", 0.1 + 0.2j, 3.0, (7, 11), -0.4 + 0.6j, 60, percents.append)
        assert percents[-1] == 100
        for row, column in np.ndindex(7, 11):
            z = 0.1 + 0.2j + (column - 5) * 3 / 11 - 1j * (row - 3) * 3 / 11
            steps = 0
            while abs(z) <= RADIUS and steps < 60:
                z, steps = z * z - 0.4 + 0.6j, steps + 1
            assert np.isinf(times[row, column]) == (abs(z) <= RADIUS)
            if abs(z) > RADIUS:
                assert steps - 1 < times[row, column] <= steps + 1

    def test_the_parameters_of_the_table_are_valid_but_for_the_exercises(self) -> None:
        rows = parameters()
        assert len({row["name"] for row in rows}) == len(rows) == 18
        assert [row["name"] for row in rows if not row["iterations"].isdigit()] == ["basilica"]
        palettes = {path.stem for path in (TUTORIAL / "palettes").glob("*.txt")}
        assert {row["palette"] for row in rows} - palettes == {"dusk"}
        assert sum(row["palette"] == "dusk" for row in rows) == 3
        assert all(complex(row["centre"]) is not None and complex(row["c"]) is not None for row in rows)

    def test_what_is_wrong_is_said_in_one_line(self, run: Any) -> None:
        code, _, errors = run("fractal.py", "julia", "--palette=none")
        assert (code, errors.count("\n")) == (1, 1)
        assert errors.startswith("there is no palette 'none': write its colours into ")
        assert run("fractal.py", "julia", FRACTAL_SIZE="large")[0] == 2

    def test_the_pilot_attaches_the_image_and_the_output(self, run: Any, client: Any) -> None:
        client.save(make_token(0, input="python fractal.py julia --c=-0.8+0.156j"))
        client.save(make_token(1, input="echo away >&2; exit 3"))
        code, output, _ = run("fractal_pilot.py", "--slots", "2")
        assert code == 0
        assert output.endswith("Processed 2 tokens: 1 done, 1 failed\n")
        token = client.get("token_0")
        assert token["_attachments"]["fractal.png"]["content_type"] == "image/png"
        assert client.read_attachment("token_0", "fractal.png").startswith(b"\x89PNG")
        assert b"points escape" in client.read_attachment("token_0", "logs_token_0.out")
        failed = client.get("token_1")
        assert (failed["exit_code"], failed["attempts"][-1]["reason"]) == (3, "exit 3: away")

    def test_the_pilot_refuses_slots_that_are_no_number(self, run: Any) -> None:
        code, _, errors = run("fractal_pilot.py", "--slots", "0")
        assert (code, errors.count("\n")) == (2, 1)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_python_without_picas_gets_one_line(script: str) -> None:
    command = [sys.executable, "-S", "-E", str(TUTORIAL / script)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"picas is not installed in {sys.executable} (No module named '")


class TestNotebook:
    def test_runs_from_top_to_bottom(
        self, folder: Path, variables: dict[str, str], client: Any, tmp_path: Path
    ) -> None:
        """In a kernel of this Python, which ends with the test."""
        nbformat = pytest.importorskip("nbformat")
        from jupyter_client.kernelspec import KernelSpecManager
        from jupyter_client.manager import KernelManager
        from nbclient import NotebookClient

        spec = tmp_path / "kernels" / "tests"
        spec.mkdir(parents=True)
        start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (spec / "kernel.json").write_text(json.dumps({"argv": start, "display_name": "tests", "language": "python"}))
        manager = KernelManager(
            kernel_name="tests",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(spec.parent)]),
            connection_file=str(tmp_path / "connection.json"),
        )
        # A token that is not the notebook's is left alone.
        client.save(make_token(0, input="echo other"))
        notebook = nbformat.read(folder / NOTEBOOK.name, as_version=4)
        noted = dict(variables)
        noted.update(TUTORIAL_TOKENS="6", IPYTHONDIR=str(tmp_path / "ipython"), MPLCONFIGDIR=str(tmp_path / "mpl"))
        executor = NotebookClient(
            notebook, km=manager, timeout=4 * PATIENCE, resources={"metadata": {"path": str(folder)}}
        )
        pids: list[int] = []
        executor.on_cell_start = lambda **_: pids.append(manager.provisioner.pid)
        try:
            executor.execute(env=noted)
        finally:
            manager.shutdown_kernel(now=True)
        wait_for(lambda: not is_alive(pids[0]))

        assert count_states(client, "Julia") == {"todo": 0, "locked": 0, "done": 7, "error": 0}
        assert count_states(client)["todo"] == 1
        said = {cell["id"]: cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"}
        text = {name: "".join(output.get("text", "") for output in outputs) for name, outputs in said.items()}
        assert text["push"] == "7 new, 0 were there already\n"
        assert "Processed 7 tokens: 6 done, 1 failed" in text["run"]
        assert "could not convert string to float: '90°'" in text["errors"]
        assert "7 rows, " in text["table"]
        for name in ("look", "plot", "images"):
            assert any("image/png" in output.get("data", {}) for output in said[name]), name
        assert not any(output["output_type"] == "error" for outputs in said.values() for output in outputs)

    def test_has_no_outputs_in_the_repository(self) -> None:
        notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert len(cells) > 8
        assert [(cell["outputs"], cell["execution_count"]) for cell in cells] == [([], None)] * len(cells)
        assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
        assert notebook["metadata"]["kernelspec"]["name"] == "python3"  # no environment of anybody's own


def test_what_the_page_installs_exists() -> None:
    """The extras are those of setup.py, and the environment is that of the quick example."""
    page = (TUTORIAL / "README.md").read_text(encoding="utf-8")
    (extras,) = re.findall(r'^pip install -e "\.\[(.*)\]"$', page, re.MULTILINE)
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (known,) = [
        ast.literal_eval(word.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "extras_require"
    ]
    assert set(extras.split(",")) <= set(known)
    assert {"numpy", "matplotlib", "jupyterlab"} == {re.match(r"\w+", package)[0] for package in known["tutorial"]}
    assert "\n. .venv/quickstart/bin/activate\n" in page
    assert "venv=$root/.venv/quickstart\n" in (EXAMPLES / "quickstart.sh").read_text(encoding="utf-8")
