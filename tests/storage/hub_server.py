"""The part of the Hugging Face Hub that pushing and loading a model needs, on this machine."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "0" * 39 + "1"


class Hub(ThreadingHTTPServer):
    """Repositories by name, each a dictionary of file contents; writing takes the token ``secret``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.commits: list[str] = []


class Answers(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: object) -> None:
        pass

    def answer(self, status: int, body: object = None, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer secret":
            return self.answer(401, {"error": "Invalid username or password."})
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            known = name in self.server.repositories
            self.server.repositories.setdefault(name, {})
            return self.answer(409 if known else 200, {"url": f"{self.server.url}/{name}"})
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        _, _, _, user, name, action, _ = path.split("/")
        files = self.server.repositories[f"{user}/{name}"]
        if action == "preupload":
            asked = json.loads(body)["files"]
            plain = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return self.answer(200, {"files": [{"path": file["path"], **plain} for file in asked]})
        assert action == "commit"
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
            else:
                self.server.commits.append(line["value"]["summary"])
        url = f"{self.server.url}/{user}/{name}/commit/{COMMIT}"
        return self.answer(200, {"commitUrl": url, "commitOid": COMMIT, "pullRequestUrl": None})

    def do_GET(self) -> None:
        parts = urlsplit(self.path).path.strip("/").split("/")
        about = parts[:2] == ["api", "models"]
        user, name, *rest = parts[2:] if about else parts
        files = self.server.repositories.get(f"{user}/{name}")
        if files is None:
            return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if "absent" in rest:
            return self.answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        if about and rest[:1] == ["tree"]:
            blobs = [
                {"type": "file", "path": key, "size": len(value), "oid": hashlib.sha1(value).hexdigest()}
                for key, value in files.items()
            ]
            return self.answer(200, blobs)
        if about:
            listed = [{"rfilename": key} for key in files]
            return self.answer(200, {"id": f"{user}/{name}", "sha": COMMIT, "siblings": listed})
        content = files.get("/".join(rest[2:]))
        if content is None:
            return self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        etag = hashlib.sha1(content).hexdigest()
        return self.answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET
