"""What `make lint` looks for besides style and types: known weaknesses, dangerous code, and secrets."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from tests.servers import free_port
from tests.system import ROOT

PROGRAMS = Path(sys.executable).parent
WEAK = {"name": "celery", "version": "1.0"}
WEAKNESS = {"id": "PYSEC-2000-1", "summary": "It is weak.", "affected": []}


class Register(BaseHTTPRequestHandler):
    """Answers as osv.dev does: one package is weak."""

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_weak = {"name": question["package"]["name"], "version": question["version"]} == WEAK
        answer = json.dumps({"vulns": [WEAKNESS]} if is_weak else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def register() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Register) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join()


def audit(url: str, *requirements: Path) -> "subprocess.CompletedProcess[str]":
    return run(sys.executable, "-m", "tests.audit", *map(str, requirements), OSV_URL=url)


def run(*command: str, given: str | None = None, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, input=given, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def requirements(folder: Path, version: str) -> Path:
    file = folder / f"{version}.txt"
    file.write_text(f"celery=={version} --hash=sha256:{'0' * 64}\n")
    return file


def test_a_requirement_with_a_known_weakness_fails(tmp_path: Path) -> None:
    with register() as url:
        weak, sound = (audit(url, requirements(tmp_path, version)) for version in ("1.0", "5.7.0"))

    assert weak.returncode == 1
    assert "PYSEC-2000-1" in weak.stdout
    assert sound.returncode == 0
    assert "No known vulnerabilities found" in sound.stderr


def test_what_is_locked_is_audited_by_default_and_a_register_that_is_away_is_said_and_fails_nothing() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1/query"
    away = audit(url)

    assert away.returncode == 0
    assert f"The requirements were not audited: {url} cannot be reached (" in away.stdout
    locked = {line.split("==")[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}
    assert locked <= {line.split("==")[0] for line in (ROOT / "requirements-dev.txt").read_text().splitlines()}


def test_dangerous_code_is_found() -> None:
    ruff = [str(PROGRAMS / "ruff"), "check", "--stdin-filename"]
    for path in ("handbell/new.py", "tasks_app/new.py", "tests/new.py"):
        found = run(*ruff, path, "-", given="import pickle\n\npickle.loads(b'')\n")
        assert "S301" in found.stdout, path


def test_a_secret_is_found_and_an_example_is_not(tmp_path: Path) -> None:
    hook = [str(PROGRAMS / "detect-secrets-hook"), "--baseline", ".secrets.baseline"]
    secret, example = tmp_path / "secret.py", tmp_path / "example.py"
    secret.write_text(f"key = 'AKIA{'Q3EGRVEXAMPLE47X'}'\nurl = 'amqp://tasks:{'9fR7' + 'kd0Q'}@broker/'\n")
    example.write_text("url = 'amqp://user:password@broker/'\n")

    found = run(*hook, str(secret))
    assert found.returncode == 1
    assert found.stdout.count("Location:") == 2
    assert run(*hook, str(example)).returncode == 0


def test_make_lint_runs_each_of_them() -> None:
    recipe = run("make", "--dry-run", "lint").stdout

    for command in ("ruff check .", "detect-secrets-hook --baseline .secrets.baseline", "python -m tests.audit"):
        assert command in recipe
