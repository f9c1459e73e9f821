"""Looks for known weaknesses in the locked requirements: `python -m tests.audit`, a part of `make lint`.

pip-audit asks the register of open source weaknesses, https://osv.dev. Where that cannot be reached this says so, and
does not fail.
"""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

OSV_URL = os.environ.get("OSV_URL", "https://api.osv.dev/v1/query")
REQUIREMENTS = sys.argv[1:] or ["requirements-dev.txt"]  # has those of requirements.txt, too
ANSWER_SECONDS = 5


def main() -> int:
    if reason := why_unreachable():
        sys.stdout.write(f"The requirements were not audited: {OSV_URL} cannot be reached ({reason}).\n")
        return 0
    pip_audit = [os.fspath(Path(sys.executable).with_name("pip-audit")), "--disable-pip", "--no-deps", "--desc=off"]
    files = [word for file in REQUIREMENTS for word in ("--requirement", file)]
    service = ["--vulnerability-service=osv", f"--osv-url={OSV_URL}", "--progress-spinner=off"]
    return subprocess.run([*pip_audit, *service, *files], check=False).returncode


def why_unreachable() -> str:
    """Why the register does not answer a question, or nothing if it does."""
    question = json.dumps({"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "26.0"}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(OSV_URL, question), timeout=ANSWER_SECONDS) as answer:
            json.load(answer)
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return ""


if __name__ == "__main__":
    sys.exit(main())
