"""A real HTTP server on loopback whose every path misbehaves in its own way."""

import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes
OTHER = CONTENT[::-1]
DROP = 100_000  # bytes before a connection is dropped


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        way = self.path.strip("/").replace("-", "_")
        self.server.asked[way] += 1
        self.close_connection = True
        with suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, way)()

    def log_message(self, *_):
        pass

    # What an answer is made of

    def head(self, status, length=None, **headers):
        self.send_response(status)
        self.send_header("Connection", "close")
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def body(self, data, pause=0.0, step=1 << 14):
        for begin in range(0, len(data), step):
            piece = data[begin : begin + step]
            self.wfile.write(piece)
            self.server.served[self.path] += len(piece)
            time.sleep(pause)

    def send(self, content=None, end=None, pause=0.0, tag='"one"', **headers):
        """Honours Range and If-Range; stops after `end` bytes of an answer."""
        content, begin = content or self.server.content, 0
        asked = self.headers.get("Range")
        if asked and self.headers.get("If-Range") in (None, tag):
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
        if begin >= len(content):
            self.head(416, 0, Content_Range=f"bytes */{len(content)}")
            return
        if begin:
            headers["Content_Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        if tag:
            headers["ETag"] = tag
        self.head(206 if begin else 200, len(content) - begin, **headers)
        self.body(content[begin:][:end], pause)

    def first(self):
        return self.server.asked[self.path.strip("/").replace("-", "_")] == 1

    # The ways

    def good(self):
        self.send()

    def no_range(self):
        self.head(200, len(CONTENT))
        self.body(CONTENT[: DROP if self.first() else None])

    def chunked(self):
        self.head(200, Transfer_Encoding="chunked")
        pieces = 1 if self.first() else 3  # the first time it ends too early
        for begin in range(0, len(CONTENT), len(CONTENT) // 3)[:pieces]:
            piece = CONTENT[begin : begin + len(CONTENT) // 3]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if pieces == 3:
            self.wfile.write(b"0\r\n\r\n")

    def no_length(self):
        self.head(200)
        self.body(CONTENT)

    def slow(self):
        self.send(pause=0.02)

    def trickle(self):
        self.head(200, len(CONTENT))
        self.body(CONTENT, pause=0.02, step=1)

    def stalls(self):
        self.head(200, len(CONTENT))
        self.body(CONTENT[:DROP])
        self.server.stop.wait(20)

    def silent(self):
        self.server.stop.wait(20)

    def drops_once(self):
        self.send(end=DROP if self.first() else None)

    def drops(self):
        self.send(end=DROP)

    def drops_early(self):
        self.send(end=0)

    def drops_unmarked(self):
        self.send(end=DROP if self.first() else None, tag=None)

    def wrong(self):
        self.send(OTHER)

    def short(self):
        self.send(CONTENT[:-1])

    def forbidden(self):
        self.head(403, 0)

    def missing(self):
        self.head(404, 0)

    def recovers(self):
        self.head(500, 0) if self.first() else self.send()

    def broken(self):
        self.head(503, 0)

    def moved(self):
        self.head(302, 0, Location="/good")

    def loops(self):
        self.head(302, 0, Location="/loops")

    def elsewhere(self):
        self.head(302, 0, Location="file:///etc/hostname")

    def changes(self):
        first = self.first()
        self.send(OTHER if first else CONTENT, DROP if first else None, tag=f'"{first}"')

    def changes_unsaid(self):
        """Goes on with another file, as if it had not been asked for the first."""
        del self.headers["If-Range"]
        self.changes()

    def labelled(self):
        """A .tgz as some servers give it out: as if the compression were theirs."""
        self.send(Content_Encoding="gzip", Content_Type="application/x-tar")

    def login(self):
        self.head(200, 6, Content_Type="text/html; charset=utf-8")
        self.body(b"<html>")

    def nonsense(self):
        self.wfile.write(b"\0\1\2 hello\r\n\r\n")

    def past(self):
        """Has a file that is shorter than what was asked to go on with."""
        self.send(CONTENT[:1000]) if self.headers.get("Range") else self.send()


@contextmanager
def serving(content=CONTENT):
    """The server, with `url(way)`, and counts of requests by way and of bytes by path."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content = content
    server.daemon_threads = True
    server.block_on_close = False
    server.asked, server.served, server.stop = Counter(), Counter(), threading.Event()
    server.url = lambda way: f"http://127.0.0.1:{server.server_port}/{way}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop.set()
        server.shutdown()
        server.server_close()
