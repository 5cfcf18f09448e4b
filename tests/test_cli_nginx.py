"""`dsfast nginx`, with the real nginx where there is one."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess

import pytest

from dsfast._core.protocol import PresenceAction, Topic
from tests import certificates
from tests.commands import LIMIT, run
from tests.wire import Client

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")

needs_nginx = pytest.mark.skipif(NGINX is None, reason="there is no nginx")

AROUND = """\
{user}
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    {places}
    include {directory}/dsfast.conf;
}}
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


class Nginx:
    """An nginx that is asked to include what the command has written."""

    def __init__(self, directory):
        self.directory = directory
        places = " ".join(
            f"{kind}_temp_path {directory}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""
        (directory / "nginx.conf").write_text(AROUND.format(user=user, directory=directory, places=places))

    def run(self, *arguments):
        # The early errors go where nginx was built to write them, unless -e is given.
        return subprocess.run(
            [NGINX, "-p", self.directory, "-e", "stderr", "-c", self.directory / "nginx.conf", *arguments],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )

    def test(self):
        return self.run("-t")

    def start(self):
        """Returns when nginx listens: only then its first process ends."""
        started = subprocess.run(
            [NGINX, "-p", self.directory, "-c", self.directory / "nginx.conf"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=LIMIT,
            check=False,
        )
        assert started.returncode == 0, (self.directory / "error.log").read_text()

    def stop(self):
        file = self.directory / "nginx.pid"
        if file.exists() and (number := file.read_text()):
            os.kill(int(number), signal.SIGTERM)


@pytest.fixture
def nginx(tmp_path):
    nginx = Nginx(tmp_path)
    yield nginx
    nginx.stop()


@pytest.fixture
def write(tmp_path):
    """Runs `dsfast nginx` for a configuration; the text."""

    def write(config, *arguments, **environment):
        (tmp_path / "config.yml").write_text(json.dumps(config))
        file = tmp_path / "dsfast.conf"
        done = run("nginx", "-c", "config.yml", "-o", file, *arguments, cwd=tmp_path, **environment)
        assert (done.returncode, done.stdout) == (0, f"Configuration written to {file}\n"), done.stderr
        return file.read_text()

    return write


def http_server(**options):
    return {"httpServer": {"options": options}}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"listen": ["[::1]:7000", "unix:s"]}, "server [::1]:7000;"),
        ({"listen": ["0.0.0.0:7000"]}, "server 127.0.0.1:7000;"),
        ({"listen": ["unix:/run/a b.sock", "127.0.0.1:7000"]}, 'server "unix:/run/a b.sock";'),
    ],
)
def test_what_is_listened_on_first_is_where_nginx_connects(write, options, line):
    assert line in write(http_server(**options))


def test_a_server_with_tls_is_spoken_to_with_tls(write, tmp_path):
    text = write(http_server(ssl=certificates.write(tmp_path)))
    assert "proxy_pass https://dsfast;" in text
    assert "proxy_pass http://" not in text


def test_every_path_has_one_location_and_the_server_is_found_here(write):
    config = http_server(host="0.0.0.0", port=7000, healthCheckPath="/well", maxMessageSize=5)
    config["connectionEndpoints"] = [
        {"type": "ws-binary", "options": {"urlPath": "/a", "heartbeatInterval": 100_000}},
        {"type": "http", "options": {"authPath": "/api/auth", "postPath": "/api", "getPath": "/api"}},
    ]
    text = write(config, "-p", "81", "-h", "example.org")
    assert text.count("location = ") == 4
    for path in ("/a", "/well", "/api", "/api/auth"):
        assert text.count(f'location = "{path}" {{') == 1
    for line in (
        "server 127.0.0.1:7000;",
        "listen 81;",
        "server_name example.org;",
        "client_max_body_size 5;",
        "proxy_read_timeout 300s;",
    ):
        assert text.count(line) == 1


def test_ipv6(write):
    assert "server [::1]:6020;" in write(http_server(host="::"))


@pytest.mark.parametrize("options", [["--ssl"], ["--ssl", "--ssl-cert", "a"], ["--ssl", "--ssl-key", "a"]])
def test_ssl_needs_two_files(options):
    done = run("nginx", *options)
    assert (done.returncode, done.stderr) == (1, "Missing --ssl-cert or/key --ssl-key options\n")


@pytest.mark.parametrize("host", ["", "a b", "a;b", "a{", "$host", "a\n"])
def test_hosts_that_are_none(host):
    assert run("nginx", f"--host={host}").returncode == 2


def test_a_path_with_a_line_break_is_refused(tmp_path):
    (tmp_path / "config.yml").write_text(json.dumps(http_server(healthCheckPath="/a\nreturn")))
    done = run("nginx", "-c", "config.yml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


@needs_nginx
@pytest.mark.parametrize("path", ["/health-check", '/a"b', "/a b;c{d}", "/a\\b", "/$host", "/ä"])
def test_nginx_accepts_it(write, nginx, path):
    write(http_server(healthCheckPath=path))
    tested = nginx.test()
    assert tested.returncode == 0, tested.stderr


def statuses(connection, *paths):
    with contextlib.closing(connection):
        for path in paths:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            yield response.status


@needs_nginx
async def test_clients_come_through_nginx(write, nginx, start, tmp_path):
    server = start("serve", "--port", "0", "--in-memory", cwd=tmp_path).ready()
    port = free_port()
    write(http_server(host="127.0.0.1", port=server.port), "-p", port)
    nginx.start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    assert list(statuses(connection, "/health-check", "/elsewhere")) == [200, 404]
    client = await Client.login(port, "ada")
    client.message(Topic.PRESENCE, PresenceAction.QUERY_ALL)
    await client.expect(Topic.PRESENCE, PresenceAction.QUERY_ALL_RESPONSE)
    await client.close()
    server.wait_for(r"CLIENT_DISCONNECTED \| ada")


@needs_nginx
def test_clients_come_through_nginx_by_tls(write, nginx, start, tmp_path):
    server = start("serve", "--port", "0", "--in-memory", cwd=tmp_path).ready()
    port = free_port()
    files = certificates.write(tmp_path)
    write(
        http_server(host="127.0.0.1", port=server.port),
        "-p", port, "--ssl", "--ssl-cert", files["cert"], "--ssl-key", files["key"],
    )  # fmt: skip
    nginx.start()
    trusting = ssl.create_default_context(cafile=tmp_path / files["cert"])
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=LIMIT, context=trusting)
    assert list(statuses(connection, "/health-check", "/elsewhere")) == [200, 404]
