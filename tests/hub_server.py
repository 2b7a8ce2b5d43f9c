"""A small Hugging Face Hub on the loopback interface, for the real `huggingface_hub` client to talk to.

It speaks what the client uses to create a repository, commit to it (small files inline, weights through Git LFS)
and download from it. Everything is kept in memory; there is one branch, `main`.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin")


class Repository:
    """The files of one model repository at its newest commit."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.messages: list[str] = []

    @property
    def sha(self) -> str:
        """Hash of the newest commit."""
        content = [(name, hashlib.sha1(data).hexdigest()) for name, data in sorted(self.files.items())]
        return hashlib.sha1(repr((content, self.messages)).encode()).hexdigest()

    def has(self, revision: str) -> bool:
        """Whether the revision is the branch or its newest commit."""
        return revision in ("main", "HEAD", self.sha)


class LocalHub:
    """The server, as a context manager.

    Attributes:
        repositories: by name, e.g. `"cf-cxr/tiny"`.
        requests: `"METHOD /path"` of every request, in order.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def add_folder(self, name: str, folder: Path) -> None:
        """Publishes the files of a folder, as if they had been pushed."""
        repository = self.repositories.setdefault(name, Repository())
        repository.files |= {
            path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()
        }
        repository.messages.append("add folder")


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._route()

    def do_GET(self):
        self._route()

    def do_POST(self):
        self._route()

    def do_PUT(self):
        self._route()

    def log_message(self, *_):
        """Keeps the test output clean."""

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        self.hub.requests.append(f"{self.command} {path}")
        routes = [
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
            (r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", self._info),
            (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/.*)?", self._tree),
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", self._validate_yaml),
            (r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", self._preupload),
            (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._lfs_batch),
            (r"/lfs/([0-9a-f]{64})", self._lfs_upload),
            (r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", self._commit),
        ]
        if self.command in ("POST", "PUT") and "/lfs/" not in path and "authorization" not in self.headers:
            return self._send(401, {"error": "no token"})
        for pattern, answer in routes:
            if match := re.fullmatch(pattern, path):
                return answer(*match.groups(), **({"body": body} if self.command in ("POST", "PUT") else {}))
        return self._send(404, {"error": f"no such endpoint: {path}"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, content, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if not isinstance(content, bytes):
            self.send_header("Content-Type", "application/json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _repository(self, name: str, revision: str | None = None) -> Repository | None:
        """The repository, or None after an error was sent."""
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        elif revision is not None and not repository.has(revision):
            self._send(404, {"error": "Revision not found"}, X_Error_Code="RevisionNotFound")
        else:
            return repository
        return None

    def _resolve(self, name: str, revision: str, file: str) -> None:
        if (repository := self._repository(name, revision)) is None:
            return
        if file not in repository.files:
            headers = {"X_Error_Code": "EntryNotFound", "X_Repo_Commit": repository.sha}
            return self._send(404, {"error": "Entry not found"}, **headers)
        data = repository.files[file]
        headers = {"X_Repo_Commit": repository.sha, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        if file.endswith(LFS_SUFFIXES):
            headers |= {
                "X_Linked_ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X_Linked_Size": str(len(data)),
            }
        return self._send(200, data, **headers)

    def _info(self, name: str, revision: str | None) -> None:
        if (repository := self._repository(name, revision)) is not None:
            siblings = [{"rfilename": file} for file in repository.files]
            common = {"private": False, "tags": [], "downloads": 0, "likes": 0}
            self._send(200, {"id": name, "sha": repository.sha, "siblings": siblings, **common})

    def _tree(self, name: str, revision: str) -> None:
        if (repository := self._repository(name, revision)) is not None:
            entries = [
                {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for file, data in repository.files.items()
            ]
            self._send(200, entries)

    def _create(self, body: bytes) -> None:
        request = json.loads(body)
        name = f"{request['organization']}/{request['name']}"
        status = 409 if name in self.hub.repositories else 200
        self.hub.repositories.setdefault(name, Repository())
        self._send(status, {"url": f"{self.hub.url}/{name}", "name": name})

    def _validate_yaml(self, body: bytes) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def _preupload(self, name: str, revision: str, body: bytes) -> None:
        if self._repository(name, revision) is not None:
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._send(200, {"files": modes})

    def _lfs_batch(self, name: str, body: bytes) -> None:
        if self._repository(name) is not None:
            objects = [
                {
                    "oid": item["oid"],
                    "size": item["size"],
                    "actions": {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}},
                }
                for item in json.loads(body)["objects"]
            ]
            self._send(200, {"transfer": "basic", "objects": objects})

    def _lfs_upload(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self._send(400, {"error": "content does not have this hash"})
        self.hub.blobs[oid] = body
        return self._send(200, b"")

    def _commit(self, name: str, revision: str, body: bytes) -> None:
        if (repository := self._repository(name, revision)) is None:
            return
        for operation in map(json.loads, body.splitlines()):
            value = operation["value"]
            if operation["key"] == "header":
                repository.messages.append(value["summary"])
            elif operation["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.blobs[value["oid"]]
        url = f"{self.hub.url}/{name}/commit/{repository.sha}"
        self._send(200, {"success": True, "commitUrl": url, "commitOid": repository.sha})
