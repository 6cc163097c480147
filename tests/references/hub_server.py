"""A small stand-in of the Hugging Face hub's HTTP API, over real HTTP on loopback, for the real client.

Large files are redirected to another host name ("localhost", as the hub does with its CDN), where no token may arrive.
It can break connections in the middle, run out of patience, and refuse: what a test sets on `Hub`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 10_000
"""Bytes from which on a file is kept apart (LFS), as weights are."""
TOKEN = "hf_" + "Sesame" * 4


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Repository:
    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)

    def commit(self, **changed: bytes) -> str:
        return self.commit_files(changed)

    def commit_files(self, changed: dict[str, bytes]) -> str:
        self.files = {**self.files, **changed}
        listing = json.dumps([len(self.commits), sorted((n, sha256(d)) for n, d in self.files.items())])
        name = hashlib.sha1(listing.encode()).hexdigest()
        self.commits.append((name, self.files))
        self.branches["main"] = name
        return name

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        name = self.branches.get(revision, revision)
        return next(((c, files) for c, files in self.commits if c == name), None)


@dataclass
class Hub:
    """What the server knows, and what it is to do wrong."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    user: str = "me"
    organizations: tuple[str, ...] = ("us",)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """METHOD path, in the order in which they came."""
    tokens_elsewhere: list[str] = field(default_factory=list)
    """Requests to the other host that carried a token."""
    breaks: dict[str, list[int]] = field(default_factory=dict)
    """SHA-256 of a large file -> bytes after which its next downloads break off, one number each."""
    fail: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Part of "METHOD path" -> status and message."""
    part_size: int | None = None
    """Bytes of a part of an upload; None takes a file at once."""
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    loses: str = ""
    """A file of which a commit keeps only the half."""
    moving: bool = False
    """Somebody else commits between two questions about a repository."""
    url: str = ""

    @property
    def elsewhere(self) -> str:
        return self.url.replace("127.0.0.1", "localhost")

    def sent(self, method: str, part: str) -> list[str]:
        return [r for r in self.requests if r.startswith(f"{method} ") and part in r]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._route("GET")

    def do_HEAD(self) -> None:
        self._route("HEAD")

    def do_POST(self) -> None:
        self._route("POST")

    def do_PUT(self) -> None:
        self._route("PUT")

    def _route(self, method: str) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = b"".join(self._chunks())
        split = urlsplit(self.path)
        path, self.query = unquote(split.path), parse_qs(split.query)
        line = f"{method} {path}"
        self.hub.requests.append(line)
        if self.headers.get("Host", "").startswith("localhost") and self.headers.get("Authorization"):
            self.hub.tokens_elsewhere.append(line)
        for part, (status, message) in self.hub.fail.items():
            if part in line:
                self._refuse(status, message=message)
                return
        for pattern, methods, answer in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method in methods:
                answer(self, *match.groups())
                return
        self._refuse(404, "EntryNotFound")

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    # --- answers ---------------------------------------------------------------------------------------------------

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, data: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(data).encode(), Content_Type="application/json")

    def _refuse(self, status: int, code: str = "", *, message: str = "") -> None:
        headers = {"X_Error_Code": code} if code else {}
        if message:
            headers["X_Error_Message"] = message
        self._answer(status, json.dumps({"error": message or code}).encode(), **headers)

    @property
    def _logged_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, name: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self._logged_in):
            self._refuse(404 if self._logged_in else 401, "RepoNotFound", message="Repository not found")
            return None
        return found

    def _revision(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repository = self._repository(name)
        if repository is None:
            return None
        found = repository.at(revision)
        if found is None:
            self._refuse(404, "RevisionNotFound", message=f"Invalid rev id: {revision}")
        return found

    # --- reading ---------------------------------------------------------------------------------------------------

    def info(self, name: str, _: str | None = None, revision: str | None = None) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        if not repository.commits:
            self._json({"id": name, "sha": None, "private": repository.private, "siblings": []})
            return
        found = self._revision(name, revision or "main")
        if found is None:
            return
        commit, files = found
        if self.hub.moving:
            repository.commit_files({"README.md": b"moved on"})
        siblings = [{"rfilename": n, **(self._listed(n, d) if "blobs" in self.query else {})} for n, d in files.items()]
        said = {"id": name, "sha": commit, "private": repository.private, "gated": repository.gated}
        self._json({**said, "siblings": siblings, "cardData": repository.card or None})

    def _listed(self, name: str, data: bytes) -> dict[str, Any]:
        large = {"lfs": {"oid": sha256(data), "sha256": sha256(data), "size": len(data), "pointerSize": 130}}
        kept = large if len(data) >= LARGE else {}
        return {"type": "file", "path": name, "oid": git_oid(data), "blobId": git_oid(data), "size": len(data), **kept}

    def tree(self, name: str, revision: str) -> None:
        found = self._revision(name, revision)
        if found is not None:
            self._json([self._listed(n, d) for n, d in found[1].items()])

    def paths_info(self, name: str, revision: str) -> None:
        found = self._revision(name, revision)
        if found is not None:
            sent = self.body.decode()
            wanted = json.loads(sent)["paths"] if sent.startswith("{") else parse_qs(sent)["paths"]
            self._json([self._listed(n, d) for n, d in found[1].items() if n in wanted])

    def resolve(self, name: str, revision: str, file: str) -> None:
        repository = self._repository(name)
        if repository is not None and repository.gated and not self._logged_in:
            self._refuse(403, "GatedRepo", message=f"Access to model {name} is restricted.")
            return
        found = self._revision(name, revision) if repository is not None else None
        if found is None:
            return
        commit, files = found
        if file not in files:
            self._refuse(404, "EntryNotFound")
            return
        data = files[file]
        if len(data) < LARGE:
            self._part(data, ETag=f'"{git_oid(data)}"', X_Repo_Commit=commit)
            return
        self.hub.objects[sha256(data)] = data
        linked = {"X_Linked_Size": str(len(data)), "X_Linked_Etag": f'"{sha256(data)}"', "X_Repo_Commit": commit}
        self._answer(302, Location=f"{self.hub.elsewhere}/cdn/{sha256(data)}?Signature=secret-of-the-cdn", **linked)

    def cdn(self, oid: str) -> None:
        data = self.hub.objects[oid]
        broken = self.hub.breaks.get(oid)
        self._part(data, upto=broken.pop(0) if broken else None, ETag=f'"{oid}"')

    def _part(self, data: bytes, *, upto: int | None = None, **headers: str) -> None:
        """The file, or what a Range asks for; with `upto` the connection closes after so many bytes."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        stop = int(asked[2]) + 1 if asked and asked[2] else len(data)
        body = data[start:stop]
        if asked:
            headers["Content_Range"] = f"bytes {start}-{start + len(body) - 1}/{len(data)}"
            self.hub.requests.append(f"RANGE {start}" + (f"-{stop}" if asked[2] else ""))
        sent = body if upto is None else body[:upto]
        self._answer(206 if asked else 200, sent, Content_Length=str(len(body)), Accept_Ranges="bytes", **headers)
        if upto is not None:
            self.close_connection = True

    def whoami(self) -> None:
        if not self._logged_in:
            self._refuse(401, message="Invalid credentials in Authorization header")
            return
        self._json({"type": "user", "name": self.hub.user, "orgs": [{"name": n} for n in self.hub.organizations]})

    # --- writing ---------------------------------------------------------------------------------------------------

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or self.hub.user}/{asked['name']}"
        if name in self.hub.repositories:
            self._refuse(409, message="You already created this model repo")
            return
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.repositories[name] = Repository(private=private)
        self.hub.repositories[name].commit_files({".gitattributes": b"*.gguf filter=lfs\n"})
        self._json({"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def validate_yaml(self) -> None:
        self._json({"errors": [], "warnings": []})

    def preupload(self, name: str, _revision: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        answer = []
        for each in json.loads(self.body)["files"]:
            there = repository.files.get(each["path"])
            large = each["size"] >= LARGE
            oid = None if there is None else sha256(there) if large else git_oid(there)
            kind = "lfs" if large else "regular"
            answer.append({"path": each["path"], "uploadMode": kind, "shouldIgnore": False, "oid": oid})
        self._json({"files": answer})

    def batch(self, name: str) -> None:
        objects = []
        for each in json.loads(self.body)["objects"]:
            found: dict[str, Any] = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.hub.objects:
                found["actions"] = {"upload": self._upload(each), "verify": {"href": f"{self.hub.url}/verify/{name}"}}
            objects.append(found)
        self._json({"transfer": "multipart" if self.hub.part_size else "basic", "objects": objects})

    def _upload(self, each: dict[str, Any]) -> dict[str, Any]:
        oid, size = each["oid"], self.hub.part_size
        if size is None:
            return {"href": f"{self.hub.elsewhere}/lfs/{oid}?X-Amz-Signature=secret-of-the-store"}
        count = -(-each["size"] // size)
        parts = {str(n + 1): f"{self.hub.elsewhere}/part/{oid}/{n + 1}?sig=secret-of-the-store" for n in range(count)}
        return {"href": f"{self.hub.url}/complete/{oid}", "header": {"chunk_size": str(size), **parts}}

    def put(self, oid: str) -> None:
        if sha256(self.body) != oid:
            self._refuse(400, message="checksum mismatch")
            return
        self.hub.objects[oid] = self.body
        self._answer(200)

    def put_part(self, oid: str, number: str) -> None:
        self.hub.parts.setdefault(oid, {})[int(number)] = self.body
        self._answer(200, ETag=f'"{number}"')

    def complete(self, oid: str) -> None:
        parts = self.hub.parts[oid]
        self.body = b"".join(parts[n] for n in sorted(parts))
        self.put(oid)

    def verify(self, _name: str) -> None:
        asked = json.loads(self.body)
        same = len(self.hub.objects.get(asked["oid"], b"")) == asked["size"]
        self._answer(200 if same else 404)

    def commit(self, name: str, _revision: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        changed = {}
        for line in self.body.decode().splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                changed[value["path"]] = self.hub.objects[value["oid"]]
        if self.hub.loses in changed:
            changed[self.hub.loses] = changed[self.hub.loses][::2]
        oid = repository.commit_files(changed)
        url = f"{self.hub.url}/{name}/commit/{oid}"
        self._json({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})


_ID = r"([\w.-]+/[\w.-]+)"
_ROUTES: tuple[tuple[str, tuple[str, ...], Any], ...] = (
    (rf"/api/models/{_ID}/tree/([^/]+)", ("GET",), _Handler.tree),
    (rf"/api/models/{_ID}/paths-info/([^/]+)", ("POST",), _Handler.paths_info),
    (rf"/api/models/{_ID}/preupload/([^/]+)", ("POST",), _Handler.preupload),
    (rf"/api/models/{_ID}/commit/([^/]+)", ("POST",), _Handler.commit),
    (rf"/api/models/{_ID}(/revision/([^/]+))?", ("GET",), _Handler.info),
    (r"/api/whoami-v2", ("GET",), _Handler.whoami),
    (r"/api/repos/create", ("POST",), _Handler.create),
    (r"/api/validate-yaml", ("POST",), _Handler.validate_yaml),
    (rf"/{_ID}\.git/info/lfs/objects/batch", ("POST",), _Handler.batch),
    (rf"/{_ID}/resolve/([^/]+)/(.+)", ("GET", "HEAD"), _Handler.resolve),
    (r"/cdn/(\w+)", ("GET", "HEAD"), _Handler.cdn),
    (r"/lfs/(\w+)", ("PUT",), _Handler.put),
    (r"/part/(\w+)/(\d+)", ("PUT",), _Handler.put_part),
    (r"/complete/(\w+)", ("POST",), _Handler.complete),
    (rf"/verify/{_ID}", ("POST",), _Handler.verify),
)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers on loopback until the end."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
