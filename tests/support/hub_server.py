"""A local server of the Hub's API, enough for the real `huggingface_hub` and `datasets`, with faults on demand.

    with serve() as hub:
        hub.fault("POST", "/commit/", status=429, headers={"Retry-After": "2"})   # once; times=None for ever
        ...
        assert [entry.path for entry in hub.log if entry.method == "PUT"] == [...]

Everything is kept in memory. Paths are split before they are unquoted, as a revision may hold a quoted slash.
"""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

TOKENS = {"hf_writer": ("me", "write"), "hf_reader": ("me", "read"), "hf_stranger": ("other", "write")}
LFS_SUFFIXES = (".parquet", ".safetensors", ".bin", ".gguf", ".png")
PAGE = 1000
# a client that would wait for ever fails its test instead of holding it up
LONGEST_HANG = 20


@dataclass
class Blob:
    """One file of a tree: its bytes, and the sha256 under which they are stored when they are LFS."""

    data: bytes
    sha256: str | None = None

    @property
    def oid(self) -> str:
        content = self.data
        if self.sha256:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
            content = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid

    def entry(self, path: str) -> dict:
        entry = {"type": "file", "path": path, "size": len(self.data), "oid": self.oid}
        if self.sha256:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": 130}
        return entry


@dataclass
class Commit:
    oid: str
    parent: str | None
    title: str
    message: str
    tree: dict[str, Blob]
    date: str


@dataclass
class Repo:
    type: str
    id: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # full reference name -> commit
    pulls: list[dict] = field(default_factory=list)

    def commit(self, ref: str, tree: dict[str, Blob], title: str, message: str = "", parent: str | None = None) -> str:
        # as with git, no two commits share a name: clients keep what they have read under it
        oid = hashlib.sha1(f"{self.id} {title} {time.time_ns()} {len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent or self.refs.get(ref), title, message, tree, now())
        self.refs[ref] = oid
        return oid

    def resolve(self, revision: str) -> Commit:
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        if re.fullmatch("[0-9a-f]{7,40}", revision):
            for oid, commit in self.commits.items():
                if oid.startswith(revision):
                    return commit
        raise Refusal(404, f"Invalid rev id: {revision}", code="RevisionNotFound")

    def ref_name(self, revision: str) -> str:
        ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
        if ref not in self.refs:
            raise Refusal(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
        return ref

    @property
    def files(self) -> dict[str, bytes]:
        return {path: blob.data for path, blob in self.resolve("main").tree.items()}


@dataclass
class Fault:
    """What happens to requests whose method and path match, after `skip` of them and `times` times (None: for ever).

    `action`: "status" answers with `status`; "reset" and "close" drop the connection without an answer, by RST or FIN,
    "lose" handles the request and then drops it; "hang" waits until the server stops, or for `LONGEST_HANG` seconds;
    "drip" sends the status line and "drip_body" the headers, then what follows a byte at a time, `keep` a second;
    "truncate" and "drop_body" send `keep` bytes of the body, with a true or a too large length; "corrupt" sets all its
    bits; "call" runs `call` first and then serves the request.
    """

    method: str
    pattern: str
    action: str = "status"
    status: int = 500
    headers: dict = field(default_factory=dict)
    body: bytes = b'{"error": "injected"}'
    keep: int = 0
    times: int | None = 1
    skip: int = 0
    call: Callable[[], None] | None = None
    seen: int = 0
    done: int = 0


@dataclass
class LogEntry:
    method: str
    path: str
    range: str | None = None
    authorized: bool = False
    status: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, body: dict | None = None):
        super().__init__(message)
        self.status, self.body = status, body or {"error": message}
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


class Hub:
    """The repositories, the stored objects, the faults to inject and the log of all requests."""

    def __init__(self, endpoint: str = "") -> None:
        self.endpoint = endpoint
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[LogEntry] = []
        self.lock = threading.RLock()
        self.stopped = threading.Event()
        self.hanging = threading.Event()
        self.granted: set[str] = set()  # users with access to gated repositories
        self.cdn = False  # whether LFS files are redirected to another origin, as the real Hub does
        self.xet_dir: Path | None = None
        self.xet_cas: str | None = None  # the address of Xet's storage, where it is not that folder itself

    def fault(self, method: str, pattern: str, action: str = "status", **settings: object) -> Fault:
        self.faults.append(Fault(method, pattern, action, **settings))
        return self.faults[-1]

    def requests(self, method: str, pattern: str) -> list[LogEntry]:
        return [entry for entry in self.log if entry.method == method and re.search(pattern, entry.path)]

    def create(self, repo_id: str, files: dict[str, bytes] | None = None, *, type: str = "dataset", **flags) -> Repo:
        repo = self.repos[type, repo_id] = Repo(type, repo_id, **flags)
        repo.commit("refs/heads/main", {".gitattributes": Blob(b"*.parquet filter=lfs\n")}, "initial commit")
        if files:
            self.push(repo, files)
        return repo

    def push(self, repo: Repo, files: dict[str, bytes], ref: str = "refs/heads/main") -> str:
        """Commits files as somebody else would, without a client."""
        tree = repo.resolve(ref).tree | {path: self.blob(path, data) for path, data in files.items()}
        return repo.commit(ref, tree, "edit by hand")

    def blob(self, path: str, data: bytes) -> Blob:
        if not path.endswith(LFS_SUFFIXES):
            return Blob(data)
        sha256 = hashlib.sha256(data).hexdigest()
        self.objects[sha256] = data
        return Blob(data, sha256)

    def is_lfs(self, tree: dict[str, Blob], path: str) -> bool:
        """Whether a path goes to the large storage: by its suffix, but for what .gitattributes says is text."""
        plain = re.findall(r"^\*(\S+) !filter", tree.get(".gitattributes", Blob(b"")).data.decode(), re.MULTILINE)
        return path.endswith(LFS_SUFFIXES) and not path.endswith(tuple(plain))

    def matching_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if re.fullmatch(fault.method, method) and re.search(fault.pattern, path):
                    fault.seen += 1
                    if fault.seen > fault.skip and (fault.times is None or fault.done < fault.times):
                        fault.done += 1
                        return fault
        return None

    def fetch_object(self, sha256: str) -> bytes:
        if sha256 not in self.objects and self.xet_dir:
            self.objects[sha256] = _read_xet(self.xet_dir, sha256)
        if sha256 not in self.objects:
            raise Refusal(400, f"LFS object {sha256} was never uploaded")
        return self.objects[sha256]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def log_message(self, *args: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def serve(self) -> None:
        split = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        body = self.read_body()
        user, self.role = self.identify()
        self.user = user
        entry = LogEntry(self.command, self.path, self.headers.get("Range"), bool(user), bytes_in=len(body))
        self.hub.log.append(entry)
        self.entry = entry
        fault = self.hub.matching_fault(self.command, self.path)
        if fault and fault.action in ("reset", "close"):
            return self.drop(reset=fault.action == "reset")
        if fault and fault.action == "hang":
            self.hub.hanging.set()
            self.hub.stopped.wait(LONGEST_HANG)
            return self.drop(reset=True)
        if fault and fault.call:
            fault.call()
        if fault and fault.action == "status":
            return self.answer(fault.status, fault.body, fault.headers)
        try:
            if self.headers.get("Authorization") and not user:
                raise Refusal(401, "Invalid credentials in Authorization header")
            status, content, headers = self.dispatch(split.path, body)
        except Refusal as refusal:
            status, content, headers = refusal.status, refusal.body, refusal.headers
        if fault and fault.action == "lose":
            return self.drop(reset=True)
        self.answer(status, content, headers, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def identify(self) -> tuple[str | None, str | None]:
        return TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "), (None, None))

    def drop(self, *, reset: bool) -> None:
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True
        self.connection.close()

    def answer(self, status: int, content: object, headers: dict, fault: Fault | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        length = len(data)
        if fault and fault.action == "corrupt" and data:
            data = b"\xff" * len(data)
        if fault and fault.action in ("truncate", "drop_body"):
            data = data[: fault.keep]
            length = len(data) if fault.action == "truncate" else length
        drips = fault and fault.action.startswith("drip") and fault
        if drips and drips.action == "drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            return self.drip(b"X-Slow: " + b"a" * 100_000, drips.keep)
        self.send_response(status)
        self.entry.status = status
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        headers = {"Content-Type": kind, "Content-Length": str(length), "X-Request-Id": "test"} | headers
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if drips:
            return self.drip(data, drips.keep)
        if self.command != "HEAD":
            self.wfile.write(data)
            self.entry.bytes_out = len(data)
        if len(data) < length and self.command != "HEAD":
            self.drop(reset=False)

    def drip(self, data: bytes, rate: int) -> None:
        """Sends a byte at a time, `rate` a second, until the client has enough of it."""
        for number in range(len(data)):
            if self.hub.stopped.wait(1 / rate) or number > LONGEST_HANG * rate:
                break
            self.wfile.write(data[number : number + 1])
            self.wfile.flush()
        self.drop(reset=True)

    def dispatch(self, path: str, body: bytes) -> tuple[int, object, dict]:
        for method, pattern, function in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method in (self.command, "*"):
                groups = {name: unquote(value) for name, value in found.groupdict().items() if value is not None}
                with self.hub.lock:
                    answer = function(self, body, **groups)
                if not isinstance(answer, tuple):
                    answer = (200, answer, {})
                return answer
        raise Refusal(404, f"no such route: {self.command} {path}")

    def repo(self, kind: str | None, id: str, *, write: bool = False, content: bool = False) -> Repo:
        repo = self.hub.repos.get((singular(kind), id))
        owner = id.split("/")[0]
        if repo is None or (repo.private and self.user != owner):
            raise Refusal(404 if self.user else 401, "Repository not found", code="RepoNotFound")
        if write and (self.user != owner or self.role != "write"):
            raise Refusal(403, "You don't have the required permissions for this operation")
        if content and repo.gated and self.user not in self.hub.granted | {owner}:
            message = f"Access to {kind or 'model'} {id} is restricted. You must be authenticated to access it."
            raise Refusal(403 if self.user else 401, message, code="GatedRepo")
        return repo


ROUTES: list[tuple[str, str, Callable]] = []
API = r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"
FILE = r"/(?:(?P<kind>datasets|spaces)/)?(?P<id>[^/]+/[^/]+?)"
REVISION = r"(?P<rev>[^/]+)"


def route(method: str, pattern: str) -> Callable:
    def register(function: Callable) -> Callable:
        ROUTES.append((method, pattern, function))
        return function

    return register


def singular(kind: str | None) -> str:
    return (kind or "models").removesuffix("s")


def prefix(repo: Repo) -> str:
    return "" if repo.type == "model" else f"{repo.type}s/"


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


@route("GET", "/api/whoami-v2")
def whoami(request, body):
    if not request.user:
        raise Refusal(401, "Invalid credentials in Authorization header")
    access = {"displayName": "test", "role": request.role}
    return {"type": "user", "name": request.user, "fullname": "", "orgs": [], "auth": {"accessToken": access}}


@route("POST", "/api/repos/create")
def create(request, body):
    wish = json.loads(body)
    kind, owner = wish.get("type") or "model", wish.get("organization") or request.user
    if not request.user:
        raise Refusal(401, "Invalid username or password.")
    if request.role != "write" or owner != request.user:
        raise Refusal(403, "You don't have the rights to create a repository under this namespace")
    id = f"{owner}/{wish['name']}"
    existed = (kind, id) in request.hub.repos
    repo = request.hub.repos.get((kind, id)) or request.hub.create(
        id, type=kind, private=wish.get("visibility") == "private" or bool(wish.get("private"))
    )
    answer = {"url": f"{request.hub.endpoint}/{prefix(repo)}{id}"}
    return (409, answer | {"error": "You already created this repo"}, {}) if existed else answer


@route("POST", "/api/validate-yaml")
def validate_yaml(request, body):
    content = json.loads(body)["content"]
    if content.startswith("---") and not re.match(r"---\r?\n(.*?\r?\n)?---(\r?\n|$)", content, re.S):
        return 400, {"errors": [{"message": "the front matter does not end"}], "warnings": []}, {}
    return {"errors": [], "warnings": []}


@route("GET", API)
@route("GET", f"{API}/revision/{REVISION}")
def repo_info(request, body, kind, id, rev="main"):
    repo = request.repo(kind, id)
    commit = repo.resolve(rev)
    flags = {"private": repo.private, "gated": "manual" if repo.gated else False, "disabled": False}
    times = {"lastModified": commit.date, "createdAt": commit.date}
    siblings = [{"rfilename": path} for path in sorted(commit.tree)]
    return flags | times | {"id": id, "sha": commit.oid, "downloads": 0, "likes": 0, "tags": [], "siblings": siblings}


@route("GET", f"{API}/auth-check")
def auth_check(request, body, kind, id):
    request.repo(kind, id, content=True)
    return {}


@route("GET", f"{API}/tree/{REVISION}(?:/(?P<path>.*))?")
def tree(request, body, kind, id, rev, path=""):
    files = request.repo(kind, id).resolve(rev).tree
    folder = f"{path.strip('/')}/" if path.strip("/") else ""
    inside = {name: blob for name, blob in sorted(files.items()) if name.startswith(folder)}
    if folder and not inside:
        raise Refusal(404, f"{path} does not exist", code="EntryNotFound")
    entries = {}
    for name, blob in inside.items():
        parts = name.removeprefix(folder).split("/")
        for depth in range(1, len(parts)):
            parent = folder + "/".join(parts[:depth])
            entries[parent] = {"type": "directory", "path": parent, "oid": "0" * 40, "size": 0}
        entries[name] = blob.entry(name)
    if request.query.get("recursive", "").lower() != "true":
        entries = {name: entry for name, entry in entries.items() if "/" not in name.removeprefix(folder)}
    start = int(request.query.get("cursor", 0))
    page = list(entries.values())[start : start + PAGE]
    if start + PAGE >= len(entries):
        return page
    again = re.sub(r"&?cursor=\d+", "", request.path)
    joint = "&" if "?" in again else "?"
    return 200, page, {"Link": f'<{request.hub.endpoint}{again}{joint}cursor={start + PAGE}>; rel="next"'}


@route("POST", f"{API}/paths-info/{REVISION}")
def paths_info(request, body, kind, id, rev):
    files = request.repo(kind, id).resolve(rev).tree
    wanted = parse_qs(body.decode()).get("paths", [])
    folders = [path for path in wanted if path not in files and any(name.startswith(f"{path}/") for name in files)]
    known = [files[path].entry(path) for path in wanted if path in files]
    return known + [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders]


@route("GET", f"{API}/refs")
def refs(request, body, kind, id):
    repo = request.repo(kind, id)
    answer = {"branches": [], "tags": [], "converts": [], "pullRequests": []}
    keys = {"refs/heads/": "branches", "refs/tags/": "tags", "refs/pr/": "pullRequests"}
    for ref, oid in repo.refs.items():
        start = next(start for start in keys if ref.startswith(start))
        answer[keys[start]].append({"name": ref.removeprefix(start), "ref": ref, "targetCommit": oid})
    return answer


@route("GET", f"{API}/commits/{REVISION}")
def commits(request, body, kind, id, rev):
    repo = request.repo(kind, id)
    commit, found = repo.resolve(rev), []
    while commit:
        who = [{"user": id.split("/")[0]}]
        found.append(
            {"id": commit.oid, "title": commit.title, "message": commit.message, "date": commit.date, "authors": who}
        )
        commit = repo.commits.get(commit.parent)
    return found


@route("POST", f"{API}/branch/{REVISION}")
def create_branch(request, body, kind, id, rev):
    repo = request.repo(kind, id, write=True)
    if f"refs/heads/{rev}" in repo.refs:
        raise Refusal(409, f"Reference already exists: refs/heads/{rev}")
    if rev.startswith("refs/"):
        raise Refusal(400, f"Invalid reference for a branch: {rev}")
    repo.refs[f"refs/heads/{rev}"] = repo.resolve(json.loads(body or b"{}").get("startingPoint") or "main").oid
    return {}


@route("POST", f"{API}/tag/{REVISION}")
def create_tag(request, body, kind, id, rev):
    repo, name = request.repo(kind, id, write=True), json.loads(body)["tag"]
    if f"refs/tags/{name}" in repo.refs:
        raise Refusal(409, f"Tag {name} already exists")
    repo.refs[f"refs/tags/{name}"] = repo.resolve(rev).oid
    return {}


@route("POST", f"{API}/preupload/{REVISION}")
def preupload(request, body, kind, id, rev):
    repo = request.repo(kind, id, write="create_pr" not in request.query)
    files, there = [], repo.resolve(rev).tree
    for file in json.loads(body)["files"]:
        mode = "lfs" if request.hub.is_lfs(there, file["path"]) else "regular"
        known = {"oid": there[file["path"]].etag} if file["path"] in there else {}
        files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": ignored(there, file["path"])} | known)
    return {"files": files}


def ignored(tree: dict[str, Blob], path: str) -> bool:
    """What git does with plain lines of a .gitignore: a name at any depth, a folder, or a path from the root."""
    rules = tree[".gitignore"].data.decode().splitlines() if ".gitignore" in tree else []
    parts = path.split("/")
    names = [name for depth in range(1, len(parts) + 1) for name in (parts[depth - 1], "/" + "/".join(parts[:depth]))]
    return any(fnmatch(name, rule.rstrip("/")) for rule in rules if rule and rule[0] != "#" for name in names)


@route("POST", FILE + r"\.git/info/lfs/objects/batch")
def lfs_batch(request, body, id, kind=None):
    repo, objects = request.repo(kind, id), []
    for thing in json.loads(body)["objects"]:
        upload = {"href": f"{request.hub.endpoint}/lfs/{thing['oid']}", "header": {}}
        verify = {"href": f"{request.hub.endpoint}/{prefix(repo)}{id}.git/verify"}
        actions = {} if thing["oid"] in request.hub.objects else {"actions": {"upload": upload, "verify": verify}}
        objects.append({"oid": thing["oid"], "size": thing["size"]} | actions)
    return {"transfer": "basic", "objects": objects}


@route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
def lfs_put(request, body, oid):
    if hashlib.sha256(body).hexdigest() != oid:
        raise Refusal(400, "the bytes do not have the sha256 they were announced with")
    request.hub.objects[oid] = body
    return 200, b"", {"ETag": f'"{oid}"'}


@route("POST", FILE + r"\.git/verify")
def lfs_verify(request, body, id, kind=None):
    wish = json.loads(body)
    if len(request.hub.objects.get(wish["oid"], b"")) != wish["size"]:
        raise Refusal(400, "the stored object has another size")
    return {}


@route("POST", f"{API}/commit/{REVISION}")
def commit(request, body, kind, id, rev):
    pull = request.query.get("create_pr") == "1"
    repo = request.repo(kind, id, write=not pull)
    lines = [json.loads(line) for line in body.splitlines() if line]
    header = lines.pop(0)["value"]
    ref = repo.ref_name(rev)
    parent = header.get("parentCommit")
    if parent and not pull and not repo.refs[ref].startswith(parent):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    base = repo.resolve(parent) if parent else repo.resolve(rev)
    files = dict(base.tree)
    for line in lines:
        _apply(request.hub, files, line["key"], line["value"])
    answer = {"success": True}
    if pull:
        ref = _open_pull(repo, header["summary"], base.oid, request.user)
        answer["pullRequestUrl"] = f"{request.hub.endpoint}/{prefix(repo)}{id}/discussions/{ref.split('/')[-1]}"
    oid = repo.commit(ref, files, header["summary"], header.get("description", ""))
    return answer | {"commitOid": oid, "commitUrl": f"{request.hub.endpoint}/{prefix(repo)}{id}/commit/{oid}"}


def _apply(hub: Hub, files: dict[str, Blob], key: str, value: dict) -> None:
    path = value["path"]
    if key == "file":
        files[path] = Blob(base64.b64decode(value["content"]))
    elif key == "lfsFile":
        files[path] = Blob(hub.fetch_object(value["oid"]), value["oid"])
    elif key == "deletedFile":
        if files.pop(path, None) is None:
            raise Refusal(404, "A file with this name doesn't exist", code="EntryNotFound")
    elif key == "deletedFolder":
        for name in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
            del files[name]
    else:
        raise Refusal(400, f"unknown operation {key}")


def _open_pull(repo: Repo, title: str, base: str, author: str | None) -> str:
    number = len(repo.pulls) + 1
    repo.pulls.append({"num": number, "title": title, "status": "open", "author": {"name": author or "anonymous"}})
    repo.refs[f"refs/pr/{number}"] = base
    return f"refs/pr/{number}"


def _discussion(repo: Repo, pull: dict) -> dict:
    constant = {"isPullRequest": True, "createdAt": now(), "repo": {"name": repo.id, "type": repo.type}}
    details = {"changes": {"base": "refs/heads/main"}, "filesWithConflicts": [], "events": [], "diff": ""}
    return pull | constant | details


@route("GET", f"{API}/discussions")
def discussions(request, body, kind, id):
    repo = request.repo(kind, id)
    status = request.query.get("status")
    found = [_discussion(repo, pull) for pull in repo.pulls if status in (None, "all", pull["status"])]
    return {"discussions": found, "count": len(found), "start": 0}


@route("POST", f"{API}/discussions/(?P<number>[0-9]+)/merge")
def merge(request, body, kind, id, number):
    repo = request.repo(kind, id, write=True)
    head = repo.resolve(f"refs/pr/{number}")
    repo.commit("refs/heads/main", head.tree, head.title)
    repo.pulls[int(number) - 1]["status"] = "merged"
    return {}


@route("*", FILE + f"/resolve/{REVISION}/(?P<path>.+)")
def resolve(request, body, id, rev, path, kind=None):
    head = request.repo(kind, id, content=True).resolve(rev)
    about = {"X-Repo-Commit": head.oid}
    if path not in head.tree:
        refusal = Refusal(404, "Entry not found", code="EntryNotFound")
        refusal.headers |= about
        raise refusal
    blob = head.tree[path]
    about |= {"ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    if blob.sha256:
        about |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
    if blob.sha256 and request.hub.cdn:
        elsewhere = request.hub.endpoint.replace("127.0.0.1", "localhost")
        return 302, b"", about | {"Location": f"{elsewhere}/cdn/{blob.sha256}"}
    return send_range(request.headers.get("Range"), blob.data, about)


@route("*", "/cdn/(?P<oid>[0-9a-f]{64})")
def cdn(request, body, oid):
    if request.headers.get("Authorization"):
        raise Refusal(400, "a token was sent to another origin")
    return send_range(request.headers.get("Range"), request.hub.objects[oid], {"ETag": f'"{oid}"'})


def send_range(wanted: str | None, data: bytes, headers: dict) -> tuple[int, bytes, dict]:
    if wanted is None:
        return 200, data, headers
    first, last = wanted.removeprefix("bytes=").split("-")
    start = int(first) if first else max(0, len(data) - int(last))
    stop = min(int(last) + 1, len(data)) if first and last else len(data)
    if start >= len(data):
        return 416, b"", headers | {"Content-Range": f"bytes */{len(data)}"}
    return 206, data[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}


@route("GET", f"{API}/xet-(?:read|write)-token/{REVISION}")
def xet_token(request, body, kind, id, rev):
    if not request.hub.xet_dir:
        raise Refusal(404, "no Xet here")
    cas, expires = request.hub.xet_cas or f"local://{request.hub.xet_dir}", str(int(time.time()) + 3600)
    headers = {"X-Xet-Cas-Url": cas, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": expires}
    return 200, {"casUrl": cas, "accessToken": "xet", "exp": int(expires)}, headers


def _read_xet(folder: Path, sha256: str) -> bytes:
    """Reads a file that hf_xet wrote to a local store: its Xet hash stands in the shards, beside its sha256."""
    import hf_xet

    for shard in (folder / "xet/xorbs/shards").glob("*.mdb"):
        data, at = shard.read_bytes(), 48
        while data[at : at + 32] != b"\xff" * 32:
            flags, entries = struct.unpack_from("<II", data, at + 32)
            name = "".join(f"{word:016x}" for word in struct.unpack_from("<4Q", data, at))
            at += 48 + 48 * entries * (2 if flags >> 31 & 1 else 1)
            if flags >> 30 & 1:
                digest = "".join(f"{word:016x}" for word in struct.unpack_from("<4Q", data, at))
                at += 48
                if digest == sha256:
                    target = folder / sha256
                    with hf_xet.XetSession().new_file_download_group(endpoint=f"local://{folder}") as group:
                        group.start_download_file(hf_xet.XetFileInfo(name), str(target))
                    return target.read_bytes()
    raise Refusal(400, f"Xet object {sha256} was never uploaded")


@contextmanager
def serve(port: int = 0):
    """Starts a server on a free port of the loopback; yields its `Hub` and stops it in the end."""
    hub = Hub()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield hub
    finally:
        hub.stopped.set()
        server.shutdown()
        server.server_close()
