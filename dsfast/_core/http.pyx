"""HTTP on the port of the websocket: requests as httptools reads them, and the handshake value of RFC 6455."""
import base64
import binascii
import hashlib
from collections import deque

import httptools

HEAD_SIZE_LIMIT = 16 * 1024     # bytes of a request head
cdef int HEAD_LIMIT = HEAD_SIZE_LIMIT
cdef bytes GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
REASONS = {
    200: "OK", 204: "No Content", 304: "Not Modified", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout", 409: "Conflict", 413: "Content Too Large",
    415: "Unsupported Media Type", 426: "Upgrade Required", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 503: "Service Unavailable",
    504: "Gateway Timeout",
}


class HttpRequest:
    """One request on the port: method, target (path and query as sent), headers and body.

    Header names are lower case; a repeated header has its values joined by ", ".
    """

    __slots__ = ("body", "head_too_large", "headers", "keep_alive", "method", "target", "upgrade")

    def __init__(self):
        self.method = ""
        self.target = b""
        self.headers = {}
        self.body = bytearray()
        self.keep_alive = self.upgrade = self.head_too_large = False


class HttpReader:
    """Collects the requests of one connection from what httptools reports."""

    __slots__ = ("_parser", "busy", "done", "fed", "head_size", "in_head", "limit", "now", "too_large")

    def __init__(self, limit):
        self._parser = httptools.HttpRequestParser(self)
        self.limit = limit
        self.now = HttpRequest()
        self.done = deque()     # complete requests, in order
        self.busy = None        # the request that is being answered
        self.fed = 0            # bytes read since the last whole request, while its head is not complete
        self.head_size = 0      # bytes of its target and whole headers
        self.in_head = True
        self.too_large = False

    def feed(self, data):
        self._parser.feed_data(data)

    def close(self):
        """Break the circle of reader and parser, so that no garbage collection is needed for it."""
        self._parser = None

    def is_reading(self):
        """Whether a request has begun to arrive."""
        return not self.in_head or self.fed > 0

    def on_url(self, url):
        self.head_size += len(url)
        self.now.target += url

    def on_header(self, name, value):
        self.head_size += len(name) + len(value) + 4
        if self.head_size > HEAD_LIMIT:
            return
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1").strip()
        old = self.now.headers.get(key)
        self.now.headers[key] = text if old is None else f"{old}, {text}"

    def on_headers_complete(self):
        self.in_head = False
        self.now.method = self._parser.get_method().decode("latin-1")
        self.now.upgrade = self._parser.should_upgrade()
        self.now.keep_alive = self._parser.should_keep_alive()
        self.now.head_too_large = self.head_size > HEAD_LIMIT
        self.head_size = 0
        length = self.now.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.limit:
            self.too_large = True       # without reading it

    def on_body(self, body):
        if len(self.now.body) + len(body) > self.limit:
            self.too_large = True
        else:
            self.now.body += body

    def on_message_complete(self):
        self.done.append(self.now)
        self.now = HttpRequest()
        self.fed = 0
        self.in_head = True


def accept_value(str key not None):
    """Value of Sec-WebSocket-Accept; None if the key is not 16 bytes in base64."""
    try:
        if len(base64.b64decode(key, validate=True)) != 16:
            return None
    except (ValueError, binascii.Error):
        return None
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest())


def certificate_data(dict certificate not None):
    """What others may know of a client's certificate, as ``getpeercert`` gives it, in JSON values."""
    data = {key: certificate.get(key) for key in ("serialNumber", "notBefore", "notAfter")}
    for key in ("subject", "issuer"):
        data[key] = {name: value for part in certificate.get(key, ()) for name, value in part}
    data["subjectAltName"] = [f"{kind}:{value}" for kind, value in certificate.get("subjectAltName", ())]
    return data
