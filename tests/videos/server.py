"""An HTTP server on loopback: each path is a way to misbehave."""

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

    # Parts of a response

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
        """Honours Range and If-Range; drops the connection after `end` bytes of the body."""
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

    # The paths

    def good(self):
        self.send()

    def no_range(self):
        self.head(200, len(self.server.content))
        self.body(self.server.content[: DROP if self.first() else None])

    def chunked(self):
        self.head(200, Transfer_Encoding="chunked")
        pieces = 1 if self.first() else 3  # the first time it ends too early
        size = -(-len(self.server.content) // 3)
        for begin in range(0, 3 * size, size)[:pieces]:
            piece = self.server.content[begin : begin + size]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if pieces == 3:
            self.wfile.write(b"0\r\n\r\n")

    def no_length(self):
        self.head(200)
        self.body(self.server.content)

    def slow(self):
        self.send(pause=0.02)

    def stalls(self):
        self.head(200, len(self.server.content))
        self.body(self.server.content[:DROP])
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
        self.send(self.server.content[::-1])

    def short(self):
        self.send(self.server.content[:-1])

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
        self.send(
            self.server.content[::-1] if first else None, DROP if first else None, tag=f'"{first}"'
        )

    def changes_unsaid(self):
        """Resumes with another file, and ignores If-Range."""
        del self.headers["If-Range"]
        self.changes()

    def labelled(self):
        """Declares the compression of a .tgz as its own, as some servers do."""
        self.send(Content_Encoding="gzip", Content_Type="application/x-tar")

    def login(self):
        self.head(200, 6, Content_Type="text/html; charset=utf-8")
        self.body(b"<html>")

    def nonsense(self):
        self.wfile.write(b"\0\1\2 hello\r\n\r\n")


@contextmanager
def serving(content=CONTENT):
    """Yield a server of `content` with `url(way)`, `asked` (requests by way), `served` (bytes)."""
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
