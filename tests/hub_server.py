"""A stand-in of the Hugging Face Hub on this machine: repositories, commits, branches and large files, in memory.

It answers the requests that huggingface_hub sends (2.4, without xet), so the tests run the real client code. It can
cut connections, have no time (429), lie about sizes and contents, gate repositories, and hide private ones. By hand:

    python tests/hub_server.py 8000
    HF_ENDPOINT=http://127.0.0.1:8000 HF_HUB_DISABLE_XET=1 HF_TOKEN=hf_owner HF_HOME=/tmp/hub python ...
"""

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

OWNER, READER = "owner", "reader"
TOKENS = {f"hf_{name}": name for name in (OWNER, READER)}
LARGE_FILES = (".safetensors", ".parquet", ".bin")
REPO = r"(?P<repo>[^/]+/[^/]+)"
KIND = r"/api/(?P<kind>model|dataset|space)s/" + REPO


@dataclass
class Commit:
    sha: str
    message: str
    files: dict[str, str]  # path to sha256 of the content
    parent: str | None


@dataclass
class Repo:
    kind: str
    id: str
    private: bool = False
    readers: set[str] | None = None  # of a gated repository: who may read it besides the owner
    heads: dict[str, str] = field(default_factory=dict)  # branches and tags to commits
    commits: dict[str, Commit] = field(default_factory=dict)

    def commit(self, branch: str, message: str, files: dict[str, str]) -> Commit:
        parent = self.heads.get(branch)
        sha = hashlib.sha1(f"{self.id} {len(self.commits)} {message} {sorted(files.items())}".encode()).hexdigest()
        self.commits[sha] = Commit(sha, message, files, parent)
        self.heads[branch] = sha
        return self.commits[sha]

    def history(self, revision: str = "main") -> list[Commit]:
        """Commits of a revision, the latest first."""
        found, sha = [], self.heads.get(revision, revision)
        while sha is not None:
            found.append(self.commits[sha])
            sha = found[-1].parent
        return found


class Answer(Exception):
    """What a request gets, raised where it is known."""

    def __init__(self, status: int, value=None, **headers: str):
        self.status = status
        self.body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.headers = {name.replace("_", "-"): text for name, text in headers.items()}


class HubServer(ThreadingHTTPServer):
    """The server. `with HubServer() as hub:` serves in a thread; `hub.url` is its address."""

    daemon_threads = True

    def __init__(self, port: int = 0):
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}  # by sha256
        self.log: list[tuple[str, str]] = []  # method and path of every request
        self.lock = threading.Lock()
        self.before_write: Callable[[], None] | None = None  # called before each request that may change something
        self._cuts: list[list] = []
        self._throttled: list[list] = []
        self.lies: dict[str, tuple[bytes | None, int | None]] = {}  # by path: other content, another size

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exception(), OSError):  # clients that go away are no news
            super().handle_error(request, client_address)

    def repo(self, repo_id: str, kind: str = "model") -> Repo:
        return self.repos[kind, repo_id]

    def content(self, repo_id: str, path: str, revision: str = "main") -> bytes:
        return self.blobs[self.repo(repo_id).history(revision)[0].files[path]]

    def cut(self, method: str, path: str, after: int, times: int = 1) -> None:
        """Ends the next connections with this method and a path that holds `path` after so many bytes of content."""
        self._cuts.append([method, path, after, times])

    def cut_now(self, method: str, path: str) -> int | None:
        """Bytes after which to end this connection, or None."""
        with self.lock:
            for entry in self._cuts:
                if entry[0] == method and entry[1] in path and entry[3] > 0:
                    entry[3] -= 1
                    return entry[2]
        return None

    def throttle(self, method: str, path: str, times: int = 1) -> None:
        """Answers 429 to the next requests with this method and a path that holds `path`."""
        self._throttled.append([method, path, times])

    def throttle_now(self, method: str, path: str) -> bool:
        with self.lock:
            for entry in self._throttled:
                if entry[0] == method and entry[1] in path and entry[2] > 0:
                    entry[2] -= 1
                    return True
        return False

    def lie(self, path: str, content: bytes | None = None, size: int | None = None) -> None:
        """Sends other content for a file, under the digest of the one that was uploaded, or states another size."""
        self.lies[path] = content, size

    def heal(self) -> None:
        """No more cuts, throttling and lies."""
        self._cuts.clear()
        self._throttled.clear()
        self.lies.clear()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each body waits 40 ms, until the client has acknowledged the headers
    server: HubServer

    def log_message(self, *_) -> None:
        pass

    def do(self) -> None:
        self.path, _, self.query = self.path.partition("?")
        path, limit = urlsplit(self.path).path, self.server.cut_now(self.command, self.path)
        self.server.log.append((self.command, unquote(path)))
        try:
            length = int(self.headers.get("Content-Length") or 0)
            if limit is not None and self.command in ("PUT", "POST"):
                self.rfile.read(min(limit, length))
                self.close_connection = True
                return self.connection.shutdown(2)
            self.content = self._chunks() if "chunked" in self.headers.get("Transfer-Encoding", "") else b""
            self.content = self.content or self.rfile.read(length)
            if self.server.throttle_now(self.command, self.path):
                raise Answer(429, {"error": "Too many requests"}, Retry_After="0", X_Error_Message="Too many requests")
            if self.server.before_write is not None and self.command not in ("GET", "HEAD"):
                self.server.before_write()
            for methods, pattern, action in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in methods:
                    values = {name: value and unquote(value) for name, value in match.groupdict().items()}
                    with self.server.lock:
                        action(self, **values)
            raise Answer(404, {"error": f"{self.command} {path} is not known to the stand-in"})
        except Answer as answer:
            self._send(answer, limit)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do

    def _chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _send(self, answer: Answer, limit: int | None) -> None:
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[:limit])
        if limit is not None:
            self.close_connection = True

    @property
    def user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        return TOKENS.get(token)

    def json(self):
        return json.loads(self.content)

    def find(self, kind: str | None, repo: str, write: bool = False) -> Repo:
        """The repository, for who may see it. As on the Hub, one that is private looks as if it were not there."""
        found = self.server.repos.get((kind or "model", repo))
        if found is None or (found.private and self.user != OWNER):
            raise Answer(404 if self.user else 401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if write and self.user != OWNER:
            raise Answer(403, {"error": "Forbidden"}, X_Error_Message=f"You have no write access to {repo}")
        return found

    def at(self, repo: Repo, revision: str | None) -> Commit:
        sha = repo.heads.get(revision or "main", revision)
        if sha not in repo.commits:
            raise Answer(404, {"error": f"Invalid rev id: {revision}"}, X_Error_Code="RevisionNotFound")
        return repo.commits[sha]

    # repositories

    def whoami(self) -> None:
        if self.user is None:
            raise Answer(401, {"error": "Invalid credentials"}, X_Error_Message="Invalid credentials")
        raise Answer(200, {"type": "user", "name": self.user, "orgs": [], "auth": {"type": "access_token"}})

    def create(self) -> None:
        if self.user is None:
            raise Answer(401, {"error": "Invalid credentials"}, X_Error_Message="Log in first")
        asked = self.json()
        kind, name = asked.get("type") or "model", f"{asked.get('organization') or self.user}/{asked['name']}"
        url = {"url": f"{self.server.url}/{'' if kind == 'model' else kind + 's/'}{name}", "name": name}
        if (kind, name) in self.server.repos:
            raise Answer(409, url | {"error": "You already created this repo"})
        if self.user != OWNER:
            raise Answer(403, {"error": "Forbidden"}, X_Error_Message=f"You may not create repositories in {name}")
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        repo = self.server.repos[kind, name] = Repo(kind, name, private)
        repo.commit("main", "initial commit", {})
        raise Answer(200, url)

    def delete(self) -> None:
        asked = self.json()
        name = f"{asked.get('organization') or self.user}/{asked['name']}"
        repo = self.find(asked.get("type"), name, write=True)
        del self.server.repos[repo.kind, repo.id]
        raise Answer(200, {})

    def info(self, kind: str, repo: str, revision: str | None = None) -> None:
        found = self.find(kind, repo)
        commit = self.at(found, revision)
        files = [
            {"rfilename": path, "size": len(self.server.blobs[oid]), "blobId": oid}
            for path, oid in sorted(commit.files.items())
        ]
        gated = "auto" if found.readers is not None else False
        values = {"_id": found.id, "id": found.id, "modelId": found.id, "sha": commit.sha, "tags": [], "gated": gated}
        raise Answer(200, values | {"private": found.private, "siblings": files, "cardData": {}})

    def branch(self, kind: str, repo: str, revision: str) -> None:
        found = self.find(kind, repo, write=True)
        if revision in found.heads:
            raise Answer(409, {"error": "Reference already exists"})
        found.heads[revision] = self.at(found, (self.json() if self.content else {}).get("startingPoint")).sha
        raise Answer(200, {})

    def tag(self, kind: str, repo: str, revision: str) -> None:
        found = self.find(kind, repo, write=True)
        found.heads[self.json()["tag"]] = self.at(found, revision).sha
        raise Answer(200, {})

    def refs(self, kind: str, repo: str) -> None:
        heads = self.find(kind, repo).heads
        entries = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in heads.items()]
        raise Answer(200, {"branches": entries, "converts": [], "tags": []})

    def commits(self, kind: str, repo: str, revision: str) -> None:
        found = self.find(kind, repo)
        date = "2026-01-01T00:00:00.000Z"
        history = found.history(self.at(found, revision).sha)
        raise Answer(
            200, [{"id": c.sha, "title": c.message, "message": "", "authors": [], "date": date} for c in history]
        )

    # contents

    def entry(self, path: str, oid: str) -> dict:
        size = len(self.server.blobs[oid])
        large = {"lfs": {"oid": oid, "size": size, "pointerSize": 130}} if path.endswith(LARGE_FILES) else {}
        return {"type": "file", "path": path, "oid": oid[:40], "size": size} | large

    def tree(self, kind: str, repo: str, revision: str, path: str | None = None) -> None:
        files = self.at(self.find(kind, repo), revision).files.items()
        below = f"{path}/" if path else ""
        raise Answer(200, [self.entry(name, oid) for name, oid in sorted(files) if name.startswith(below)])

    def paths_info(self, kind: str, repo: str, revision: str) -> None:
        asked = self.json()["paths"] if self.content[:1] == b"{" else parse_qs(self.content.decode()).get("paths", [])
        files = self.at(self.find(kind, repo), revision).files
        raise Answer(200, [self.entry(path, files[path]) for path in asked if path in files])

    def resolve(self, repo: str, revision: str, path: str, kind: str | None = None) -> None:
        found = self.find(kind, repo)
        if found.readers is not None and self.user != OWNER and self.user not in found.readers:
            message = f"Access to model {repo} is restricted and you are not in the authorized list."
            raise Answer(
                403 if self.user else 401, {"error": message}, X_Error_Code="GatedRepo", X_Error_Message=message
            )
        commit = self.at(found, revision)
        if path not in commit.files:
            raise Answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit.sha)
        oid = commit.files[path]
        headers = {"X_Repo_Commit": commit.sha, "ETag": f'"{oid}"', "Accept_Ranges": "bytes"}
        other, size = self.server.lies.get(path, (None, None))
        content = self.server.blobs[oid] if other is None else other
        if path.endswith(LARGE_FILES):
            headers |= {"X_Linked_Etag": f'"{oid}"', "X_Linked_Size": str(len(content) if size is None else size)}
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if start is None:
            raise Answer(200, content, **headers)
        first = int(start[1])
        headers["Content_Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        raise Answer(206, content[first:], **headers)

    def preupload(self, kind: str, repo: str, revision: str) -> None:
        self.at(self.find(kind, repo, write=True), revision)
        modes = [
            {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LARGE_FILES) else "regular"}
            for file in self.json()["files"]
        ]
        raise Answer(200, {"files": [mode | {"shouldIgnore": False} for mode in modes]})

    def lfs_batch(self, repo: str, kind: str | None = None) -> None:
        self.find(kind, repo, write=True)
        objects = self.json()["objects"]
        for entry in objects:
            if entry["oid"] not in self.server.blobs:
                entry["actions"] = {"upload": {"href": f"{self.server.url}/_lfs/{entry['oid']}"}}
        raise Answer(200, {"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> None:
        if hashlib.sha256(self.content).hexdigest() != oid:
            raise Answer(400, {"error": "The content has another checksum"})
        self.server.blobs[oid] = self.content
        raise Answer(200, {})

    def commit(self, kind: str, repo: str, revision: str) -> None:
        found = self.find(kind, repo, write=True)
        files, message = dict(self.at(found, revision).files), ""
        for line in self.content.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = hashlib.sha256(content).hexdigest()
                self.server.blobs[files[value["path"]]] = content
            elif key == "lfsFile":
                if value["oid"] not in self.server.blobs:
                    raise Answer(400, {"error": f"{value['path']} was not uploaded"})
                files[value["path"]] = value["oid"]
            else:
                files = {path: oid for path, oid in files.items() if not f"{path}/".startswith(f"{value['path']}/")}
        commit = found.commit(revision, message, files)
        url = f"{self.server.url}/{found.id}/commit/{commit.sha}"
        raise Answer(200, {"commitUrl": url, "commitOid": commit.sha, "pullRequestUrl": None, "success": True})

    def fine(self) -> None:
        raise Answer(200, {"errors": [], "warnings": []})


ROUTES = [
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create),
    ("DELETE", r"/api/repos/delete", Handler.delete),
    ("POST", r"/api/validate-yaml", Handler.fine),
    ("POST", KIND + r"/preupload/(?P<revision>.+)", Handler.preupload),
    ("POST", KIND + r"/commit/(?P<revision>.+)", Handler.commit),
    ("POST", KIND + r"/branch/(?P<revision>.+)", Handler.branch),
    ("POST", KIND + r"/tag/(?P<revision>.+)", Handler.tag),
    ("GET", KIND + r"/refs", Handler.refs),
    ("GET", KIND + r"/commits/(?P<revision>.+)", Handler.commits),
    ("GET", KIND + r"/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", Handler.tree),
    ("POST", KIND + r"/paths-info/(?P<revision>.+)", Handler.paths_info),
    ("GET", KIND + r"(/revision/(?P<revision>.+))?", Handler.info),
    (
        ("GET", "HEAD"),
        r"/((?P<kind>dataset|space)s/)?" + REPO + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
        Handler.resolve,
    ),
    ("POST", r"/((?P<kind>dataset|space)s/)?" + REPO + r"\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/_lfs/(?P<oid>\w+)", Handler.lfs_upload),
]


if __name__ == "__main__":
    hub = HubServer(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    print(f"HF_ENDPOINT={hub.url} HF_HUB_DISABLE_XET=1 HF_TOKEN=hf_{OWNER}", flush=True)
    hub.serve_forever()
