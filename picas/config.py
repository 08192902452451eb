"""Settings: the server, the database and the user, and times in seconds.

Each setting of the connection is taken from the first source that has it: arguments, the environment, `picasconfig.py`
beside the script, `~/.config/picas/config.ini` (section `[picas]`), `~/.netrc` for the password, and
`~/.config/picas/conf.yml` with `key.dat`, which picas 1.1 wrote.

Python code runs with all rights of the user. So `picasconfig.py` is used only if it belongs to the user or to root and
nobody else may write to it, and it is run only if it sets a missing setting and is more than a list of literals.
"""

from __future__ import annotations

import ast
import configparser
import math
import netrc
import os
import re
import shlex
import stat
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlsplit

from . import crypto
from .exceptions import PicasError, SettingsError
from .picaslogger import get_logger
from .util import split_credentials, write_private

log = get_logger(__name__)

NAMES = {
    "host_url": "PICAS_HOST_URL",
    "database": "PICAS_DATABASE",
    "username": "PICAS_USERNAME",
    "password": "PICAS_PASSWORD",
    "password_file": "PICAS_PASSWORD_FILE",
    "ssl_verification": "PICAS_SSL_VERIFICATION",
}
"""For each setting, its name in config.ini and its name in the environment and in picasconfig.py."""

REQUIRED = ("host_url", "database", "username", "password")
SECRET = ("PICAS_PASSWORD", "PICAS_PASSWORD_FILE", "PICAS_NOTIFY")
"""The variables of the environment that a program gets only if it needs the pool."""


@dataclass(frozen=True)
class Settings:
    """How to reach the pool.

    `ssl_verification` is True, False, or the path of a bundle of CA certificates. The repr leaves out the password.
    """

    host_url: str
    database: str
    username: str
    password: str = field(repr=False)
    ssl_verification: bool | str = True
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Where each setting that was found comes from, for people, by its name in this class."""
    write_password: Callable[[str], None] | None = field(default=None, repr=False, compare=False)
    """Writes another password to the file that this one comes from, and raises SettingsError or OSError if it can't;
    None if the password comes from a source that PiCaS does not write."""


def load(
    *,
    host_url: str | None = None,
    database: str | None = None,
    username: str | None = None,
    password: str | None = None,
    password_file: str | None = None,
    ssl_verification: bool | str | None = None,
    script_dir: Path | None = None,
) -> Settings:
    """Find the settings, each in the first source that has it. An empty string counts as not set.

    If the file with the password can be read by others, a warning is logged.

    :param host_url: the server, e.g. "https://couch.example.org:6984"; if it contains a user and a password, they are
        used, and removed from it
    :param database: the database's name
    :param username: the user's name
    :param password: the user's password
    :param password_file: a file whose first line is the password
    :param ssl_verification: True, False or the path of a CA bundle
    :param script_dir: the folder in which to look for picasconfig.py, by default that of the running script
    :raises SettingsError: if a setting is missing or invalid, or if a source can't be read; the message is one line
        that says what to do
    """
    arguments = {
        "host_url": host_url,
        "database": database,
        "username": username,
        "password": password,
        "password_file": password_file,
        "ssl_verification": ssl_verification,
    }
    found, origins = _find(arguments, script_dir)
    missing = _missing(found)
    if missing:
        where = "beside the script" if script_dir is None else f"in {script_dir}"
        raise SettingsError(
            f"Not set: {', '.join(missing)}. Set {'it' if len(missing) == 1 else 'them'} in picasconfig.py {where}, in "
            f"the environment (export {missing[0]}=…), or in {_ini_path()} (picas init writes it)"
        )
    for name in REQUIRED:
        if not _is_text(found[name]):
            raise SettingsError(f"{NAMES[name]} is not UTF-8 text")
    return _settings(found, origins)


def find(*, script_dir: Path | None = None) -> Settings:
    """Find the settings as `load` does, though some of them may be missing: these are ''.

    :param script_dir: see `load`
    :raises SettingsError: if a source is invalid or can't be read
    """
    return _settings(*_find({}, script_dir))


def _find(arguments: Mapping[str, Any], script_dir: Path | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings that the sources have, and where each comes from."""
    found: dict[str, Any] = {}
    origins: dict[str, str] = {}
    _take(found, origins, arguments, "an argument")
    _take(found, origins, {name: _variable(variable) for name, variable in NAMES.items()}, "the environment")
    _take(found, origins, *_from_picasconfig(script_dir or _script_dir(), found))
    _take(found, origins, *_from_ini(is_needed=bool(_missing(found))), _save_password)
    _take_from_netrc(found, origins)
    if _missing(found):
        _take(found, origins, *_from_legacy(found), crypto.write_password)
    return found, origins


def _settings(found: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    return Settings(
        **{name: found.get(name, "") for name in REQUIRED},
        ssl_verification=_verification(found.get("ssl_verification", True)),
        origins={name: origins[name] for name in NAMES if name in origins},
        write_password=found.get("write_password"),
    )


def without_password(variables: Mapping[str, str]) -> dict[str, str]:
    """Return variables of the environment without the pool's password, and without credentials in its address."""
    kept = {name: value for name, value in variables.items() if name not in SECRET}
    address = kept.get(NAMES["host_url"], "")
    if "@" in address:
        try:
            kept[NAMES["host_url"]] = split_credentials(address)[0]
        except ValueError:  # any part of it may be the password
            del kept[NAMES["host_url"]]
    return kept


def without_inherited_password(given: Mapping[str, str], pass_settings: bool) -> Mapping[str, str]:
    """Return variables that a caller gives a program, such as a copy of `os.environ`, without the password in it.

    :param given: the variables. What differs from this process's environment is the caller's wish, and stays
    :param pass_settings: whether the password stays in any case
    """
    if pass_settings:
        return given
    safe = without_password(given)
    return {
        name: value if value != os.environ.get(name) else safe[name]
        for name, value in given.items()
        if value != os.environ.get(name) or name in safe
    }


def _variable(name: str) -> str | None:
    """Return a variable of the environment, None if it is not set. The locale of a worker node may know no UTF-8."""
    value = os.environ.get(name)
    try:
        return value and os.fsencode(value).decode("utf-8")
    except UnicodeError:
        return value


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _missing(found: Mapping[str, Any]) -> list[str]:
    """Return the variables of the settings that no source has had so far."""
    return [NAMES[name] for name in REQUIRED if name not in found]


def _take(
    found: dict[str, Any],
    origins: dict[str, str],
    values: Mapping[str, Any],
    origin: Path | str,
    write_password: Callable[[str], None] | None = None,
) -> None:
    """Add the values of one source to what earlier sources had.

    :param found: is extended
    :param origins: is extended with the origin of what is added to `found`
    :param origin: the file that the values come from, or another source's name for people
    :param write_password: writes a password to that source, if that is possible
    """
    values = {name: value for name, value in values.items() if value not in (None, "")}
    if "host_url" not in found and "host_url" in values:
        found["host_url"], user_in_url, password_in_url = _split(str(values["host_url"]))
        user = found.get("username") or values.get("username") or user_in_url
        if user_in_url and user == user_in_url:  # else the password in it is another user's
            values["username"] = user_in_url
            if password_in_url and "password_file" not in values:
                values.setdefault("password", password_in_url)
    if "password" not in found:
        if "password" in values:
            found["password"] = str(values["password"])
            found["write_password"] = write_password
            if isinstance(origin, Path):
                _warn_if_readable_by_others(origin)
        elif "password_file" in values:
            path = _expanded(str(values["password_file"]))
            found["password"] = _read_password(path)
            found["write_password"] = partial(_write_password_file, path)
            origins["password"] = f"{path}, which {origin} names"
    for name in ("database", "username", "ssl_verification"):
        if name in values:
            value = values[name]
            found.setdefault(name, value if isinstance(value, bool) else str(value))
    for name in found:
        origins.setdefault(name, str(origin))


def _split(url: str) -> tuple[str, str, str]:
    try:
        return split_credentials(url)
    except ValueError as error:
        raise SettingsError(f"{NAMES['host_url']} is invalid: {error}") from None


def _read_password(path: Path) -> str:
    try:
        password = path.read_text(encoding="utf-8").splitlines()[:1]
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The password file {path} can't be read: {_why_unreadable(error)}") from None
    if not password or not password[0]:
        raise SettingsError(f"The password file {path} is empty: its first line must be the password")
    _warn_if_readable_by_others(path)
    return password[0]


def _write_password_file(path: Path, password: str) -> None:
    """Write another password to the first line of a file."""
    rest = path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]
    write_private(path, "".join([f"{password}\n", *rest]))


def _why_unreadable(error: OSError | UnicodeDecodeError) -> str:
    return str(error.strerror) if isinstance(error, OSError) else "it is not UTF-8 text"


def _script_dir() -> Path:
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(main).resolve().parent if main else Path.cwd()


def _from_picasconfig(folder: Path, found: Mapping[str, Any]) -> tuple[dict[str, Any], Path]:
    """Return what picasconfig.py sets.

    :param found: what earlier sources had. If nothing is missing, a file that can't be trusted or read is left alone
    """
    path = folder / "picasconfig.py"
    is_missing = bool(_missing(found))
    try:
        if not path.is_file():
            return {}, path
        with path.open("rb") as file:
            danger = _danger(path, os.fstat(file.fileno()))
            source = b"" if danger else file.read()
    except OSError as error:
        danger = f"{path} can't be read: {_why_unreadable(error)}"
    if danger:
        if is_missing:
            raise SettingsError(danger)
        log.debug("%s", danger)
        return {}, path
    try:
        tree = ast.parse(source, str(path))
        content = _literals(tree)
        if content is None and (is_missing or _sets_verification(tree, found)):
            content = {"__name__": "picasconfig", "__file__": str(path)}
            exec(compile(tree, str(path), "exec"), content)  # not the file, which may have changed since the check
    except PicasError as error:  # picas.crypto, for example, names what is not installed
        raise SettingsError(f"{path} can't be run: {error}") from None
    except Exception as error:
        # The error's own message may quote the password: name 'secret' is not defined.
        raise SettingsError(f"{path} can't be run: {type(error).__name__}{_place(error, path)}") from None
    return {name: (content or {}).get(variable) for name, variable in NAMES.items()}, path


def _danger(path: Path, opened: os.stat_result) -> str:
    """Return a line about why the code in a file may be another user's, and what to do; "" if it is not.

    A folder that everyone may write to counts as well, unless only a file's owner may rename it there (as in /tmp):
    another user can rename a file of mine whose content is theirs, such as a log.
    """
    mine = (os.geteuid(), 0)
    owners = [owner for owner in (path.lstat().st_uid, opened.st_uid) if owner not in mine]
    if owners:
        return (
            f"{path} is not used: it belongs to another user (uid {owners[0]}), whose code would run with your "
            "rights. Copy it to a file of your own, or set its settings in the environment"
        )
    if opened.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{path} is not used: others can write code into it. Run: chmod go-w {shlex.quote(str(path))}"
    folder = path.parent.stat().st_mode
    if folder & stat.S_IWOTH and not folder & stat.S_ISVTX:
        return f"{path} is not used: everyone can replace it. Run: chmod o-w {shlex.quote(str(path.parent))}"
    return ""


def _literals(tree: ast.Module) -> dict[str, Any] | None:
    """Return what a module assigns to names, None if it does anything else than assign literals."""
    values: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        else:
            return None
        try:
            value = ast.literal_eval(node.value)  # type: ignore[arg-type]  # an annotation alone has none
        except (TypeError, ValueError):
            return None
        for target in targets:
            if not isinstance(target, ast.Name):
                return None
            values[target.id] = value
    return values


def _sets_verification(tree: ast.Module, found: Mapping[str, Any]) -> bool:
    """Return whether a module sets how certificates are checked, and no earlier source has."""
    name = NAMES["ssl_verification"]
    return "ssl_verification" not in found and any(
        isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree)
    )


def _place(error: Exception, path: Path) -> str:
    """Return the line of a file in which an error occurred, as far as it is known."""
    if isinstance(error, SyntaxError):
        return f" in line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" in line {lines[-1]}" if lines else ""


def _expanded(text: str) -> Path:
    """Return a path with "~" replaced by the user's home folder.

    :raises SettingsError: if nobody knows that
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise SettingsError(f"There is no home folder for {text}: set HOME, or give the whole path") from None


def _ini_path() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config") / "picas" / "config.ini"


def _from_ini(is_needed: bool) -> tuple[dict[str, Any], Path]:
    """Return what config.ini sets, and its path.

    :param is_needed: whether a setting is missing; if not, a file that can't be read is left alone
    """
    parser = configparser.ConfigParser(interpolation=None)
    path = _ini_path()
    try:
        path = path.expanduser()
    except RuntimeError:  # a user without a home folder has no such file
        return {}, path
    try:
        if not path.is_file():
            return {}, path
        parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and not is_needed:
            log.info("%s can't be read: %s", path, _why_unreadable(error))
            return {}, path
        raise SettingsError(f"{path} can't be read: {_why_unreadable(error)}") from error
    except configparser.Error as error:
        # The error's own message may quote the line that holds the password.
        raise SettingsError(f"{path} is not a valid ini file ({type(error).__name__})") from None
    if not parser.has_section("picas"):
        raise SettingsError(f"{path} has no section [picas]")
    unknown = set(parser["picas"]) - set(NAMES)
    if unknown:
        raise SettingsError(f"{path} has an unknown setting {sorted(unknown)[0]}; known are {', '.join(NAMES)}")
    return dict(parser["picas"]), path


def save(values: Mapping[str, str | None]) -> Path:
    """Write settings to config.ini, which only this user can read afterwards, and return its path.

    Its other settings, its other sections and its comments stay.

    :param values: the settings by their names in `NAMES`; None removes one
    :raises SettingsError: if the file can't be read, or can't hold a value
    :raises OSError: if it can't be written
    """
    path = _expanded(str(_ini_path()))
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} can't be read: {_why_unreadable(error)}") from None
    changed = _with_values(text, values)
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(changed)
        unsaved = [name for name, value in values.items() if parser["picas"].get(name) != value]
    except configparser.Error:
        unsaved = list(values)
    if unsaved:
        raise SettingsError(
            f"{path} can't hold this {NAMES[unsaved[0]]}: change the file with an editor; a password can be in a file "
            "of its own, which is named there (password_file = FILE)"
        )
    write_private(path, changed)
    return path


def _with_values(text: str, values: Mapping[str, str | None]) -> str:
    """Return the text of an ini file with other values in its section [picas]."""
    lines = text.splitlines()
    if "[picas]" not in map(str.strip, lines):
        lines += [""] * bool(lines) + ["[picas]"]
    begin = [line.strip() for line in lines].index("[picas]") + 1
    end = next((number for number in range(begin, len(lines)) if lines[number].startswith("[")), len(lines))
    section, left = [], {name: value for name, value in values.items() if value is not None}
    is_replaced = False
    for line in lines[begin:end]:
        if is_replaced and line[:1].isspace() and line.strip():
            continue  # the value went on in this line
        found = re.match(r"([^\s=:#;]+)\s*[=:]", line)
        name = found.group(1).lower() if found else ""
        is_replaced = name in values
        if not is_replaced:
            section.append(line)
        elif name in left:
            section.append(f"{name} = {left.pop(name)}")
    while section and not section[-1].strip():
        section.pop()
    section += [f"{name} = {value}" for name, value in left.items()]
    after = ["", *lines[end:]] if lines[end:] else []
    return "\n".join([*lines[:begin], *section, *after]) + "\n"


def _save_password(password: str) -> None:
    """Write another password to config.ini."""
    save({"password": password})


def _take_from_netrc(found: dict[str, Any], origins: dict[str, str]) -> None:
    """Add the password from ~/.netrc (or $NETRC), and the user, if no other source has a password."""
    if "password" in found or "host_url" not in found:
        return
    path = Path(os.environ.get("NETRC") or "~/.netrc")
    entry = _netrc_entry(path, found["host_url"])
    if entry is None or found.setdefault("username", entry[0]) != entry[0]:
        return
    found["password"] = entry[1]
    path = path.expanduser()
    for name in ("username", "password"):
        origins.setdefault(name, str(path))
    _warn_if_readable_by_others(path)


def _netrc_entry(path: Path, url: str) -> tuple[str, str] | None:
    """Return user and password for a server in a file like ~/.netrc, None if it has none, or can't be read."""
    try:
        entry = netrc.netrc(path.expanduser()).authenticators(urlsplit(url).hostname or "")
    except (OSError, ValueError, RuntimeError, netrc.NetrcParseError):
        return None
    return (entry[0] or entry[1] or "", entry[2]) if entry and entry[2] else None


def _from_legacy(found: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return what the file of picas 1.1 sets, and its path.

    :param found: what other sources had: the password is decrypted only if it is missing
    """
    try:
        path = Path(crypto.SETTINGS_FILE).expanduser()
    except RuntimeError:  # a user without a home folder has no such file
        return {}, crypto.SETTINGS_FILE
    if not path.is_file():
        return {}, str(path)
    try:
        content = crypto.read_settings(path)
        if not isinstance(content, dict):
            return {}, str(path)
        values = {name: content.get(name) for name in ("host_url", "database", "username")}
        if "password" not in found and content.get("encrypted_password"):
            values["password"] = crypto.decrypted_text(content["encrypted_password"])
    except PicasError as error:
        raise SettingsError(f"{path} of picas 1.1 can't be used: {error}") from None
    except OSError as error:
        raise SettingsError(f"{error.filename} can't be read: {error.strerror}") from None
    return values, str(path)


def _verification(value: bool | str) -> bool | str:
    """Return the TLS setting: True, False, or the path of an existing CA bundle."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    path = _expanded(value)
    if not path.exists():
        raise SettingsError(f"PICAS_SSL_VERIFICATION must be true, false or a CA bundle; there is no file {path}")
    return str(path)


def _warn_if_readable_by_others(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("Others can read the password in %s. Run: chmod 600 %s", path, path)


def duration(given: float | None, variable: str, default: float, *, least: float = 0.0) -> float:
    """Return a time in seconds, from an argument or else from the environment.

    :param given: the argument; None if it was not given
    :param variable: the variable in the environment that is used instead, e.g. "PICAS_GRACE" for the argument `grace`
    :param default: used if neither is set
    :param least: the smallest value allowed
    :raises SettingsError: if the value is not a number, or is smaller than `least`
    """
    value: object = given
    name = f"the argument {variable[len('PICAS_') :].lower()}"
    if given is None:
        value, name = os.environ.get(variable) or default, variable
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = math.nan
    if not least <= seconds:  # false for NaN too
        raise SettingsError(f"{name} must be a number of seconds, at least {least:g}, not {value!r}")
    return seconds
