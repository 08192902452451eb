"""The verbs `autopilot` and `sandbox`; what they do is tested in tests/batch."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tarfile
import time

import pytest
from support.places import EXAMPLES

from picas import sandbox
from picas.cli import main
from picas.pilot.orders import pause_pool

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
SQUEUE = "#!/bin/sh\n"  # an empty queue
SCONTROL = "#!/bin/sh\necho ClusterName = lab\n"
SBATCH = '#!/bin/sh\necho "$@" >> submitted\necho 42\n'


@pytest.fixture
def slurm(tmp_path):
    """A folder with commands like those of Slurm, as the variable PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("scontrol", SCONTROL), ("squeue", SQUEUE), ("sbatch", SBATCH)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


@pytest.fixture
def table(tmp_path):
    """A table with one class."""
    (tmp_path / "job.sh").write_text("#!/bin/sh\n")
    path = tmp_path / "table.ini"
    path.write_text("[all]\nscript = job.sh\nslots = 2\n")
    return path


class TestAutopilot:
    def test_submits_the_pilots_that_are_missing(self, run_picas, push, slurm, table, tmp_path):
        push(3)
        result = run_picas("autopilot", str(table), variables=slurm)
        assert (result.returncode, result.stderr) == (0, "")
        line = "all: 3 tokens wait, 0 jobs are queued and 0 run, with 0 free slots: submitted 2 pilots as job 42"
        assert re.fullmatch(rf"{TIME} {line}\n", result.stdout)
        assert (tmp_path / "submitted").read_text().count("\n") == 1

    def test_can_also_only_say_so(self, run_picas, push, slurm, table, tmp_path):
        push(1)
        result = run_picas("autopilot", str(table), "--dry-run", variables=slurm)
        assert (result.returncode, result.stdout.count("1 pilot would be submitted\n")) == (0, 1)
        assert not (tmp_path / "submitted").exists()

    def test_submits_nothing_while_the_pool_is_paused(self, run_picas, client, push, slurm, table, tmp_path):
        push(1)
        pause_pool(client, "new calibration", by="ann")
        result = run_picas("autopilot", str(table), variables=slurm)
        assert (result.returncode, result.stderr) == (0, "")
        line = "the pool is paused by ann: new calibration; nothing is submitted"
        assert re.fullmatch(rf"{TIME} {line}\n", result.stdout)
        assert not (tmp_path / "submitted").exists()

    def test_does_what_the_script_does(self, run_picas, environment, push, slurm, table):
        push(1)
        ran = subprocess.run(
            [sys.executable, EXAMPLES / "run_autopilot.py", table, "--dry-run"],
            env={**environment, **slurm},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        result = run_picas("autopilot", str(table), "--dry-run", variables=slurm)
        assert re.sub(TIME, "", result.stdout) == re.sub(TIME, "", ran.stdout)

    def test_without_slurm_fails(self, run_picas, push, table, tmp_path):
        push(1)
        result = run_picas("autopilot", str(table), variables={"PATH": str(tmp_path)})
        assert (result.returncode, result.stderr, result.stdout.count("\n")) == (1, "", 1)
        assert "there is no command scontrol here" in result.stdout

    @pytest.mark.parametrize("text", [None, "nonsense", "[all]\n"], ids=["no file", "no table", "no script"])
    def test_with_an_invalid_table_prints_one_line_and_fails(self, run_picas, tmp_path, text):
        path = tmp_path / "table.ini"
        if text is not None:
            path.write_text(text)
        result = run_picas("autopilot", str(path))
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert "table.ini" in result.stderr

    @pytest.mark.parametrize(
        "wrong", [[], ["t.ini", "--stay", "0"], ["t.ini", "--stay", "soon"], ["a", "b"]], ids=" ".join
    )
    def test_wrong_usage_is_one_line(self, run_picas, wrong):
        result = run_picas("autopilot", *wrong)
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)

    def test_stays_if_asked(self, at_terminal, push, slurm, table):
        push(1)
        with at_terminal("autopilot", str(table), "--dry-run", "--stay", "1s", variables=slurm) as terminal:
            terminal.wait_for(f"would be submitted\n{time.strftime('%Y')}")
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.end() == 130


class TestSandbox:
    def test_without_the_packages_fails_with_one_line(self, run_picas, tmp_path):
        (tmp_path / "empty").mkdir()
        result = run_picas("sandbox", "--find-links", "empty")
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert result.stderr.startswith("picas: pip can't get CouchDB")

    @pytest.fixture
    def build(self, monkeypatch, tmp_path):
        """Run the verb without packages; what pip brings is tested in tests/batch/test_grid.py."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sandbox, "_download", lambda folder, names, links: None)

        def build(*arguments):
            with pytest.raises(SystemExit) as ended:
                main(["sandbox", *arguments])
            return ended.value.code

        return build

    def test_builds_the_archive(self, build, capsys):
        assert build() == 0
        assert build("--output", "mine.tar") == 0
        printed = capsys.readouterr()
        assert [line.split(" (")[0] for line in printed.out.splitlines()] == ["Made picas.tar", "Made mine.tar"]
        with tarfile.open("mine.tar") as archive:
            assert "picas/actors.py" in archive.getnames()

    def test_where_nothing_can_be_written_it_fails_with_one_line(self, build, capsys):
        assert build("--output", "no/x.tar") == 1
        printed = capsys.readouterr()
        assert (printed.out, printed.err.count("\n")) == ("", 1)
        assert "no/x.tar" in printed.err
