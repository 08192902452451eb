"""A real DIRAC site on this machine: a Grid with services, a user and worker nodes, all on 127.0.0.1.

Root on Debian installs what it needs with `python3 tests/support/dirac_site.py install`. It runs without root and
without systemd.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VENV = Path(__file__).resolve().parents[2] / ".venv" / "dirac"
DIRAC = "DIRAC==8.0.86"
"""The last series whose only requirement is a database."""
PACKAGES = (
    "cachetools", "diraccfg==1.*", "importlib_metadata", "importlib_resources", "packaging", "prompt_toolkit==3.*",
    "psutil==7.*", "pyasn1==0.*", "pyasn1_modules==0.*", "pyparsing==3.*", "requests==2.*", "typing_extensions==4.*",
)  # fmt: skip
"""What the parts of DIRAC that run here import, which is far less than its declared dependencies."""
DEBIAN = (
    "mariadb-server-core", "mariadb-client-core", "openssl", "python3-venv", "python3-m2crypto", "python3-mysqldb"
)  # fmt: skip
"""MariaDB's programs without its service, and modules that pip would have to compile."""

PATIENCE = 60.0
"""Seconds that a process may take to be ready, and a command to end."""
LINES = 20
"""Number of log lines in the error message about a process that is not ready."""
SITE = "DIRAC.Lab.nl"
MIND = "WorkloadManagement/OptimizationMind"
_OTHERS = ("JobManager", "JobMonitoring", "JobStateUpdate", "Matcher", "SandboxStore", "WMSAdministrator")
SERVICES = ("Framework/ProxyManager", *(f"WorkloadManagement/{name}" for name in _OTHERS))
_TABLES = ("JobDB", "JobLoggingDB", "PilotAgentsDB", "SandboxMetadataDB", "TaskQueueDB")
DATABASES = ("Framework/ProxyDB", *(f"WorkloadManagement/{name}" for name in _TABLES))
CONFIGURATION = """
DIRAC: Hostname = localhost; Setup = Lab; VirtualOrganization = lab
DIRAC/Setups/Lab: Accounting = Lab; Framework = Lab; WorkloadManagement = Lab
DIRAC/Security: CertFile = {folder}/localhost.pem; KeyFile = {folder}/key.pem
Registry/Users/user: DN = /O=Lab/CN=user
Registry/Groups/lab_user: Users = user; Properties = NormalUser; VO = lab
Registry/Hosts/localhost: DN = /O=Lab/CN=localhost; Properties = TrustedHost, JobAdministrator
Resources/StorageElements/Sandboxes: BackendType = DISET
Resources/StorageElements/Sandboxes/DIP: Protocol = dips; Host = localhost; Port = {store}; Access = remote
Resources/StorageElements/Sandboxes/DIP: Path = /WorkloadManagement/SandboxStore
Systems/WorkloadManagement/Lab/Services/SandboxStore: LocalSE = Sandboxes; BasePath = {folder}/sandboxes
Systems/WorkloadManagement/Lab/Executors/Optimizers: Load = JobPath, JobSanity, InputData, JobScheduling
Systems/WorkloadManagement/Lab/Agents/JobAgent: PollingTime = 1; SubmissionDelay = 0; MinimumTimeLeft = 0
Systems/WorkloadManagement/Lab/Agents/JobAgent: StopOnApplicationFailure = False
Systems/WorkloadManagement/Lab/JobWrapper: PollingTime = 1; CheckingTime = 1; MinCheckingTime = 1
LocalSite: Site = {site}; LocalCE = InProcess; CPUTime = 500000; CPUNormalizationFactor = 10; DisableAccounting = True
"""
"""Each line is a section and settings in it."""
_FOLDERS = os.pathsep.join([str(VENV / "bin"), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
_MADE = VENV / "made"

# DIRAC has no setting for the address on which a service listens; the default is all addresses. If several services in
# one process get callers at the same time, DIRAC loses all but one, so the selector returns one caller at a time.
SERVICE = """
import os, selectors, types
from DIRAC.Core.DISET import ServiceReactor
from DIRAC.Core.DISET.private.Protocols import gProtocolDict
from DIRAC.Core.scripts.dirac_service import main

class Selector(selectors.DefaultSelector):
    def select(self, timeout=None):
        return super().select(timeout)[:1]

ServiceReactor.selectors = types.SimpleNamespace(DefaultSelector=Selector, EVENT_READ=selectors.EVENT_READ)
address = "::ffff:127.0.0.1" if os.path.exists("/proc/net/if_inet6") else "127.0.0.1"
transport = gProtocolDict["dips"]["transport"]
gProtocolDict["dips"]["transport"] = lambda pair, **options: transport((pair[0] or address, pair[1]), **options)
"""

# A rescheduled job waits for a minute first. There is a setting for that, but DIRAC fails if it is set.
EXECUTOR = """
from DIRAC.Core.scripts.dirac_executor import main
from DIRAC.WorkloadManagementSystem.Executor.JobScheduling import JobScheduling

get = JobScheduling.ex_getOption
JobScheduling.ex_getOption = staticmethod(lambda name, *rest: [0] if name == "RescheduleDelays" else get(name, *rest))
"""

PROXY = "from DIRAC.FrameworkSystem.scripts.dirac_proxy_init import main"

# Whatever its settings, an agent asks for jobs at most every 10 seconds, and less often while it finds none.
AGENT = """
from DIRAC.Core.Base import AgentReactor
from DIRAC.Core.Utilities import ThreadScheduler
from DIRAC.Core.scripts.dirac_agent import main
from DIRAC.WorkloadManagementSystem.Agent.JobAgent import JobAgent

class Scheduler(ThreadScheduler.ThreadScheduler):
    def __init__(self, **options):
        super().__init__(**{**options, "minPeriod": 1})

AgentReactor.ThreadScheduler.ThreadScheduler = Scheduler
JobAgent.matchFailedCount = property(lambda self: -1, lambda self, count: None)
"""


def missing() -> str | None:
    """Return why DIRAC is not available, or None if it is."""
    lacks = [program for program in ("mariadbd", "mariadb", "openssl") if not shutil.which(program, path=_FOLDERS)]
    if not _is_made():
        lacks.append(f"{DIRAC} in {VENV}")
    return f"not installed: {', '.join(lacks)} (root on Debian: tests/run.sh --install)" if lacks else None


class Dirac:
    """The services and a user with a proxy, as a context manager.

    Jobs run on worker nodes: see `start_agent`.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="picas-dirac-", dir="/tmp"))  # short, because it contains a socket
        self.environment = self._environment(self.folder, PATH=_FOLDERS, MYSQL_UNIX_PORT=f"{self.folder}/socket")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Dirac:
        try:
            for name in ("certificates", "database", "etc", "home", "log", "sandboxes", "temporary"):
                (self.folder / name).mkdir()
            self._configure()
            self._start_dirac("mind", SERVICE, MIND)
            self._start_dirac("services", SERVICE, *SERVICES)
            self._start_dirac("optimizers", EXECUTOR, "WorkloadManagement/Optimizers", "-o", "LogLevel=VERBOSE")
            self._start_dirac("proxy", PROXY, "-g", "lab_user", "-C", "user.pem", "-K", "key.pem")
            self._start_database()
            self._make_certificates()
            self._fill_database()
            # One by one, because each creates the tables that do not exist yet.
            self._let_go("mind", "Listening at")
            self._let_go("services", "Listening at", len(SERVICES))
            self._let_go("proxy")
            self._let_go("optimizers", "Connected to")
            self._let_go("proxy", "Proxies uploaded")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """End all jobs, worker nodes and services, and remove the folder."""
        self._kill(self.folder)
        for process in self._processes.values():
            process.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *command: str | Path, **options: Any) -> str:
        """Run a DIRAC command as the user and return its output.

        :raises AssertionError: if it fails
        """
        options = {"env": self.environment, "capture_output": True, "text": True, "timeout": PATIENCE, **options}
        ran = subprocess.run(command, check=False, **options)
        assert ran.returncode == 0, f"{command[0]}: {ran.stdout}{ran.stderr}"
        return str(ran.stdout).strip()

    def submit(self, jdl: str | Path, cwd: str | Path | None = None, **environment: str) -> list[int]:
        """Submit the jobs of a JDL file and return their ids.

        :param jdl: path of the file, relative to cwd
        :param cwd: the folder to which the paths in the input sandbox are relative
        :param environment: further environment variables
        """
        said = self.run("dirac-wms-job-submit", jdl, cwd=cwd, env={**self.environment, **environment})
        return [int(number) for number in re.findall(r"\d+", said.partition("JobID = ")[2])]

    def status(self, *jobs: int) -> dict[int, str]:
        """Return the status of each job from the database, because DIRAC's command takes a second."""
        rows = self._query(f"SELECT JobID, Status FROM JobDB.Jobs WHERE JobID IN ({','.join(map(str, jobs))})")
        return {int(job): status for job, status in (row.split("\t") for row in rows)}

    def reschedulings(self, job: int) -> int:
        """Return how often a job was rescheduled."""
        return int(self._query(f"SELECT RescheduleCounter FROM JobDB.Jobs WHERE JobID = {job}")[0])

    def kill(self, job: int) -> None:
        """Kill a job as its user."""
        self.run("dirac-wms-job-kill", str(job))

    def output(self, job: int, folder: str | Path) -> Path:
        """Fetch the output sandbox of a job into a subfolder of `folder`, and return the subfolder."""
        self.run("dirac-wms-job-get-output", "-D", folder, str(job))
        return Path(folder) / str(job)

    def start_agent(self, seconds_left: int | None = None, **environment: str) -> Path:
        """Start a worker node and return its folder, which contains a folder for each job, named by the job's id.

        It runs one job at a time, and asks for the next one every second.

        :param seconds_left: seconds until its time is up, as the site publishes it; None if the site does not
        :param environment: environment variables of its jobs, besides those that DIRAC needs or sets
        """
        root = self.folder / f"agent{sum(name.startswith('agent') for name in self._processes)}"
        (root / "etc").mkdir(parents=True)
        text = (self.folder / "etc" / "dirac.cfg").read_text(encoding="ascii")
        if seconds_left is not None:
            now = int(time.time())
            job = {"jobstart_secs": now, "wall_limit_secs": seconds_left, "shutdowntime_job": now + seconds_left}
            features = {"JOBFEATURES": job, "MACHINEFEATURES": {"shutdowntime": now + seconds_left}}
            text = text.replace("LocalSite\n{\n", f"LocalSite\n{{\n{_text(features)}\n")
        (root / "etc" / "dirac.cfg").write_text(text, encoding="ascii")
        env = self._environment(root, **{"PATH": os.defpath, **environment})
        options = ("-o", "MaxCycles=0", "-o", "/DIRAC/Security/UseServerCertificate=no")
        self._start_dirac(root.name, AGENT, "WorkloadManagement/JobAgent", *options, cwd=root, env=env)
        self._let_go(root.name)
        return root

    def stop_agent(self, root: Path) -> None:
        """Kill a worker node and all processes on it."""
        self._kill(root)
        self._processes[root.name].communicate()

    def _environment(self, root: Path, **environment: str) -> dict[str, str]:
        """Return the environment of processes whose configuration is in this folder."""
        return {
            "DIRAC_ROOT_PATH": str(root),
            "X509_CERT_DIR": str(self.folder / "certificates"),
            "X509_USER_PROXY": str(self.folder / "proxy"),
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "temporary"),
            **environment,
        }

    def _start_database(self) -> None:
        """Start a database server without authentication, reachable only through a socket in this folder.

        So it needs no system tables. Its data is temporary and is not flushed to disk.
        """
        options = {
            "user": pwd.getpwuid(os.geteuid()).pw_name, "datadir": self.folder / "database",
            "tmpdir": self.folder / "temporary", "socket": self.folder / "socket", "innodb-flush-method": "nosync",
            "innodb-doublewrite": 0, "innodb-log-file-size": "8M", "innodb-stats-persistent": 0,
        }  # fmt: skip
        words = [f"--{name}={value}" for name, value in options.items()]
        self._start("database", "mariadbd", "--no-defaults", "--skip-networking", "--skip-grant-tables", *words)

    def _fill_database(self) -> None:
        self._let_go("database", "ready for connections")
        sql = []
        for system, name in (database.split("/") for database in DATABASES):
            tables = next(VENV.glob(f"lib/python3*/site-packages/DIRAC/{system}System/DB/{name}.sql"))
            sql.append(f"CREATE DATABASE {name}; USE {name};\n{tables.read_text(encoding='utf-8')}")
        sql.append(f"INSERT INTO JobDB.SiteMask VALUES ('{SITE}', 'Active', UTC_TIMESTAMP(), 'lab', '');")
        self._query("\n".join(sql))

    def _query(self, sql: str) -> list[str]:
        return self.run("mariadb", "--no-defaults", "-N", "-B", "-S", self.folder / "socket", input=sql).splitlines()

    def _make_certificates(self) -> None:
        """Create a certificate authority, and certificates of the services and the user. All share one key."""
        ca, key = self.folder / "certificates" / "ca.pem", self.folder / "key.pem"
        new = "openssl req -x509 -days 7 -subj /O=Lab/CN="
        self.run(*f"{new}CA -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {key} -out {ca}".split())
        self.run("openssl", "rehash", ca.parent)
        key.chmod(0o400)
        limits = "-addext basicConstraints=critical,CA:FALSE -addext keyUsage=digitalSignature,keyEncipherment"
        for name in ("localhost", "user"):
            names = f"{name} -addext subjectAltName=DNS:{name} -out {self.folder}/{name}.pem"
            self.run(*f"{new}{names} -key {key} -CA {ca} -CAkey {key} {limits}".split())

    def _configure(self) -> None:
        services = (MIND, *SERVICES)
        ports = dict(zip(services, _free_ports(len(services))))
        store = ports["WorkloadManagement/SandboxStore"]
        lines = CONFIGURATION.format(folder=self.folder, store=store, site=SITE).strip().split("\n")
        for service, port in ports.items():
            system, name = service.split("/")
            lines.append(f"Systems/{system}/Lab/Services/{name}: Port = {port}")
            lines.append(f"Systems/{system}/Lab/URLs: {name} = dips://localhost:{port}/{service}")
        for system, name in (database.split("/") for database in DATABASES):
            options = f"DBName = {name}; Host = localhost; User = any; Password = any"
            lines.append(f"Systems/{system}/Lab/Databases/{name}: {options}")
        tree: dict[str, Any] = {}
        for path, _, options in (line.partition(": ") for line in lines):
            section = tree
            for name in path.split("/"):
                section = section.setdefault(name, {})
            for option in options.split("; "):
                key, _, section[key] = option.partition(" = ")
        (self.folder / "etc" / "dirac.cfg").write_text(_text(tree), encoding="ascii")

    def _start_dirac(self, name: str, code: str, *arguments: str, **options: Any) -> None:
        """Start a DIRAC process, which imports its modules, the slowest part, and then waits for `_let_go`."""
        code = f"{code}\nimport sys\nsys.stdin.read()\nmain()"
        self._start(name, str(VENV / "bin" / "python"), "-c", code, *arguments, **options)

    def _start(self, name: str, *command: str, **options: Any) -> None:
        with (self.folder / "log" / name).open("wb") as log:
            options = {"env": self.environment, "cwd": self.folder, "stdin": subprocess.PIPE, **options}
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **options)

    def _let_go(self, name: str, words: str = "", times: int = 1) -> None:
        """Let a process continue, and return when it is ready: when its log contains the words this many times."""
        process = self._processes[name]
        assert process.stdin is not None
        process.stdin.close()
        give_up = time.monotonic() + PATIENCE
        ended = False
        while self._log(name).count(words) < times:
            if ended or time.monotonic() > give_up:
                raise AssertionError(f"{name} is not ready:\n{self._log(name, LINES)}")
            ended = process.poll() is not None  # then its log is complete and is read once more
            time.sleep(0.02)

    def _log(self, name: str, lines: int = 0) -> str:
        """Return the log of a process, or its last lines."""
        text = (self.folder / "log" / name).read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def _left(self, root: Path) -> list[int]:
        """Return the running processes whose configuration is in this folder or below it."""
        mark = b"\0DIRAC_ROOT_PATH=" + bytes(root)
        pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        return [pid for pid in pids if mark + b"\0" in _environ(pid) or mark + b"/" in _environ(pid)]

    def _kill(self, root: Path) -> None:
        """Kill these processes, including those that they start meanwhile."""
        give_up = time.monotonic() + PATIENCE
        while pids := self._left(root):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert time.monotonic() < give_up, f"processes {pids} did not end"
            time.sleep(0.02)


def _text(section: dict[str, Any]) -> str:
    """Return a section of the configuration in DIRAC's format."""
    return "\n".join(
        f"{name}\n{{\n{_text(value)}\n}}" if isinstance(value, dict) else f"{name} = {value}"
        for name, value in section.items()
    )


def _environ(pid: int) -> bytes:
    """Return the environment of a process with a NUL before and after each variable; b"" if the process has ended."""
    try:
        return b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def _is_made() -> bool:
    """Return whether the Python environment exists with the current requirements."""
    return _MADE.is_file() and _MADE.read_text(encoding="ascii").split() == [DIRAC, *PACKAGES]


def install() -> None:
    """Install what is missing.

    :raises SystemExit: if that fails, with a line that says why
    """
    if shutil.which("dpkg-query") is None:
        raise SystemExit("dirac_site.py: DIRAC can only be installed on Debian")
    command = ("dpkg-query", "-W", "-f", "${Status}\\n", *DEBIAN)
    states = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    if states != ["install ok installed"] * len(DEBIAN):
        _install("apt-get", "update", "-q")
        _install("apt-get", "install", "-yq", "--no-install-recommends", *DEBIAN)
    if not _is_made():
        # The system's Python, because Debian's modules belong to it; a copy, because the job wrapper resolves links.
        _install("/usr/bin/python3", "-m", "venv", "--clear", "--copies", "--system-site-packages", str(VENV))
        pip = (str(VENV / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "--ignore-installed")
        _install(*pip, *PACKAGES)
        _install(*pip, "--no-deps", DIRAC)
        _MADE.write_text("\n".join([DIRAC, *PACKAGES]), encoding="ascii")


def _install(*command: str) -> None:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        ran = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SystemExit(f"dirac_site.py: {error}") from error
    if ran.returncode != 0:
        last = (ran.stderr.strip() or ran.stdout.strip()).rpartition("\n")[2]
        raise SystemExit(f"dirac_site.py: {' '.join(command[:3])} failed: {last}")


if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        raise SystemExit("usage: python3 tests/support/dirac_site.py install")
    install()
