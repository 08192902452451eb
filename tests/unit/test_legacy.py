"""What picas 1.1 had for settings: `picas.crypto`, `picas.picas_config`, and its files, which `config.load` finds."""

from __future__ import annotations

import stat
import sys
from argparse import Namespace

import pytest

from picas import config, crypto
from picas.exceptions import MissingPackage, SettingsError
from picas.picas_config import PICAS_CONFIG_SCHEMA, PicasConfig, PicasConfigSchemaError

yaml = pytest.importorskip("yaml")
fernet = pytest.importorskip("cryptography.fernet")

# As picas-cli of picas 1.1.0 has written them.
CONF = """\
database: mypool
encrypted_password: gAAAAABrDFZUWPUt7m4xDxhh7JGffXnmA21jDZphb4t9DJ3\
_YGIeqZVU-pkXwlJZChIFarP1Csr4Z7-JiW-vIN1yNo3iermgLu3_0LJ8gBrVq78vpOcVJt0=
host_url: https://couch.example.org:6984
username: ann
"""
KEY = "CIzc5PstKQ7lccSnlANIwA3WY4VFSaT6TzreJIX65JY="
PASSWORD = "pässw0rd of 1.1"

PICASCONFIG = """\
from picas.picas_config import PicasConfig
from picas.crypto import decrypt_password

_config = PicasConfig(load=True)
PICAS_HOST_URL = _config.config['host_url']
PICAS_DATABASE = _config.config['database']
PICAS_USERNAME = _config.config['username']
PICAS_PASSWORD = decrypt_password(_config.config['encrypted_password']).decode()
"""
ARGUMENTS = Namespace(host_url="http://localhost:5984", database="d", username="ann", password="s3cret")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder for the files, in a home that is empty otherwise."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in config.NAMES.values():
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / ".config" / "picas"
    monkeypatch.setattr(crypto, "CRYPTO_KEY_PATH", str(path / "key.dat"))
    monkeypatch.setattr("picas.crypto.generate_and_save_key.__defaults__", (str(path / "key.dat"), True))
    return path


@pytest.fixture
def recorded(folder):
    folder.mkdir(parents=True)
    (folder / "conf.yml").write_text(CONF)
    (folder / "key.dat").write_text(KEY)
    return folder


class TestCrypto:
    def test_what_is_encrypted_is_decrypted_again(self, folder):
        crypto.generate_and_save_key()
        encrypted = crypto.encrypt_password(b"s3cret")
        assert isinstance(encrypted, bytes)
        assert b"s3cret" not in encrypted
        assert crypto.decrypt_password(encrypted) == crypto.decrypt_password(encrypted.decode()) == b"s3cret"

    def test_reads_what_picas_1_has_written(self, recorded):
        assert crypto.read_key() == KEY.encode()
        assert crypto.decrypt_password(yaml.safe_load(CONF)["encrypted_password"]).decode() == PASSWORD

    def test_a_key_of_the_callers(self):
        key = fernet.Fernet.generate_key()
        assert crypto.decrypt_password(crypto.encrypt_password(b"a", key), key) == b"a"
        with pytest.raises(fernet.InvalidToken):
            crypto.decrypt_password(crypto.encrypt_password(b"a", key), KEY)

    def test_only_this_user_can_read_the_key(self, folder):
        crypto.generate_and_save_key()
        assert stat.S_IMODE((folder / "key.dat").stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_a_key_that_exists_stays_unless_the_user_wants_another(self, recorded, monkeypatch):
        path = recorded / "key.dat"
        crypto.generate_and_save_key(str(path))
        monkeypatch.setattr("builtins.input", lambda question: "n")
        crypto.generate_and_save_key(str(path), skip_if_exists=False)
        assert path.read_text() == KEY
        monkeypatch.setattr("builtins.input", lambda question: "y")
        crypto.generate_and_save_key(str(path), skip_if_exists=False)
        assert path.read_text() != KEY

    def test_without_a_key(self, folder):
        with pytest.raises(FileNotFoundError):
            crypto.read_key()


class TestPicasConfig:
    def test_reads_what_picas_1_has_written(self, recorded):
        assert PicasConfig().config == yaml.safe_load(CONF)

    def test_writes_what_picas_1_reads(self, folder):
        PicasConfig(load=False).save_config(ARGUMENTS)
        text = (folder / "conf.yml").read_text()
        content = yaml.safe_load(text)
        assert text == yaml.safe_dump(content, default_flow_style=False)
        assert fernet.Fernet((folder / "key.dat").read_bytes()).decrypt(content.pop("encrypted_password")) == b"s3cret"
        assert content == {"host_url": "http://localhost:5984", "database": "d", "username": "ann"}
        assert stat.S_IMODE((folder / "conf.yml").stat().st_mode) == 0o600

    def test_asks_for_a_password_that_is_not_given(self, folder, monkeypatch):
        monkeypatch.setattr("getpass.getpass", lambda question: "typed")
        settings = PicasConfig(load=False)
        settings.save_config(Namespace(**{**vars(ARGUMENTS), "password": None}))
        assert crypto.decrypt_password(settings.config["encrypted_password"]) == b"typed"

    def test_another_file(self, folder, tmp_path):
        path = str(tmp_path / "deep" / "conf.yml")
        PicasConfig(path, load=False).save_config(ARGUMENTS)
        assert PicasConfig(config_path=path).config["username"] == "ann"

    def test_a_picasconfig_of_picas_1_runs_unchanged(self, recorded, tmp_path, capfd):
        (tmp_path / "picasconfig.py").write_text(PICASCONFIG)
        (tmp_path / "picasconfig.py").chmod(0o600)
        settings = config.load(script_dir=tmp_path)
        assert (settings.database, settings.username, settings.password) == ("mypool", "ann", PASSWORD)
        assert capfd.readouterr() == ("", "")

    def test_its_text_hides_the_password(self, recorded):
        text = str(PicasConfig())
        assert text.startswith("PicasConfig:\ndatabase: mypool\nencrypted_password: '***masked***'\n")
        assert str(PicasConfig(load=False)) == "PicasConfig: No configuration loaded"

    def test_a_file_that_does_not_exist(self, folder):
        with pytest.raises(FileNotFoundError, match="configuration file not found"):
            PicasConfig()

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"username": None}, "'username' is not a string"),
            ({"host": "a"}, "'host' is not a known property"),
            ({"database": ...}, "'database' is a required property"),
        ],
    )
    def test_settings_that_do_not_fit_the_schema(self, changes, problem):
        settings = {name: value for name, value in {**yaml.safe_load(CONF), **changes}.items() if value is not ...}
        with pytest.raises(PicasConfigSchemaError) as caught:
            PicasConfig(load=False).validate_config(settings)
        assert caught.value.message == str(caught.value) == f"configuration validation failed: {problem}"

    def test_a_file_with_something_else(self, recorded):
        (recorded / "conf.yml").write_text("just a text")
        with pytest.raises(PicasConfigSchemaError):
            PicasConfig()

    def test_the_schema_is_one(self):
        jsonschema = pytest.importorskip("jsonschema")
        jsonschema.validate(yaml.safe_load(CONF), PICAS_CONFIG_SCHEMA)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({}, PICAS_CONFIG_SCHEMA)

    def test_a_password_needs_one_to_change(self):
        with pytest.raises(ValueError, match="No encrypted password"):
            PicasConfig(load=False).change_password(Namespace(new_password="a"))


class TestLoad:
    def test_finds_the_file(self, recorded, tmp_path):
        settings = config.load(script_dir=tmp_path)
        assert settings.host_url == "https://couch.example.org:6984"
        assert (settings.database, settings.username, settings.password) == ("mypool", "ann", PASSWORD)
        assert settings.origins["password"] == str(recorded / "conf.yml")

    def test_config_ini_comes_first(self, recorded, tmp_path):
        config.save({"database": "newer"})
        assert config.load(script_dir=tmp_path).database == "newer"

    def test_is_left_alone_if_nothing_is_missing(self, recorded, tmp_path, monkeypatch):
        (recorded / "conf.yml").write_text("{")
        for name in config.REQUIRED:
            monkeypatch.setenv(config.NAMES[name], "http://a" if name == "host_url" else "a")
        assert config.load(script_dir=tmp_path).database == "a"

    def test_writes_another_password_to_it(self, recorded, tmp_path):
        config.load(script_dir=tmp_path).write_password("new-s3cret")
        assert config.load(script_dir=tmp_path).password == "new-s3cret"
        assert PicasConfig().config["username"] == "ann"

    @pytest.mark.parametrize(("module", "package"), [("yaml", "PyYAML"), ("cryptography.fernet", "cryptography")])
    def test_names_the_package_that_lacks(self, recorded, tmp_path, monkeypatch, module, package):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(SettingsError, match=rf"{package} is missing: pip install \"picas\[legacy\]\"$"):
            config.load(script_dir=tmp_path)
        with pytest.raises(MissingPackage):
            crypto.decrypt_password(b"") if package == "cryptography" else PicasConfig()

    def test_another_key(self, recorded, tmp_path):
        (recorded / "key.dat").write_bytes(fernet.Fernet.generate_key())
        with pytest.raises(SettingsError, match=r"does not decrypt the password: run picas init$"):
            config.load(script_dir=tmp_path)

    def test_no_key(self, recorded, tmp_path):
        (recorded / "key.dat").unlink()
        with pytest.raises(SettingsError, match=r"key\.dat can't be read: No such file"):
            config.load(script_dir=tmp_path)

    def test_no_yaml(self, recorded, tmp_path):
        (recorded / "conf.yml").write_text("{")
        with pytest.raises(SettingsError, match="is not valid YAML"):
            config.load(script_dir=tmp_path)
