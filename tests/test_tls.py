"""TLS on the port: certificates, their renewal under load, client certificates, slow readers."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import sys
from pathlib import Path

import pytest
from wire import (
    CHALLENGE,
    CLOSE,
    PING_MESSAGE,
    PONG_MESSAGE,
    TIMEOUT,
    Client,
    Users,
    auth_request,
    serve,
    upgrade_request,
)

from dsfast import ConfigError, Server, StartError
from dsfast._core.protocol import AuthAction, EventAction, Topic
from tests import certificates

loops = ["uvloop", "asyncio"]


@pytest.fixture
def make(tmp_path):
    """Writes a certificate; absolute paths of its files."""

    def make(name="a", **options):
        files = certificates.write(tmp_path, name, **options)
        return {part: str(tmp_path / file) for part, file in files.items()}

    return make


def config(**given):
    return {"httpServer": {"options": {"host": "127.0.0.1", "port": 0, "ssl": given}}}


def trusting(*names, files=None, **options):
    """What a client needs who trusts these certificates only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    for name in names:
        context.load_verify_locations(name)
    if files:
        context.load_cert_chain(files["cert"], files["key"])
    for name, value in options.items():
        setattr(context, name, value)
    return context


async def connect(s, context, *, receive_buffer=None):
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", s.port))
    async with asyncio.timeout(TIMEOUT):
        limit = receive_buffer or 1 << 16
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=context, server_hostname="localhost", limit=limit
        )
    return s._keep(Client(reader, writer))


async def login(s, context, user="a", **options):
    client = await connect(s, context, **options)
    client.write(upgrade_request())
    assert (await client.response()).status == 101
    client.send(CHALLENGE)
    await client.payload()
    client.send(auth_request(json.dumps({"username": user}).encode()))
    await client.expect(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL)
    return client


def serial(client):
    return client.writer.get_extra_info("peercert")["serialNumber"]


# --- what a configuration may say


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"cert": "x"}, "Must also include ssl key in order to use SSL"),
        ({"key": "x"}, "Must also include ssl cert in order to use SSL"),
        ({}, "To enable HTTP please provide a key and cert"),
    ],
)
async def test_half_a_certificate(given, text):
    with pytest.raises(ConfigError, match=text):
        async with serve(config(**given)):
            pass


@pytest.mark.parametrize("form", ["text", "path", "relative", "fileLoad"])
async def test_a_certificate_as_text_and_as_path(make, tmp_path, form):
    files = make()
    given = dict(files)
    if form == "text":
        given = {name: Path(path).read_text() for name, path in files.items()}  # noqa: ASYNC240
    elif form == "relative":
        given = {name: os.path.basename(path) for name, path in files.items()}
    elif form == "fileLoad":
        given = {name: f"fileLoad({path})" for name, path in files.items()}
    settings = config(**given)
    settings.update(storage={"type": "default"}, showLogo=False)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings))
    server = Server(str(path))
    await server.start()
    try:
        (address,) = server.get_services().http_service.addresses
        reader, writer = await asyncio.open_connection(
            *address, ssl=trusting(files["cert"]), server_hostname="localhost"
        )
        old = serial(Client(reader, writer))
        writer.write(b"GET /health-check HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()
        make()
        if form != "text":  # a text has no file to be read again
            await server.reload()
            reader, writer = await asyncio.open_connection(
                *address, ssl=trusting(files["cert"]), server_hostname="localhost"
            )
            assert serial(Client(reader, writer)) != old
            writer.close()
    finally:
        await server.stop()


async def test_a_certificate_that_cannot_be_used_ends_the_start(make):
    files = make("a")
    given = {**files, "key": make("b")["key"]}
    with pytest.raises(StartError, match="the key does not belong to the certificate"):
        async with serve(config(**given)):
            pass


async def test_the_key_may_have_a_passphrase(make):
    files = make(passphrase="geheim")
    async with serve(config(**files, passphrase="geheim")) as s:
        await login(s, trusting(files["cert"]))


async def test_client_certificates_need_those_that_sign_them(make):
    with pytest.raises(StartError, match="clientCertificates needs ca"):
        async with serve(config(**make(), clientCertificates="required")):
            pass


# --- what is spoken


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_versions(make, version):
    files = make()
    async with serve(config(**files)) as s:
        client = await login(s, trusting(files["cert"], minimum_version=version, maximum_version=version))
        assert client.writer.get_extra_info("cipher")[1] == version.name.replace("_", ".")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_old_versions_are_refused(make):
    files = make()
    async with serve(config(**files, minVersion="TLSv1.3")) as s:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(s, trusting(files["cert"], maximum_version=ssl.TLSVersion.TLSv1_2))
        (text,) = await s.log.wait_for("CONNECTION_ERROR")
        assert "no TLS" in text


async def test_http_1_1_is_what_is_agreed_upon(make):
    files = make()
    async with serve(config(**files)) as s:
        context = trusting(files["cert"])
        context.set_alpn_protocols(["h2", "http/1.1"])
        client = await connect(s, context)
        assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"


async def test_what_is_no_tls_concerns_nobody_else(make):
    files = make()
    async with serve(config(**files)) as s:
        other = await login(s, trusting(files["cert"]))
        plain, silent, gone = await s.connect(), await s.connect(), await s.connect()
        plain.write(b"GET / HTTP/1.1\r\n\r\n")
        gone.reset()
        await s.log.wait_for("CONNECTION_ERROR")
        await other.fence()
        assert len(s.endpoint.core.connections) == 1
        silent.writer.close()
        assert s.log.errors() == []


async def test_a_handshake_has_a_time_limit(make):
    files = make()
    options = config(**files)
    options["httpServer"]["options"]["headTimeout"] = 100
    async with serve(options) as s:
        silent = await s.connect()
        await silent.ended()


async def test_a_stop_does_not_wait_for_handshakes(make):
    async with serve(config(**make())) as s:
        silent = await s.connect()
        silent.write(b"\x16\x03")  # the kernel keeps to itself who has said nothing
        await s.until(lambda: bool(s.services.http_service._listener._servers[0]._beginning))
        await s.server.stop()
        await silent.ended()


async def test_messages_of_all_sizes(make):
    files = make()
    async with serve(config(**files)) as s:
        a, b = await login(s, trusting(files["cert"])), await login(s, trusting(files["cert"]), "b")
        b.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["e"], correlation_id="1")
        await b.receive()
        for size in (0, 1, 125, 1000, 20_000, 500_000):
            a.message(Topic.EVENT, EventAction.EMIT, name="e", data=b'"' + b"x" * size + b'"')
            assert len((await b.receive()).data) == size + 2
        await a.close()
        await s.until(lambda: len(s.endpoint.core.connections) == 1)


# --- who the client is


@pytest.mark.parametrize("wanted", ["optional", "required"])
async def test_the_subject_of_a_client_certificate_is_told(make, wanted):
    files = make("a")
    theirs = make("b", usage=certificates.ExtendedKeyUsageOID.CLIENT_AUTH)
    options = config(**files, ca=theirs["cert"], clientCertificates=wanted)
    async with serve(options, authentication=Users) as s:
        await login(s, trusting(files["cert"], files=theirs))
        (entry,) = s.services.authentication.entries
        told = entry.seen[0][0]["clientCertificate"]
        assert told["subject"] == {"commonName": "localhost"}
        assert json.dumps(told)


async def test_without_a_client_certificate(make):
    files, theirs, wrong = make("a"), make("b"), make("c")
    for wanted, allowed in (("optional", True), ("required", False)):
        options = config(**files, ca=theirs["cert"], clientCertificates=wanted)
        async with serve(options, authentication=Users) as s:
            if allowed:
                await login(s, trusting(files["cert"]))
                assert "clientCertificate" not in s.services.authentication.entries[0].seen[0][0]
            else:
                with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                    await login(s, trusting(files["cert"]))
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await login(s, trusting(files["cert"], files=wrong))


# --- renewal


async def test_certificates_swapped_under_load_lose_no_connection(make):
    first = make("a")
    old = Path(first["cert"]).read_text()  # noqa: ASYNC240
    async with serve(config(**first)) as s:
        context = trusting(first["cert"])
        seen = set()
        clients = [await login(s, context, f"u{i}") for i in range(10)]
        stop = asyncio.Event()

        async def talk(client):
            rounds = 0
            while not stop.is_set() or rounds < 10:
                client.send(PING_MESSAGE)
                assert await client.payload() == PONG_MESSAGE
                rounds += 1

        async def come_and_go():
            while not stop.is_set():
                # Whichever of the two is there in this moment: it has to be a whole one.
                client = await login(s, trusting(first["cert"], trusted), "guest")
                seen.add(serial(client))
                await client.close()

        trusted = Path(first["cert"]).with_name("old.crt")
        trusted.write_text(old)
        tasks = [asyncio.create_task(talk(client)) for client in clients]
        guests = [asyncio.create_task(come_and_go()) for _ in range(3)]
        make("a")
        await s.until(lambda: len(seen) == 1)
        # Guests trust the new file from now on and the old one; the server still has the old one.
        await s.server.reload()
        await s.until(lambda: len(seen) == 2)
        stop.set()
        await asyncio.gather(*tasks, *guests)
        for client in clients:
            await client.fence()
        assert s.log.errors() == []


@pytest.mark.parametrize("how", ["another key", "damaged", "missing"])
async def test_a_broken_pair_is_refused_and_the_old_one_stays(make, how):
    files = make("a")
    context = trusting(files["cert"])
    async with serve(config(**files)) as s:
        old = serial(await login(s, context))
        if how == "another key":
            os.replace(make("b")["key"], files["key"])
        elif how == "damaged":
            Path(files["cert"]).write_text("-----BEGIN CERTIFICATE-----\nx\n")  # noqa: ASYNC240
        else:
            os.unlink(files["key"])
        assert await s.services.http_service.reload() is False
        (text,) = [text for text in s.log.find("INVALID_CONFIG_DATA") if "old certificate stays" in text]
        assert text.startswith("/httpServer/options/ssl: ")
        assert serial(await login(s, context)) == old


async def test_changed_files_are_seen(make):
    files = make("a")
    async with serve(config(**files, watchInterval=10)) as s:
        old = serial(await login(s, trusting(files["cert"])))
        make("a")
        await s.until(lambda: any("read again" in text for text in s.log.find("INFO")))
        assert serial(await login(s, trusting(files["cert"]))) != old


async def test_a_signal_reads_the_certificate_again(make, tmp_path):
    files = make("a")
    path = tmp_path / "config.json"
    settings = config(**files)
    path.write_text(json.dumps({**settings, "storage": {"type": "default"}}))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dsfast", "serve", "-c", str(path), "--in-memory",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip

    async def line_with(text):
        async with asyncio.timeout(TIMEOUT):
            async for line in process.stdout:
                if text in line.decode():
                    return line.decode()
        pytest.fail(f"no {text}")

    try:
        ready = await line_with("is ready at wss://")
        port = int(ready.split("wss://127.0.0.1:")[1].split("/")[0])

        async def current():
            _, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=trusting(files["cert"]), server_hostname="localhost"
            )
            writer.close()
            return writer.get_extra_info("peercert")["serialNumber"]

        old = await current()
        make("a")
        process.send_signal(signal.SIGHUP)
        await line_with("the certificate was read again")
        assert await current() != old
    finally:
        with contextlib.suppress(ProcessLookupError):  # it could not start
            process.terminate()
        await process.wait()


# --- limits hold here too


async def test_who_does_not_read_is_cut_off_and_nobody_else_waits(make):
    files = make()
    options = {**config(**files)}
    async with serve(options, options={"maxOutgoingBytes": 1 << 20}) as s:
        context = trusting(files["cert"])
        slow = await login(s, context, "slow", receive_buffer=4096)
        quick, sender = await login(s, context, "quick"), await login(s, context, "sender")
        for client in (slow, quick):
            client.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["e"], correlation_id="1")
            await client.receive()
        data = b'"' + b"x" * 100_000 + b'"'
        connection = s.connection("slow")
        count = 0
        while not connection.is_closed:
            sender.message(Topic.EVENT, EventAction.EMIT, name="e", data=data)
            assert (await quick.receive()).data == data
            count += 1
            assert count < 1000, "a limit of 1 MiB does not hold"
        (text,) = await s.log.wait_for("CLOSED_SLOW_CONSUMER")
        assert text.startswith("slow: ")
        await s.until(lambda: len(s.endpoint.core.connections) == 2)


async def test_who_reads_slowly_gets_everything_in_order(make):
    files = make()
    async with serve(config(**files), options={"maxOutgoingBytes": 1 << 26}) as s:
        context = trusting(files["cert"])
        slow, sender = await login(s, context, "slow", receive_buffer=4096), await login(s, context, "sender")
        slow.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["e"], correlation_id="1")
        await slow.receive()
        for number in range(300):
            sender.message(Topic.EVENT, EventAction.EMIT, name="e", data=b'"%d%s"' % (number, b"x" * 20_000))
        await sender.fence()
        for number in range(300):
            assert (await slow.receive()).data.strip(b'"x') == b"%d" % number


async def test_a_close_frame_comes_before_the_end(make):
    files = make()
    async with serve(config(**files)) as s:
        client = await login(s, trusting(files["cert"]))
        await asyncio.gather(s.server.stop(), self_closing(client))


async def self_closing(client):
    opcode, payload = await client.frame()
    assert (opcode, payload) == (CLOSE, b"\x03\xe9")
    await client.ended()
