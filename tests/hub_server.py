"""A stand-in for the model hub: what huggingface_hub asks of it to send a folder and to fetch it.

Repositories are folders of a folder, with one commit each: the newest.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "hf_of_the_tests"  # noqa: S105


class Hub:
    """What the server holds, and what it was asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = ""
        self.asked: list[str] = []
        self.is_private: dict[str, bool] = {}
        self.revisions: list[str] = []  # that were asked for

    def folder(self, name: str) -> Path:
        return self.root / name

    def commit(self, name: str) -> str:
        """Return forty digits that stand for what a repository holds."""
        digest = hashlib.sha1(usedforsecurity=False)
        for file in sorted(self.folder(name).iterdir()):
            digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()


@contextmanager
def serve_hub(root: Path) -> Iterator[Hub]:
    hub = Hub(root)
    handler = type("Handler", (HubHandler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class HubHandler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.asked.append(f"POST {self.path}")
        if self.path == "/api/validate-yaml":
            return self.tell({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.tell({"error": "Invalid username or password."}, 401)
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        if match := re.fullmatch(r"/api/models/(\w+/[\w-]+)/(preupload|commit)/main", self.path):
            name = match[1]
            if match[2] == "commit":
                return self.take(name, body)
            files = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]
            return self.tell({"files": modes})
        return self.tell({"error": "not of this stand-in"}, 404)

    def create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        address = {"url": f"{self.hub.address}/{name}"}
        if self.hub.folder(name).exists():
            return self.tell({"error": "You already created this model repo", **address}, 409)
        self.hub.folder(name).mkdir(parents=True)
        self.hub.is_private[name] = bool(wanted.get("private"))
        return self.tell(address)

    def take(self, name: str, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                (self.hub.folder(name) / line["value"]["path"]).write_bytes(content)
        commit = self.hub.commit(name)
        address = f"{self.hub.address}/{name}/commit/{commit}"
        self.tell({"success": True, "commitOid": commit, "commitUrl": address})

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        if match := re.fullmatch(r"/api/models/(\w+/[\w-]+)/revision/([\w.-]+)", self.path):
            return self.describe(match[1], match[2])
        if match := re.fullmatch(r"/(\w+/[\w-]+)/resolve/(\w+)/([\w.]+)", self.path):
            return self.give(match[1], match[3])
        return self.tell({"error": "not of this stand-in"}, 404)

    def describe(self, name: str, revision: str) -> None:
        folder = self.hub.folder(name)
        if not folder.is_dir():
            # So the hub answers whoever may not know whether there is such a repository.
            return self.tell(
                {"error": "Repository not match"}, 401, {"X-Error-Code": "RepoNotFound"}
            )
        self.hub.revisions.append(revision)
        files = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
        return self.tell({"id": name, "sha": self.hub.commit(name), "siblings": files})

    def give(self, name: str, file: str) -> None:
        content = (self.hub.folder(name) / file).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.hub.commit(name))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def tell(self, answer: Any, code: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass
