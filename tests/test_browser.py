"""A page in a browser: the official client by websocket, streams, and pages of other origins.

Skipped where there is no Chromium; ``make test`` installs Debian's.
"""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from http_kit import serve_http

from dsfast.plugin import Plugin

HERE = Path(__file__).resolve().parent
PAGE = HERE / "browser" / "page.html"
CLIENT = HERE / "js" / "node_modules" / "@deepstream" / "client" / "dist" / "bundle" / "ds.min.js"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LIMIT = 90.0

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no Chromium; on Debian: apt-get install chromium"),
    pytest.mark.skipif(not CLIENT.exists(), reason="run 'npm ci' in tests/js"),
]


class Pages(Plugin):
    """Serves the page, and takes what it has found."""

    description = "page of the test"

    def init(self) -> None:
        self.results: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def when_ready(self) -> None:
        http = self.services.http_service
        page, client = PAGE.read_bytes(), CLIENT.read_bytes()
        http.register_get_path_prefix("/page", lambda meta: (200, {"Content-Type": "text/html"}, page))
        script = {"Content-Type": "text/javascript"}
        http.register_get_path_prefix("/client.js", lambda meta: (200, script, client))
        http.register_get_path_prefix("/servers", lambda meta: self.options["servers"])
        http.register_post_path_prefix("/results", lambda data, meta: self.results.set_result(data))


async def test_a_page(tmp_path: Path) -> None:
    elsewhere = {"allowAllOrigins": False, "origins": ["https://elsewhere.example"]}
    async with serve_http() as (other, _), serve_http(port=elsewhere) as (closed, _):
        servers = {"other": f"http://127.0.0.1:{other.port}", "closed": f"http://127.0.0.1:{closed.port}"}
        plugins = {"pages": {"class": Pages, "options": {"servers": servers}}}
        async with serve_http({"plugins": plugins}) as (s, _):
            assert BROWSER is not None
            browser = await asyncio.create_subprocess_exec(
                BROWSER,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                f"--user-data-dir={tmp_path}",
                f"http://127.0.0.1:{s.port}/page",
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                async with asyncio.timeout(LIMIT):
                    results = await s.services.plugins["pages"].results
            finally:
                browser.terminate()
                await browser.wait()
            assert results == dict.fromkeys(
                (
                    "the client by websocket",
                    "a stream of a record",
                    "another origin",
                    "a server that does not want this origin",
                ),
                "ok",
            )
            assert not s.log.errors()
