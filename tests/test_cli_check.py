"""`dsfast check`: what it finds, and that it starts nothing."""

import functools
import json
import os
import socket

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from dsfast.cli.tls_check import TlsError, check_certificate
from tests import certificates
from tests.certificates import DAY
from tests.commands import run


@pytest.fixture
def check(tmp_path):
    """Checks a configuration; exit code and the lines that are told."""

    def check(content, *options, **environment):
        file = tmp_path / "config.yml"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        done = run("check", "-c", file, *options, cwd=tmp_path, **environment)
        assert done.stderr == ""
        return done.returncode, done.stdout.replace(f"{tmp_path}/", "").splitlines()

    return check


def test_without_a_file_the_defaults_are_checked(tmp_path):
    done = run("check", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "no configuration file, the defaults: ok\n"


def test_a_good_file(check):
    users = {"ada": {"password": "rCOSZxJrgze2AZdVQh12c6ErDMOG0M+Rx5Yu7S5d91c=GS4SbTQYmoaGwjm2shEobg=="}}
    options = {"users": users, "hash": "sha512", "iterations": 100_000, "keyLength": 32}
    code, lines = check({"serverName": "a", "auth": [{"type": "file", "options": options}]})
    assert (code, lines) == (0, ["config.yml: ok"])


def test_every_problem_of_the_file_is_listed_with_its_line(check):
    code, lines = check("foo: 1\nlogLevel: 7\nrpc:\n  ackTimeout: soon\n")
    assert code == 1
    assert lines[-1] == "config.yml: 3 errors, 0 warnings"
    assert [line.rpartition("(")[2] for line in lines[:-1]] == [
        "config.yml, line 1)",
        "config.yml, line 2)",
        "config.yml, line 4)",
    ]
    assert lines[0].startswith("error: Property foo is not expected to be here")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a: [", "line"),
        ("- a", "must be a mapping"),
        (
            "auth: {type: file, options: {users: fileLoad(nix.yml)}}",
            "missing file nix.yml for fileLoad(nix.yml)",
        ),
        ("auth: {type: file, options: {users: {}}}", "/auth/0: no users present in user file"),
        ("auth: {type: file, options: {users: {ada: {}}}}", "missing password for ada"),
        ("auth: {type: file, options: {users: {ada: {password: x}}, hash: no}}", "Missing key iterations"),
        (
            "auth: {type: storage, options: {table: u, hash: sha512, iterations: 100000, keyLength: 9}}\n"
            "storage: {type: none}",
            "/auth/0: storage auth needs a storage",
        ),
        ("cache: {name: nix}", "/cache"),
        ("plugins: {mine: {path: ./nix.py}}", "/plugins/mine"),
        ("permission: {path: broken.py}", "/permission"),
        ("permission: {path: short.py}", "can_perform_action"),
        ("permission: {path: raises.py}", "/permission: no luck (config.yml, line 1)"),
        ("dataDir: config.yml/x", "/dataDir: config.yml is no directory"),
    ],
)
def test_mistakes_are_errors_of_one_line(check, tmp_path, content, text):
    (tmp_path / "broken.py").write_text("def")
    (tmp_path / "short.py").write_text("from dsfast import Permission\nclass P(Permission): pass\n")
    (tmp_path / "raises.py").write_text(
        "from dsfast import Permission\n"
        "class P(Permission):\n"
        "    def __init__(self, *_): raise RuntimeError('no\\nluck')\n"
        "    def can_perform_action(self, socket, message): return True\n"
    )
    code, lines = check(content)
    assert code == 1
    assert lines[-1] == "config.yml: 1 error, 0 warnings"
    assert len(lines) == 2
    assert lines[0].startswith("error: ")
    assert text in lines[0]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("rpc: {ackTimeout: 0}", "/rpc/ackTimeout: should be >= 1"),
        ("serverName: a${NIX}", "NIX is not set and counts as empty"),
        ("auth: {type: file, options: {users: {ada: {password: x}}}}", "passwords are stored as clear text"),
        (
            "auth:\n- type: file\n  options: {users: {ada: {password: aaaaaaaaaaaaaaaa}}, "
            "hash: md5, iterations: 9, keyLength: 9}",
            "md5, which is weak",
        ),
    ],
)
def test_what_is_unwise_is_a_warning(check, content, text):
    code, lines = check(content)
    assert code == 0
    assert any(line.startswith("warning: ") and text in line for line in lines)
    assert check(content, "--strict") == (1, lines)


def test_several_authentications(check):
    hashing = {"hash": "sha512", "iterations": 100_000, "keyLength": 9}
    users = {"ada": {"password": "a" * 40}}
    storage = {"type": "storage", "options": {"table": "users", **hashing}}
    file = {"type": "file", "options": {"users": users, **hashing}}
    code, lines = check({"auth": [storage, file, storage]})
    assert code == 0
    assert [line.partition(": ")[0] for line in lines] == ["warning", "config.yml"]
    assert "clients" in lines[0]  # open permission: they can read the hashes


def test_rules_are_read(check, tmp_path):
    rules = tmp_path / "permissions.yml"
    content = "permission: {type: config, options: {permissions: fileLoad(permissions.yml)}}"
    everything = (
        "record: {'*': {read: true}}\nevent: {'*': {publish: true}}\n"
        "rpc: {'*': {request: true}}\npresence: {'*': {allow: true}}\n"
    )
    rules.write_text(everything)
    assert check(content) == (0, ["config.yml: ok"])
    rules.write_text(everything.replace("read: true", "\n  read: 'user.id ==='"))
    code, lines = check(content)
    assert code == 1
    assert lines[0].startswith("error: /permission: invalid permission config - ")
    assert lines[0].endswith("(permissions.yml, line 2)")


def test_nobody_is_asked_for_keys(check):
    with socket.create_server(("127.0.0.1", 0)) as keys:
        url = f"http://127.0.0.1:{keys.getsockname()[1]}/keys"
        options = {"jwksUrl": url, "algorithms": ["RS256"], "audience": "us"}
        assert check({"auth": [{"type": "jwt", "options": options}]}) == (0, ["config.yml: ok"])
        keys.setblocking(False)
        with pytest.raises(BlockingIOError):
            keys.accept()


def test_secrets_are_not_repeated(check):
    users = {"ada": {"password": "hunter2"}, "bob": {"password": 4711}}
    code, lines = check({"auth": [{"type": "file", "options": {"users": users}}]})
    assert code == 1
    assert "hunter2" not in str(lines)
    assert "4711" not in str(lines)


def test_nothing_is_started_or_written(check, tmp_path):
    (tmp_path / "plugin.py").write_text(
        "from dsfast import Plugin\n"
        "class Mine(Plugin):\n"
        "    def init(self): open('started', 'w')\n"
        "    async def when_ready(self): open('started', 'w')\n"
    )
    assert check("plugins: {mine: {path: plugin.py}}")[0] == 0
    assert not (tmp_path / "started").exists()
    assert not (tmp_path / "data").exists()


def test_variables_and_the_library_directory_count(check, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "mine.py").write_text("from dsfast import Plugin\nclass Mine(Plugin): pass\n")
    assert check("plugins: {mine: {path: mine.py}}")[0] == 1
    assert check("plugins: {mine: {path: mine.py}}", "-l", tmp_path / "lib")[0] == 0
    assert check("{}", DSFAST_RPC__ACK_TIMEOUT="soon")[0] == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_directory_without_permission(check, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    assert check("dataDir: closed")[1][0] == "error: /dataDir: closed cannot be written to"


# Certificates


@pytest.fixture
def certificate(tmp_path):
    return functools.partial(certificates.write, tmp_path)


def test_a_good_certificate_as_path_and_as_text(certificate, tmp_path):
    given = certificate()
    assert check_certificate(given, tmp_path) is None
    texts = {name: (tmp_path / file).read_text() for name, file in given.items()}
    assert check_certificate(texts, None) is None


def test_a_certificate_that_ends_soon(certificate, tmp_path):
    assert "the certificate ends on" in check_certificate(certificate(end=5 * DAY), tmp_path)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        ({"begin": -2 * DAY, "end": -DAY}, "certificate has expired"),
        ({"begin": DAY}, "certificate is not yet valid"),
        ({"usage": ExtendedKeyUsageOID.CLIENT_AUTH}, "purpose"),
        ({"passphrase": "secret"}, "the passphrase of the key is missing or wrong"),
    ],
)
def test_certificates_that_cannot_be_used(certificate, tmp_path, made, text):
    with pytest.raises(TlsError, match=text):
        check_certificate(certificate(**made), tmp_path)


def test_the_passphrase_of_the_key(certificate, tmp_path):
    given = certificate(passphrase="secret")
    assert check_certificate({**given, "passphrase": "secret"}, tmp_path) is None
    with pytest.raises(TlsError, match="passphrase"):
        check_certificate({**given, "passphrase": "other"}, tmp_path)


def test_a_key_of_another_certificate(certificate, tmp_path):
    given = {**certificate("a"), "key": certificate("b")["key"]}
    with pytest.raises(TlsError, match="the key does not belong to the certificate"):
        check_certificate(given, tmp_path)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"cert": "a.crt"}, "key and cert are both needed"),
        ({"cert": "nix.crt", "key": "a.key"}, "cert cannot be read: .*nix.crt: No such file"),
        ({"cert": "a.key", "key": "a.key"}, "cert holds no certificate"),
        ({"cert": "a.crt", "key": "a.crt"}, "key holds no private key"),
        ({"cert": "a.crt", "key": "a.key", "ca": "a.key"}, "ca: "),
        ({"cert": "a.crt", "key": "a.key", "dhParams": "a.crt"}, "dhParams: "),
        ({"cert": 1, "key": "a.key"}, "cert is no text"),
        ({"cert": "a\0b", "key": "a.key"}, "cert cannot be read"),
        ({"cert": "-----BEGIN CERTIFICATE-----", "key": "a.key"}, "damaged"),
    ],
)
def test_files_that_are_none(certificate, tmp_path, given, text):
    certificate()
    with pytest.raises(TlsError, match=text):
        check_certificate(given, tmp_path)


def test_the_command_checks_certificates(check, certificate):
    given = {**certificate("a"), "key": certificate("b")["key"]}
    code, lines = check({"httpServer": {"options": {"ssl": given}}})
    assert code == 1
    assert "error: /httpServer/options/ssl: the key does not belong to the certificate" in lines


def test_client_certificates_need_those_that_sign_them(check, certificate):
    given = certificate()
    code, lines = check({"httpServer": {"options": {"ssl": {**given, "clientCertificates": "required"}}}})
    assert code == 1
    assert "error: /httpServer/options/ssl: clientCertificates needs ca" in lines[0]
    code, lines = check(
        {"httpServer": {"options": {"ssl": {**given, "clientCertificates": "required", "ca": given["cert"]}}}}
    )
    assert (code, lines) == (0, ["config.yml: ok"])
