"""``dsfast nginx``: a configuration of nginx in front of the server (configuration.md section 5)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsfast.cli.options import config_option, end_with, load_config

if TYPE_CHECKING:
    from dsfast.config import Config

__all__ = ["nginx"]

_HOST = re.compile(r"[A-Za-z0-9*._:\[\]-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# The addresses on which a server listens everywhere, and where it is found then.
_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def _host(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not _HOST.fullmatch(value):
        raise click.BadParameter("not a host name")
    return value


# -h is the host here, as it has always been.
@click.command(context_settings={"help_option_names": ["--help"]})
@config_option
@click.option(
    "-p", "--port", type=click.IntRange(1, 65_535), default=8080, show_default=True, help="Port of nginx."
)
@click.option(
    "-h",
    "--host",
    default="localhost",
    show_default=True,
    callback=_host,
    help="Name of the site (server_name).",
)
@click.option("--ssl", is_flag=True, help="Serve https and wss; needs the next two.")
@click.option("--ssl-cert", type=click.Path(dir_okay=False, path_type=Path), help="Certificate chain.")
@click.option("--ssl-key", type=click.Path(dir_okay=False, path_type=Path), help="Private key.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write it to this file."
)
def nginx(
    *,
    config_file: Path | None,
    port: int,
    host: str,
    ssl: bool,
    ssl_cert: Path | None,
    ssl_key: Path | None,
    output: Path | None,
) -> None:
    """Print a configuration for nginx in front.

    nginx then passes on everything that the server serves. The text belongs into the http block, for example
    as /etc/nginx/conf.d/dsfast.conf. Put the address of nginx into the option
    httpServer.options.trustedProxies to have the server believe it about the addresses of clients.
    """
    if ssl and (ssl_cert is None or ssl_key is None):
        end_with("Missing --ssl-cert or/key --ssl-key options")
    config = load_config(config_file)
    files = (ssl_cert, ssl_key) if ssl and ssl_cert and ssl_key else None
    text = "\n".join(_lines(config, port, host, files)) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise click.ClickException(f"{output}: {error.strerror}") from None
    click.echo(f"Configuration written to {output}")


def _lines(config: Config, port: int, host: str, ssl: tuple[Path, Path] | None) -> Iterator[str]:
    http = config.http
    scheme = "http" if http.ssl is None else "https"
    yield "map $http_upgrade $dsfast_connection {"
    yield "    default upgrade;"
    yield "    ''      '';"
    yield "}"
    yield ""
    yield "upstream dsfast {"
    yield f"    server {_server(config)};"
    yield "    keepalive 32;"
    yield "}"
    yield ""
    yield "server {"
    yield f"    listen {port}{' ssl' if ssl else ''};"
    yield f"    server_name {host};"
    if ssl:
        yield f"    ssl_certificate {_quoted(os.path.abspath(ssl[0]))};"
        yield f"    ssl_certificate_key {_quoted(os.path.abspath(ssl[1]))};"
        yield "    ssl_protocols TLSv1.2 TLSv1.3;"
    yield ""
    yield "    proxy_http_version 1.1;"
    yield "    proxy_set_header Host $http_host;"
    yield "    proxy_set_header X-Forwarded-For $remote_addr;"
    yield "    proxy_set_header X-Forwarded-Proto $scheme;"
    yield "    proxy_set_header Upgrade $http_upgrade;"
    yield "    proxy_set_header Connection $dsfast_connection;"
    yield f"    client_max_body_size {http.max_message_size};"
    for path, silence in _paths(config).items():
        yield ""
        yield f"    location = {_quoted(path)} {{"
        yield f"        proxy_pass {scheme}://dsfast;"
        if silence:
            # A client is cut off by the server when it is silent for two intervals; nginx must not be faster.
            yield f"        proxy_read_timeout {silence}s;"
            yield f"        proxy_send_timeout {silence}s;"
        yield "    }"
    yield "}"


def _server(config: Config) -> str:
    """Where nginx reaches the server: what it listens on first."""
    from dsfast.config.files import resolve_path  # noqa: PLC0415 - not needed for --help

    address = config.http.addresses[0]
    if isinstance(address, str):
        return _quoted("unix:" + resolve_path(address, config.source.directory or "."))
    host, port = address
    host = _LOCAL.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _paths(config: Config) -> dict[str, int | None]:
    """Every path that is served, once; for websockets with the seconds that a connection may be silent."""
    paths: dict[str, int | None] = {config.http.health_check_path: None}
    for endpoint in config.connection_endpoints:
        options = endpoint.options
        if url_path := options.get("urlPath"):
            paths[url_path] = max(60, 3 * options.get("heartbeatInterval", 0) // 1000)
        for key in ("authPath", "postPath", "getPath"):
            if path := options.get(key):
                paths[path] = None
    for monitoring in config.monitoring:
        if path := getattr(monitoring, "options", {}).get("url"):
            paths[path] = None
    return paths


def _quoted(text: str) -> str:
    if _CONTROL.search(text):
        raise click.ClickException(f"nginx cannot have control characters here: {text!r}")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
