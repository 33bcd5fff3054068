"""A local server with the endpoints of the Hugging Face Hub that uploads and downloads need."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40
TOKEN = "hf_secret_of_the_test"


class Hub(ThreadingHTTPServer):
    """Repositories by name: path -> content."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = {}
        self.private = {}
        self.requests = []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(self.path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.reply(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.server.repositories.setdefault(name, {})
            self.server.private[name] = asked.get("visibility") == "private"
            return self.reply(200, {"url": f"{self.server.address}/{name}", "name": name})
        if self.path == "/api/validate-yaml":
            return self.reply(200, {"errors": [], "warnings": []})
        if found := re.match(r"/api/models/([\w-]+/[\w-]+)/preupload/", self.path):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.reply(200, {"files": files})
        if found := re.match(r"/api/models/([\w-]+/[\w-]+)/commit/", self.path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repositories[found[1]][line["value"]["path"]] = content
            url = f"{self.server.address}/{found[1]}/commit/{COMMIT}"
            return self.reply(200, {"commitUrl": url, "commitOid": COMMIT, "success": True})
        return self.reply(404, {"error": self.path})

    def do_GET(self):
        self.server.requests.append(self.path)
        if found := re.match(r"/api/models/([\w-]+/[\w-]+)/(revision|tree)/(\w+)", self.path):
            files = self.server.repositories.get(found[1])
            if files is None:
                return self.reply(404, {"error": "no"}, {"X-Error-Code": "RepoNotFound"})
            if found[3] not in ("main", COMMIT):
                return self.reply(404, {"error": "no"}, {"X-Error-Code": "RevisionNotFound"})
            if found[2] == "tree":
                listed = [self.entry(path, content) for path, content in files.items()]
                return self.reply(200, listed)
            siblings = [{"rfilename": path} for path in files]
            about = {"id": found[1], "sha": COMMIT, "siblings": siblings, "tags": []}
            return self.reply(200, about | {"private": False, "downloads": 0, "likes": 0})
        if found := re.match(r"/([\w-]+/[\w-]+)/resolve/\w+/([\w.]+)", self.path):
            content = self.server.repositories[found[1]][found[2]]
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            return self.reply(200, content, headers)
        return self.reply(404, {"error": self.path})

    do_HEAD = do_GET

    @staticmethod
    def entry(path, content):
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": path, "size": len(content), "oid": oid}

    def reply(self, status, content, headers=()):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextlib.contextmanager
def running():
    """A running Hub."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
