"""The sources of the settings, their order of precedence, and the errors for invalid settings."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from picas import CouchDB, config
from picas.exceptions import SettingsError

SECRET = "hunter2"


class Sources:
    """The files and variables that settings come from, in one folder, all absent at first."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.script_dir = folder / "scripts"
        self.ini = folder / "config" / "picas" / "config.ini"
        self.netrc = folder / "netrc"
        self._monkeypatch = monkeypatch
        self.script_dir.mkdir()
        self.ini.parent.mkdir(parents=True)
        for name in os.environ:
            if name.startswith("PICAS_"):
                monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(folder / "home"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        monkeypatch.setenv("NETRC", str(self.netrc))

    def load(self, **arguments: object) -> config.Settings:
        return config.load(script_dir=self.script_dir, **arguments)  # type: ignore[arg-type]

    def set_environment(self, **settings: str) -> None:
        for name, value in settings.items():
            self._monkeypatch.setenv(f"PICAS_{name}", value)

    def write_picasconfig(self, text: str, mode: int = 0o600) -> Path:
        return write(self.script_dir / "picasconfig.py", text, mode)

    def write_ini(self, text: str, mode: int = 0o600) -> Path:
        return write(self.ini, text, mode)

    def write_netrc(self, text: str, mode: int = 0o600) -> Path:
        return write(self.netrc, text, mode)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    return Sources(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert SECRET not in caplog.text


def fill(sources: Sources) -> None:
    """Set everything in every source, with different values."""
    sources.set_environment(HOST_URL="http://env", DATABASE="env", USERNAME="env", PASSWORD="env")
    sources.write_picasconfig(
        "PICAS_HOST_URL = 'http://py'\nPICAS_DATABASE = 'py'\nPICAS_USERNAME = 'py'\nPICAS_PASSWORD = 'py'\n"
    )
    sources.write_ini("[picas]\nhost_url = http://ini\ndatabase = ini\nusername = ini\npassword = ini\n")
    sources.write_netrc("default login ini password netrc\n")


def as_tuple(settings: config.Settings) -> tuple[str, str, str, str]:
    return settings.host_url, settings.database, settings.username, settings.password


# --- the order


def test_arguments_win_over_everything(sources: Sources) -> None:
    fill(sources)
    settings = sources.load(host_url="http://arg", database="arg", username="arg", password="arg")
    assert as_tuple(settings) == ("http://arg", "arg", "arg", "arg")


def test_the_environment_wins_over_files(sources: Sources) -> None:
    fill(sources)
    assert as_tuple(sources.load()) == ("http://env", "env", "env", "env")


def test_picasconfig_wins_over_the_user_s_file(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(sources)
    for name in ("HOST_URL", "DATABASE", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"PICAS_{name}")
    assert as_tuple(sources.load()) == ("http://py", "py", "py", "py")


def test_the_user_s_file_wins_over_netrc(sources: Sources) -> None:
    sources.write_ini("[picas]\nhost_url = http://ini\ndatabase = ini\nusername = ini\npassword = ini\n")
    sources.write_netrc("default login ini password netrc\n")
    assert as_tuple(sources.load()) == ("http://ini", "ini", "ini", "ini")


def test_the_password_comes_from_netrc_if_no_other_source_has_it(sources: Sources) -> None:
    sources.write_ini("[picas]\nhost_url = http://couch.example.org:6984\ndatabase = d\n")
    sources.write_netrc(f"machine couch.example.org login me password {SECRET}\n")
    assert as_tuple(sources.load())[2:] == ("me", SECRET)


def test_the_netrc_password_of_another_user_is_not_used(sources: Sources) -> None:
    sources.write_netrc(f"machine h login me password {SECRET}\n")
    with pytest.raises(SettingsError, match="Not set: PICAS_PASSWORD"):
        sources.load(host_url="http://h", database="d", username="you")


def test_each_setting_comes_from_the_first_source_that_has_it(sources: Sources) -> None:
    sources.set_environment(DATABASE="env", USERNAME="")
    sources.write_picasconfig("PICAS_HOST_URL = 'http://py'\nPICAS_USERNAME = ''\n")
    sources.write_ini("[picas]\nhost_url = http://ini\nusername = ini\npassword = 50%off\n")
    assert as_tuple(sources.load()) == ("http://py", "env", "ini", "50%off")


def test_values_are_converted_to_text(sources: Sources) -> None:
    sources.write_picasconfig(
        "PICAS_HOST_URL = 'http://h'\nPICAS_DATABASE = 2024\nPICAS_USERNAME = 5\nPICAS_PASSWORD = 12345\n"
    )
    assert as_tuple(sources.load()) == ("http://h", "2024", "5", "12345")


# --- where they come from


def test_the_settings_know_where_each_comes_from(sources: Sources) -> None:
    fill(sources)
    assert set(sources.load().origins.values()) == {"the environment"}
    sources.set_environment(HOST_URL="", USERNAME="", PASSWORD="")
    assert sources.load(database="arg").origins == {
        "host_url": str(sources.script_dir / "picasconfig.py"),
        "database": "an argument",
        "username": str(sources.script_dir / "picasconfig.py"),
        "password": str(sources.script_dir / "picasconfig.py"),
    }
    sources.write_picasconfig("PICAS_HOST_URL = 'http://py'\n")
    sources.write_ini("[picas]\ndatabase = ini\nssl_verification = false\n")
    sources.set_environment(DATABASE="")
    assert sources.load().origins == {
        "host_url": str(sources.script_dir / "picasconfig.py"),
        "database": str(sources.ini),
        "username": str(sources.netrc),
        "password": str(sources.netrc),
        "ssl_verification": str(sources.ini),
    }


def test_the_origin_of_a_password_names_its_file(sources: Sources, tmp_path: Path) -> None:
    path = write(tmp_path / "secret", SECRET)
    complete(sources, PASSWORD_FILE=str(path))
    assert sources.load().origins["password"] == f"{path}, which the environment names"
    sources.set_environment(PASSWORD_FILE="")
    sources.write_ini(f"[picas]\npassword_file = {path}\n")
    assert sources.load().origins["password"] == f"{path}, which {sources.ini} names"


def test_a_user_and_a_password_in_the_address_come_from_where_it_does(sources: Sources) -> None:
    sources.write_picasconfig(f"PICAS_HOST_URL = 'http://me:{SECRET}@h'\nPICAS_DATABASE = 'd'\n")
    assert set(sources.load().origins.values()) == {str(sources.script_dir / "picasconfig.py")}


def test_where_settings_come_from_is_no_part_of_them(sources: Sources) -> None:
    fill(sources)
    found = sources.load()
    same = config.Settings("http://env", "env", "env", "env")
    assert (found, repr(found), hash(found)) == (same, repr(same), hash(same))


# --- passwords


def complete(sources: Sources, **settings: str) -> None:
    sources.set_environment(**{"HOST_URL": "http://h", "DATABASE": "d", "USERNAME": "u", **settings})


def test_a_password_file(sources: Sources, tmp_path: Path) -> None:
    complete(sources, PASSWORD_FILE=str(write(tmp_path / "secret", f"{SECRET}\nnot this\n")))
    assert sources.load().password == SECRET


def test_a_password_file_below_the_home_folder(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "secret", SECRET)
    complete(sources, PASSWORD_FILE="~/secret")
    assert sources.load().password == SECRET


def test_a_password_wins_over_a_password_file_of_the_same_source(sources: Sources, tmp_path: Path) -> None:
    complete(sources, PASSWORD="plain", PASSWORD_FILE=str(tmp_path / "absent"))
    assert sources.load().password == "plain"


def test_a_password_file_of_a_higher_source_wins_over_a_password(sources: Sources, tmp_path: Path) -> None:
    sources.write_picasconfig("PICAS_PASSWORD = 'py'")
    complete(sources, PASSWORD_FILE=str(write(tmp_path / "secret", SECRET)))
    assert sources.load().password == SECRET


def test_credentials_are_removed_from_the_address(sources: Sources) -> None:
    settings = sources.load(host_url=f"https://me%40surf:{SECRET}%2F%3A%40@h:6984/", database="d")
    assert as_tuple(settings) == ("https://h:6984", "d", "me@surf", f"{SECRET}/:@")


def test_a_user_in_the_address_and_a_separate_password(sources: Sources) -> None:
    sources.set_environment(HOST_URL="http://me@h", DATABASE="d", PASSWORD=SECRET)
    assert as_tuple(sources.load())[2:] == ("me", SECRET)


def test_a_separate_user_and_that_user_s_password_in_the_address(sources: Sources) -> None:
    sources.set_environment(HOST_URL=f"http://me:{SECRET}@h", DATABASE="d", USERNAME="me")
    assert as_tuple(sources.load())[2:] == ("me", SECRET)


def test_a_separate_password_wins_over_one_in_the_address(sources: Sources, tmp_path: Path) -> None:
    sources.set_environment(HOST_URL="http://me:old@h", DATABASE="d", PASSWORD=SECRET)
    assert sources.load().password == SECRET
    sources.set_environment(PASSWORD="", PASSWORD_FILE=str(write(tmp_path / "secret", SECRET)))
    assert sources.load().password == SECRET


def test_the_password_of_another_user_in_the_address_is_not_used(sources: Sources) -> None:
    sources.set_environment(HOST_URL=f"http://other:{SECRET}@h", DATABASE="d")
    with pytest.raises(SettingsError, match="Not set: PICAS_PASSWORD"):
        sources.load(username="me")


def test_the_repr_of_the_settings_hides_the_password(sources: Sources) -> None:
    settings = sources.load(host_url=f"http://u:{SECRET}@h", database="d")
    assert settings.password == SECRET
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)


def test_a_password_in_utf_8_whatever_the_locale(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    complete(sources, PASSWORD="käse€")
    assert sources.load().password == "käse€"
    monkeypatch.setattr(os, "environ", {**os.environ, "PICAS_PASSWORD": "käse€".encode().decode("latin-1")})
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("latin-1"))  # as in a locale with Latin-1
    assert sources.load().password == "käse€"


def test_a_password_that_is_not_utf_8(sources: Sources) -> None:
    complete(sources, PASSWORD="k\udce4se")  # what Python makes of another encoding
    assert complaint(sources) == "PICAS_PASSWORD is not UTF-8 text"


# --- files that others can read


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
@pytest.mark.parametrize("source", ["picasconfig", "ini", "netrc", "password_file"])
def test_a_file_whose_password_others_can_read_gets_a_warning(
    sources: Sources, tmp_path: Path, caplog: pytest.LogCaptureFixture, source: str, mode: int
) -> None:
    complete(sources)
    if source == "picasconfig":
        path = sources.write_picasconfig(f"PICAS_PASSWORD = '{SECRET}'", mode)
    elif source == "ini":
        path = sources.write_ini(f"[picas]\npassword = {SECRET}\n", mode)
    elif source == "netrc":
        path = sources.write_netrc(f"machine h login u password {SECRET}\n", mode)
    else:
        path = write(tmp_path / "secret", SECRET, mode)
        sources.set_environment(PASSWORD_FILE=str(path))
    assert sources.load().password == SECRET
    (warning,) = [record for record in caplog.records if record.name.startswith("picas")]
    assert warning.levelno == logging.WARNING
    assert f"chmod 600 {path}" in warning.getMessage()


def test_a_private_file_gets_no_warning(sources: Sources, caplog: pytest.LogCaptureFixture) -> None:
    complete(sources)
    sources.write_picasconfig(f"PICAS_PASSWORD = '{SECRET}'", 0o600)
    assert sources.load().password == SECRET
    assert caplog.records == []


def test_only_the_file_that_the_password_came_from_is_checked(
    sources: Sources, caplog: pytest.LogCaptureFixture
) -> None:
    complete(sources, PASSWORD=SECRET)
    sources.write_picasconfig("PICAS_PASSWORD = 'py'", 0o644)
    sources.write_ini("[picas]\npassword = ini\n", 0o644)
    sources.write_netrc("default login u password netrc\n", 0o644)
    assert sources.load().password == SECRET
    assert caplog.records == []


# --- picasconfig.py is Python code

MARK = "open(__file__ + '.ran', 'w').close()\n"
"""Code that shows that it was run."""


def has_run(path: Path) -> bool:
    return path.with_name(path.name + ".ran").exists()


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file belong to another user than the one who reads it, and than root."""
    if os.geteuid() == 0:
        os.chown(path, 65534, -1, follow_symlinks=False)
    else:
        reader = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: reader)


def test_the_code_of_another_user_is_not_run(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sources.write_picasconfig(MARK)
    give_away(path, monkeypatch)
    text = complaint(sources)
    assert text.startswith(f"{path} is not used: it belongs to another user (uid ")
    assert "Copy it to a file of your own" in text
    assert not has_run(path)


def test_a_link_that_another_user_made_is_not_followed(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sources.script_dir / "picasconfig.py"
    path.symlink_to(write(tmp_path / "mine.py", MARK))
    give_away(path, monkeypatch)
    assert "it belongs to another user" in complaint(sources)
    assert not has_run(path)


@pytest.mark.parametrize("mode", [0o602, 0o620, 0o664, 0o666, 0o777])
def test_a_file_that_others_can_write_is_not_run(sources: Sources, mode: int) -> None:
    path = sources.write_picasconfig(MARK, mode)
    assert complaint(sources) == f"{path} is not used: others can write code into it. Run: chmod go-w {path}"
    assert not has_run(path)
    path.chmod(mode & ~0o022)
    assert complaint(sources).startswith("Not set")
    assert has_run(path)


def test_literals_of_a_file_that_others_can_write_are_not_used_either(sources: Sources) -> None:
    complete(sources)
    sources.write_picasconfig("PICAS_PASSWORD = 'theirs'", 0o620)
    sources.write_ini("[picas]\npassword = ini\n")
    assert "is not used" in complaint(sources)


def test_a_folder_in_which_everyone_can_replace_the_file(sources: Sources) -> None:
    path = sources.write_picasconfig(MARK)
    sources.script_dir.chmod(0o777)
    assert complaint(sources) == f"{path} is not used: everyone can replace it. Run: chmod o-w {path.parent}"
    assert not has_run(path)
    sources.script_dir.chmod(0o1777)  # like /tmp, where only its owner can replace a file
    assert complaint(sources).startswith("Not set")
    assert has_run(path)


@pytest.mark.parametrize("mode", [0o600, 0o602, 0o620, 0o000])
def test_a_file_is_left_alone_if_the_environment_has_all_settings(sources: Sources, mode: int) -> None:
    complete(sources, PASSWORD=SECRET)
    path = sources.write_picasconfig(MARK + "import os\nPICAS_PASSWORD = 'py'\n", mode)
    assert sources.load().password == SECRET
    assert not has_run(path)


def test_another_user_s_file_is_left_alone_if_the_environment_has_all_settings(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(sources, PASSWORD=SECRET)
    path = sources.write_picasconfig(MARK + "PICAS_SSL_VERIFICATION = False")
    give_away(path, monkeypatch)
    assert sources.load().ssl_verification is True
    assert not has_run(path)


def test_literals_are_read_without_running_them(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.exec", lambda *arguments: pytest.fail("the file was run"))
    sources.write_picasconfig(
        '"""My settings."""\n'
        "HOST = PICAS_HOST_URL = 'http://' 'h'\n"
        f"PICAS_DATABASE: str = 'd'\nPICAS_USERNAME = 'first'\nPICAS_USERNAME = 'u'\nPICAS_PASSWORD = '{SECRET}'\n"
        "PICAS_SSL_VERIFICATION = False\n"
    )
    settings = sources.load()
    assert as_tuple(settings) == ("http://h", "d", "u", SECRET)
    assert settings.ssl_verification is False


def test_a_file_that_computes_its_settings_is_run(sources: Sources) -> None:
    sources.write_picasconfig(
        "import os.path\nname = 'x'\nPICAS_HOST_URL = f'http://{name}'\nPICAS_DATABASE = os.path.basename('/a/d')\n"
        f"PICAS_USERNAME = 'u'\nif name:\n    PICAS_PASSWORD = '{SECRET}'\n"
    )
    assert as_tuple(sources.load()) == ("http://x", "d", "u", SECRET)


def test_computed_tls_verification_is_used_if_the_environment_has_the_other_settings(sources: Sources) -> None:
    complete(sources, PASSWORD="p")
    sources.write_picasconfig("import os\nPICAS_SSL_VERIFICATION = os.environ.get('ABSENT', 'false')")
    assert sources.load().ssl_verification is False


def test_a_file_that_cannot_be_read(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sources.write_picasconfig(MARK)

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read every file
    assert complaint(sources) == f"{path} can't be read: Permission denied"


# --- TLS


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("true", True),
        ("1", True),
        ("Yes", True),
        ("on", True),
        ("false", False),
        ("0", False),
        ("no", False),
        ("OFF", False),
    ],
)
def test_tls_verification_as_a_word(sources: Sources, value: str, expected: bool) -> None:
    complete(sources, PASSWORD="p", SSL_VERIFICATION=value)
    assert sources.load().ssl_verification is expected


def test_tls_is_verified_by_default(sources: Sources) -> None:
    complete(sources, PASSWORD="p")
    assert sources.load().ssl_verification is True


@pytest.mark.parametrize("number", [0, 1])
def test_tls_verification_in_python(sources: Sources, number: int) -> None:
    complete(sources, PASSWORD="p")
    for value in (number, bool(number)):
        sources.write_picasconfig(f"PICAS_SSL_VERIFICATION = {value}")
        assert sources.load().ssl_verification is bool(number)


def test_an_argument_that_turns_verification_off_wins(sources: Sources) -> None:
    complete(sources, PASSWORD="p", SSL_VERIFICATION="true")
    assert sources.load(ssl_verification=False).ssl_verification is False


def test_a_bundle_of_certificates(sources: Sources, tmp_path: Path) -> None:
    bundle = write(tmp_path / "ca.pem", "")
    complete(sources, PASSWORD="p", SSL_VERIFICATION=str(bundle))
    assert sources.load().ssl_verification == str(bundle)
    bundle.unlink()
    with pytest.raises(SettingsError, match=f"PICAS_SSL_VERIFICATION.*no file {bundle}"):
        sources.load()


# --- errors in one line


def complaint(sources: Sources, **arguments: object) -> str:
    """Return the text of the error, and assert that neither it nor its traceback holds a secret."""
    with pytest.raises(SettingsError) as caught:
        sources.load(**arguments)
    text = str(caught.value)
    assert "\n" not in text
    whole = "".join(traceback.format_exception(caught.type, caught.value, None))
    assert SECRET not in whole
    return text


def test_missing_settings_are_listed_with_the_ways_to_set_them(sources: Sources) -> None:
    text = complaint(sources)
    assert text.startswith("Not set: PICAS_HOST_URL, PICAS_DATABASE, PICAS_USERNAME, PICAS_PASSWORD. Set them in")
    assert "export PICAS_HOST_URL=" in text
    assert "picasconfig.py" in text
    assert str(sources.ini) in text


def test_one_missing_setting(sources: Sources) -> None:
    complete(sources, DATABASE="", PASSWORD=SECRET)
    assert complaint(sources).startswith("Not set: PICAS_DATABASE. Set it in")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"PICAS_PASSWORD = {SECRET}", "NameError in line 2"),  # the quotes are missing
        (f"PICAS_PASSWORD = '{SECRET}", "SyntaxError in line 2"),
        (f"PICAS_PASSWORD = {{}}['{SECRET}']", "KeyError in line 2"),
        (f"import {SECRET}", "ModuleNotFoundError in line 2"),
    ],
)
def test_a_picasconfig_that_cannot_run(sources: Sources, line: str, expected: str) -> None:
    path = sources.write_picasconfig(f"# settings\n{line}\n")
    assert complaint(sources) == f"{path} can't be run: {expected}"


def test_a_picasconfig_of_picas_1_without_the_extra(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    path = sources.write_picasconfig(
        "from picas.crypto import decrypt_password\nPICAS_PASSWORD = decrypt_password('x', 'y')\n"
    )
    expected = 'the package cryptography is missing: pip install "picas[legacy]"'
    assert complaint(sources) == f"{path} can't be run: {expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"password = {SECRET}\n", "MissingSectionHeader"),
        (f"[picas]\n{SECRET}\n", "ParsingError"),
        (f"[picas]\npassword = a\npassword = {SECRET}\n", "DuplicateOption"),
        (f"[other]\npassword = {SECRET}\n", r"no section \[picas\]"),
        (f"[picas]\npasword = {SECRET}\n", "unknown setting pasword; known are host_url, database, username, password"),
    ],
)
def test_a_bad_ini_file(sources: Sources, text: str, expected: str) -> None:
    path = sources.write_ini(text)
    told = complaint(sources)
    assert str(path) in told
    assert re.search(expected, told)


def test_files_that_are_not_text(sources: Sources, tmp_path: Path) -> None:
    sources.ini.write_bytes(b"\xff\xfe")
    assert complaint(sources) == f"{sources.ini} can't be read: it is not UTF-8 text"
    sources.ini.unlink()
    secret = tmp_path / "secret"
    secret.write_bytes(b"\xff\xfe")
    assert complaint(sources, password_file=str(secret)) == (
        f"The password file {secret} can't be read: it is not UTF-8 text"
    )


@pytest.mark.parametrize("content", ["", "\nsecond line\n"])
def test_an_empty_password_file(sources: Sources, tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "secret", content)
    assert complaint(sources, password_file=str(path)).startswith(f"The password file {path} is empty")


def test_a_missing_password_file(sources: Sources, tmp_path: Path) -> None:
    path = tmp_path / "absent"
    assert complaint(sources, password_file=str(path)) == (
        f"The password file {path} can't be read: No such file or directory"
    )


BAD_ADDRESSES = [
    "couch.example.org:6984",
    "ftp://h",
    "http://",
    "http://h:port",
    "http://h:99999",
    f"http://u:{SECRET}/x@h",
    f"http://u:1/{SECRET}@h",
    f"http://u:#{SECRET}@h",
    f"http://u:?{SECRET}@h",
]


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_an_invalid_address(sources: Sources, address: str) -> None:
    assert complaint(sources, host_url=address).startswith("PICAS_HOST_URL is invalid: the address ")


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_the_client_refuses_an_invalid_address_too(address: str) -> None:
    with pytest.raises(ValueError, match=r"^the address ") as caught:
        CouchDB(address, "db")
    assert SECRET not in str(caught.value)


# --- writing them


def test_saved_settings_are_found(sources: Sources) -> None:
    values = {"host_url": "http://a", "database": "d", "username": "u", "password": f"%{SECRET}; #="}
    assert config.save(values) == sources.ini
    assert as_tuple(sources.load()) == ("http://a", "d", "u", f"%{SECRET}; #=")
    assert sources.ini.stat().st_mode & 0o777 == 0o600


def test_what_is_not_saved_stays(sources: Sources) -> None:
    frame = "# a\n[other]\ndatabase = o\n\n[picas]\n; b\n{}\n[last]\nx = 1\n"
    before = frame.format("Database: old\nusername = u\n  v\npassword_file = f\n")
    after = frame.format("database = new\nusername = w\nhost_url = h\n")
    sources.write_ini(before, 0o644)
    config.save({"database": "new", "username": "w", "host_url": "h", "password_file": None})
    assert sources.ini.read_text() == after
    assert sources.ini.stat().st_mode & 0o777 == 0o600


def test_saving_makes_the_folder_and_the_section(sources: Sources) -> None:
    sources.ini.parent.rmdir()
    config.save({"database": "d"})
    assert sources.ini.read_text() == "[picas]\ndatabase = d\n"
    assert sources.ini.parent.stat().st_mode & 0o777 == 0o700
    sources.write_ini("[other]\na = 1\n")
    config.save({"database": "d"})
    assert sources.ini.read_text() == "[other]\na = 1\n\n[picas]\ndatabase = d\n"


@pytest.mark.parametrize("value", [" a", "a ", "a\nb = c", "a\n[other]"])
def test_a_value_that_an_ini_file_can_not_hold_is_not_saved(sources: Sources, value: str) -> None:
    sources.write_ini("[picas]\ndatabase = d\n")
    with pytest.raises(SettingsError, match="can't hold this PICAS_PASSWORD"):
        config.save({"password": value})
    assert sources.ini.read_text() == "[picas]\ndatabase = d\n"


def test_a_file_that_can_not_be_written_is_left_alone(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    sources.write_ini("[picas]\ndatabase = d\n")
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        config.save({"database": "e"})
    assert sources.ini.read_text() == "[picas]\ndatabase = d\n"
    assert [path.name for path in sources.ini.parent.iterdir()] == ["config.ini"]


def test_finding_settings_needs_none(sources: Sources) -> None:
    assert as_tuple(config.find(script_dir=sources.script_dir)) == ("", "", "", "")
    sources.set_environment(DATABASE="d")
    settings = config.find(script_dir=sources.script_dir)
    assert (settings.database, dict(settings.origins)) == ("d", {"database": "the environment"})


@pytest.mark.parametrize(
    ("source", "is_written"),
    [("environment", False), ("picasconfig", False), ("netrc", False), ("ini", True), ("file", True)],
)
def test_another_password_is_written_to_the_files_of_picas(sources: Sources, source: str, is_written: bool) -> None:
    config.save({"host_url": "http://a", "database": "d", "username": "u"})
    if source == "environment":
        sources.set_environment(PASSWORD=SECRET)
    elif source == "picasconfig":
        sources.write_picasconfig(f"PICAS_PASSWORD = {SECRET!r}\n")
    elif source == "netrc":
        sources.write_netrc(f"machine a login u password {SECRET}\n")
    elif source == "ini":
        config.save({"password": SECRET})
    else:
        file = write(sources.script_dir / "secret", f"{SECRET}\n")
        config.save({"password_file": str(file)})
    write_password = sources.load().write_password
    assert (write_password is not None) == is_written
    if write_password is not None:
        write_password("another")
        assert sources.load().password == "another"
