"""The Grid example without a Grid: the JDL is valid, and the sandbox holds all that a pilot needs."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest
from support.places import EXAMPLES
from support.tokens import make_token

from picas.sandbox import REQUIREMENTS
from picas.views import count_states

ROOT = EXAMPLES.parent
JDL = (EXAMPLES / "grid-example.jdl").read_text(encoding="utf-8")
KNOWN = {
    "JobName", "Executable", "Arguments", "StdOutput", "StdError", "InputSandbox", "OutputSandbox", "CPUTime",
    "Parameters", "StopSigNumber", "StopSigRegex", "StopSigFinishSeconds",
}  # fmt: skip
UNREACHABLE = "http://127.0.0.1:1"
RESCHEDULE = 222


SECOND = '#   "grid-sandbox/CouchDB-1.2.tar.gz",'
"""The line of the JDL for the second archive of those who make the archives by hand."""


def attributes(text=JDL):
    # DIRAC's client drops comment lines before it parses; a semicolon ends an attribute.
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return dict(re.fullmatch(r"\s*(\w+) = (.*)", part, re.DOTALL).groups() for part in lines.split(";") if part.strip())


def listed(attribute, text=JDL):
    return re.findall(r'"([^"]+)"', attributes(text)[attribute])


class TestJdl:
    def test_uses_attribute_names_that_dirac_knows(self):
        assert set(attributes()) == KNOWN

    def test_all_files_of_the_input_sandbox_exist(self):
        files = listed("InputSandbox")
        made = "grid-sandbox/picas.tar"
        assert made in files
        assert [name for name in files if name != made and not (EXAMPLES / name).is_file()] == []
        assert attributes()["Arguments"].strip('"').split()[0] in {name.rpartition("/")[2] for name in files}

    @pytest.mark.parametrize("by_hand", [False, True])
    def test_dirac_s_parsers_accept_it_and_make_two_jobs(self, by_hand):
        pytest.importorskip("DIRACCommon", reason="DIRACCommon needs Python 3.11")
        from DIRACCommon.Core.Utilities.ClassAd.ClassAdLight import ClassAd
        from DIRACCommon.Core.Utilities.JDL import loadJDLAsCFG
        from DIRACCommon.WorkloadManagementSystem.Utilities.ParametricJob import generateParametricJobs

        # In the form that dirac-wms-job-submit sends: in brackets, without comment lines.
        text = JDL.replace(SECOND, SECOND[1:]) if by_hand else JDL
        described = ClassAd(f"[{''.join(line for line in text.splitlines(True) if not line.startswith('#'))}]")
        assert described.isOK()
        assert set(described.getAttributes()) == KNOWN
        made = generateParametricJobs(described)
        assert made["OK"], made
        assert len(made["Value"]) == 2
        for job in made["Value"]:
            strict = loadJDLAsCFG(job)
            assert strict["OK"], strict
            content = strict["Value"][0].getAsDict()
            assert content["Executable"] == "/bin/bash"
            assert content["Arguments"] == attributes()["Arguments"].strip('"')
            assert sorted(re.split(r"[,\s]+", content["InputSandbox"])) == sorted(listed("InputSandbox", text))

    def test_one_line_selects_where_the_software_comes_from(self):
        """The page explains how."""
        page = (EXAMPLES / "grid.md").read_text(encoding="utf-8")
        assert '`"grid-sandbox/picas.tar"`' in page
        assert '`"grid-sandbox/software.txt"`' in page
        assert sum('"grid-sandbox/picas.tar"' in line for line in JDL.splitlines()) == 1
        assert JDL.splitlines().count(SECOND) == 1


def build(examples, *arguments, python=sys.executable, **changes):
    return subprocess.run(
        [str(examples / "grid-sandbox" / "build.sh"), *arguments],
        env={**os.environ, "PYTHON": str(python), **changes}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder with the packages that the archive was made from."""
    return tmp_path_factory.mktemp("kept") / "packages"


@pytest.fixture(scope="module")
def sandbox(project, packages):
    """The archive, built from a checkout."""
    result = build(project / "examples", "--save-packages", str(packages))
    assert (result.returncode, result.stderr) == (0, "")
    archive = project / "examples" / "grid-sandbox" / "picas.tar"
    assert result.stdout == f"Made {archive} ({archive.stat().st_size >> 10} KiB)\n"
    return archive


def names(archive):
    with tarfile.open(archive) as opened:
        return opened.getnames()


class TestBuild:
    def test_the_requirements_match_those_of_the_package(self):
        assert f"install_requires={list(REQUIREMENTS)}".replace("'", '"') in (ROOT / "setup.py").read_text()

    def test_the_archive_is_small_and_pure_python(self, sandbox):
        assert sandbox.stat().st_size < 1 << 20
        assert [name for name in names(sandbox) if name.endswith((".so", ".pyd", ".pyc"))] == []
        assert {name.partition("/")[0] for name in names(sandbox)} >= {"picas", "couchdb", "requests", "certifi"}

    def test_the_archive_holds_all_of_picas_except_the_embedded_server(self, project, sandbox):
        modules = {path.relative_to(project).as_posix() for path in (project / "picas").rglob("*.py")}
        embedded = {name for name in modules if name.startswith("picas/embedded/")}
        assert {name for name in names(sandbox) if name.startswith("picas/")} == modules - embedded
        assert {"picas/__init__.py", "picas/batch/__init__.py", "picas/pilot/__init__.py"} <= modules - embedded

    def test_a_second_build_gives_the_same_bytes(self, project, sandbox):
        before = sandbox.read_bytes()
        (project / "picas" / "actors.py").touch()
        assert build(project / "examples").returncode == 0
        assert sandbox.read_bytes() == before

    def test_from_an_installed_package(self, tmp_path, sandbox):
        """Only the examples, and a Python with picas installed."""
        examples = Path(shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("*.tar")))
        assert build(examples).returncode == 0
        assert (examples / "grid-sandbox" / "picas.tar").read_bytes() == sandbox.read_bytes()

    def test_without_a_network(self, project, sandbox, packages):
        before = sandbox.read_bytes()
        sandbox.unlink()
        result = build(project / "examples", "--find-links", str(packages), PIP_INDEX_URL=UNREACHABLE)
        assert (result.returncode, result.stderr) == (0, "")
        assert sandbox.read_bytes() == before

    def test_with_the_source_release_of_couchdb(self, tmp_path, project, sandbox, packages):
        """An older page told users to download it."""
        folder = tmp_path / "packages"
        folder.mkdir()
        for wheel in packages.glob("*.whl"):
            if not wheel.name.startswith("CouchDB"):
                shutil.copy(wheel, folder)
        make_source_release(folder, sandbox)
        before = sandbox.read_bytes()
        result = build(project / "examples", "--find-links", str(folder), PIP_INDEX_URL=UNREACHABLE)
        assert (result.returncode, result.stderr) == (0, "")
        assert "couchdb/client.py" in names(sandbox)
        assert not any(name.startswith("CouchDB-1.2") or name.endswith(".rst") for name in names(sandbox))
        sandbox.write_bytes(before)

    def test_an_error_of_pip_is_one_line_and_leaves_the_last_archive(self, tmp_path, project, sandbox):
        before = sandbox.read_bytes()
        result = build(project / "examples", "--find-links", str(tmp_path))
        assert result.returncode == 1
        assert re.fullmatch(r"build\.sh: pip can't get CouchDB>=1\.2 and requests>=2\.25: ERROR: .*\n", result.stderr)
        assert sandbox.read_bytes() == before
        assert list(sandbox.parent.glob("*.partial")) == []


def make_source_release(folder, sandbox):
    """Write a minimal CouchDB-1.2.tar.gz: the package in a folder, next to other files."""
    tree = folder / "tree" / "CouchDB-1.2"
    tree.mkdir(parents=True)
    with tarfile.open(sandbox) as archive:
        for member in archive.getmembers():
            if member.name.startswith("couchdb/"):
                archive.extract(member, tree)
    (tree / "README.rst").write_text("CouchDB\n")
    with tarfile.open(folder / "CouchDB-1.2.tar.gz", "w:gz") as archive:
        archive.add(tree, "CouchDB-1.2")
    shutil.rmtree(folder / "tree")


class Node:
    """A worker node with a bare Python and the folder of a job."""

    def __init__(self, folder, settings):
        self.job = folder / "job"
        self.binaries = folder / "bin"
        self.home = folder
        self.settings = settings
        self.job.mkdir()
        self.binaries.mkdir()
        for program in ("bash", "tar", "gzip", "touch", "sh"):
            (self.binaries / program).symlink_to(shutil.which(program))

    def install_python(self, name="python3"):
        bare = getattr(sys, "_base_executable", sys.executable)
        (self.binaries / name).write_text(f'#!/bin/sh\nexec "{bare}" -S "$@"\n')  # -S: without installed packages
        (self.binaries / name).chmod(0o755)

    def unpack(self, archive, folder=None):
        folder = folder or self.job
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as opened:
            opened.extractall(folder)

    def start(self, **changes):
        """Start the pilot the way DIRAC does."""
        executable, arguments = (attributes()[name].strip('"') for name in ("Executable", "Arguments"))
        return subprocess.run(
            [executable, *arguments.split()],
            cwd=self.job, capture_output=True, text=True, timeout=60, check=False,
            env={**self.settings, "PATH": str(self.binaries), "HOME": str(self.home), "DIRACJOBID": "42", **changes},
        )  # fmt: skip


@pytest.fixture
def node(tmp_path, environment):
    """A node with the files of the input sandbox except the software."""
    node = Node(tmp_path, {name: value for name, value in environment.items() if name.startswith("PICAS_")})
    for name in listed("InputSandbox"):
        if not name.endswith(".tar"):
            shutil.copy(EXAMPLES / name, node.job)
    node.install_python()
    return node


def assert_done(result, client):
    assert (result.returncode, result.stderr) == (0, "")
    assert "Processed 1 tokens: 1 done" in result.stdout
    assert count_states(client)["done"] == 1
    assert client.get("token_0")["dirac_job_id"] == "42"
    assert b"from the grid" in client.get("token_0").get_attachment("logs_token_0.out", client)["data"]


def assert_not_installed(result, missing):
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(
        r"startpilot\.sh: picas is not installed in \S*/python\S*, and does not travel with this job "
        rf"\(ModuleNotFoundError: No module named '{missing}'\): build picas\.tar with build\.sh\n",
        result.stderr,
    )


@pytest.fixture(scope="module")
def by_hand(project, sandbox, tmp_path_factory):
    """The two archives, made as the page says for those who make them by hand."""
    copy = Path(shutil.copytree(project, tmp_path_factory.mktemp("clone") / "project"))
    folder = copy / "examples"
    (copy / "picas" / "__pycache__").mkdir(exist_ok=True)  # as in a clone that is in use
    (copy / "picas" / "__pycache__" / "actors.cpython-36.pyc").write_bytes(b"of another Python")
    subprocess.run(["bash", "-c", "tar cfv grid-sandbox/picas.tar ../picas/"], cwd=folder, check=True)
    download = "pip download --no-deps --no-binary CouchDB --dest grid-sandbox CouchDB==1.2"
    got = subprocess.run(["bash", "-c", f"{sys.executable} -m {download}"], cwd=folder, check=False)
    if got.returncode != 0:  # there is no network
        make_source_release(folder / "grid-sandbox", sandbox)
    return folder / "grid-sandbox" / "picas.tar", folder / "grid-sandbox" / "CouchDB-1.2.tar.gz"


class TestArchivesByHand:
    """The steps of the older page: tar, CouchDB's source release beside it, and submit. The node has only Python."""

    @pytest.fixture(autouse=True)
    def pool(self, client):
        client.save(make_token(0, input="python3 -c 'import requests'; python3 -m pip; echo from the grid"))

    @pytest.fixture
    def bare(self, node, tmp_path):
        """The node with a Python that has no packages at all."""
        base = getattr(sys, "_base_executable", sys.executable)
        subprocess.run([base, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
        (node.binaries / "python3").write_text(f'#!/bin/sh\nexec "{tmp_path}/bare/bin/python3" "$@"\n')
        node.settings["PYTHONNOUSERSITE"] = "1"
        return node

    @pytest.mark.parametrize("is_unpacked", [True, False])
    def test_a_pilot_needs_nothing_else(self, bare, client, by_hand, is_unpacked):
        """DIRAC unpacks archives itself, or does not."""
        sent = [name.rpartition("/")[2] for name in listed("InputSandbox", JDL.replace(SECOND, SECOND[1:]))]
        assert sorted(sent) == sorted([path.name for path in (*bare.job.iterdir(), *by_hand)])
        for archive in by_hand:
            if is_unpacked:
                bare.unpack(archive)
            else:
                shutil.copy(archive, bare.job)
        assert_done(bare.start(), client)
        errors = client.get("token_0").get_attachment("logs_token_0.err", client)["data"].decode()
        assert "No module named 'requests'" in errors
        assert "No module named pip" in errors

    def test_everything_in_picas_can_be_imported_without_other_packages(self, bare, by_hand):
        for archive in by_hand:
            bare.unpack(archive)
        look = "import importlib, pkgutil, picas\n"
        look += "names = [found.name for found in pkgutil.walk_packages(picas.__path__, 'picas.')]\n"
        look += "names = [name for name in names if not name.endswith('__main__')]\n"
        # What people look at needs packages of its own, and nobody looks from a worker node.
        look += "rooms = tuple(f'picas.cli.{room}.' for room in ('live', 'report', 'web'))\n"
        look += "names = [name for name in names if not name.startswith(rooms)]\n"
        look += "print(len([importlib.import_module(name) for name in names]))"
        result = subprocess.run(
            [str(bare.binaries / "python3"), "-c", look], cwd=bare.job, capture_output=True, text=True, check=False,
            env={"PYTHONPATH": f"{bare.job}:{bare.job}/CouchDB-1.2", "PYTHONNOUSERSITE": "1"},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert int(result.stdout) > 100

    def test_without_the_second_archive_one_line_says_so(self, bare, by_hand):
        shutil.copy(by_hand[0], bare.job)
        assert_not_installed(bare.start(), "couchdb")


class TestStartPilot:
    @pytest.fixture(autouse=True)
    def pool(self, client):
        client.save(make_token(0, input="echo from the grid"))

    @pytest.mark.parametrize("way", ["as it is", "unpacked", "unpacked beside itself"])
    def test_from_the_archive(self, node, client, sandbox, way):
        """DIRAC unpacks archives itself, or does not."""
        if way != "unpacked":
            shutil.copy(sandbox, node.job)
        if way != "as it is":
            node.unpack(sandbox)
        assert_done(node.start(), client)

    def test_from_a_shared_folder(self, node, client, sandbox, tmp_path):
        node.unpack(sandbox, tmp_path / "shared")
        (node.job / "software.txt").write_text(f"{tmp_path}/shared\n")
        assert_done(node.start(), client)

    def test_from_a_virtual_environment(self, node, client, sandbox, tmp_path):
        """The Python of the environment is used rather than the node's."""
        environment = tmp_path / "shared"
        node.unpack(sandbox, environment / "site")
        (node.binaries / "python3").rename(environment / "python3")
        (environment / "bin").mkdir()
        program = f'#!/bin/sh\nPYTHONPATH={environment}/site exec "{environment}/python3" "$@"\n'
        (environment / "bin" / "python3").write_text(program)
        (environment / "bin" / "python3").chmod(0o755)
        (node.job / "software.txt").write_text(str(environment))  # without a line end
        assert_done(node.start(), client)

    @pytest.mark.parametrize("way", ["archive", "software.txt", "virtual environment"])
    def test_a_task_does_not_find_the_packages_of_the_pilot(self, node, client, sandbox, tmp_path, way):
        own = tmp_path / "own"
        own.mkdir()
        (own / "mine.py").write_text("print('from the grid')\n")
        look = "import importlib.util as u, mine; print([name for name in ('picas', 'requests') if u.find_spec(name)])"
        token = client.get("token_0")
        token["input"] = f'cd /; echo $PYTHONPATH; python3 -c "{look}"'
        client.save(token)
        shared = tmp_path / "shared"
        if way == "archive":
            node.unpack(sandbox)
        else:
            (node.job / "software.txt").write_text(str(shared))
            folder = "."
            if way == "virtual environment":
                venv.create(shared, symlinks=True)
                folder = "lib/python{}.{}/site-packages".format(*sys.version_info)
            node.unpack(sandbox, shared / folder)
        assert_done(node.start(PYTHONPATH=str(own)), client)
        lines = client.get("token_0").get_attachment("logs_token_0.out", client)["data"].decode().splitlines()
        assert lines[1:] == [str(own), "from the grid", "[]"]

    def test_without_the_shared_folder_the_job_is_rescheduled(self, node, client):
        (node.job / "software.txt").write_text("/nowhere at all\n")
        result = node.start()
        assert (result.returncode, result.stdout) == (RESCHEDULE, "")
        assert result.stderr == (
            "startpilot.sh: software.txt names /nowhere at all, and there is no such folder on this node\n"
        )

    @pytest.mark.parametrize("name", ["python", "python3.11", "python3.9"])
    def test_with_a_python_under_another_name(self, node, client, sandbox, name):
        node.unpack(sandbox)
        (node.binaries / "python3").write_text("#!/bin/sh\nexit 1\n")  # too old
        node.install_python(name)
        assert_done(node.start(), client)

    def test_without_a_python(self, node, sandbox):
        node.unpack(sandbox)
        (node.binaries / "python3").unlink()
        result = node.start()
        assert (result.returncode, result.stdout) == (1, "")
        assert re.fullmatch(r"startpilot\.sh: there is no Python 3\.9 or later in \S+\n", result.stderr)

    def test_without_picas(self, node):
        assert_not_installed(node.start(), "picas")

    def test_without_the_database_the_job_is_rescheduled(self, node, client, sandbox):
        node.unpack(sandbox)
        result = node.start(PICAS_HOST_URL=UNREACHABLE)
        assert result.returncode == RESCHEDULE
        assert f"server                  {UNREACHABLE}\n" in result.stdout
        assert re.match(rf"startpilot\.sh: dirac job 42 on {socket.gethostname()}, with \S*/python3\n", result.stdout)
        assert result.stderr.endswith("startpilot.sh: DIRAC should run this job again\n")
        assert count_states(client)["todo"] == 1

    def test_with_wrong_settings_the_job_is_not_rescheduled(self, node, sandbox):
        node.unpack(sandbox)
        result = node.start(PICAS_DATABASE="nothing_there")
        assert result.returncode == 1
        assert "there is no database nothing_there" in result.stderr
        assert result.stderr.endswith("startpilot.sh: no pilot was started\n")

    def test_without_executable_files(self, node, client, sandbox):
        """No file in the job's folder may be executed."""
        node.unpack(sandbox)
        for path in node.job.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        assert_done(node.start(), client)

    def test_dirac_s_check_of_the_cpu_time_is_disabled(self, node, client, sandbox):
        node.unpack(sandbox)
        token = client.get("token_0")
        token["input"] = f"cd {node.job}; echo *; echo from the grid"
        client.save(token)
        assert_done(node.start(), client)
        listing = client.get("token_0").get_attachment("logs_token_0.out", client)["data"].decode()
        assert "DISABLE_WATCHDOG_CPU_WALLCLOCK_CHECK" in listing
