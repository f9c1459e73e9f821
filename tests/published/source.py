"""Tests that a library publishes in its source distribution: of the locked version, with the locked hash."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.system import ROOT


class NotDownloaded(Exception):
    """The source distribution could not be had."""


def published_tests(library: str, folder: Path) -> Path:
    """A new folder in `folder` with the library's tests, and nothing else of it: what they test is what is installed.

    Raises:
        NotDownloaded: the package index does not answer, for example.
    """
    locked = re.search(rf"^{library}==.*?(?=^\S)", (ROOT / "requirements.txt").read_text(), re.DOTALL | re.MULTILINE)
    assert locked, library
    (folder / "locked.txt").write_text(locked.group())
    options = [f"--no-binary={library}", "--no-deps", "--require-hashes", f"--dest={folder}", "-r", "locked.txt"]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert "DO NOT MATCH THE HASHES" not in done.stderr, done.stderr
    if done.returncode:
        raise NotDownloaded(f"The source distribution of {library} could not be downloaded: {done.stderr.strip()}")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as found:
        found.extractall(folder, [name for name in found if name.name.split("/")[1:2] == ["t"]], filter="data")
    (unpacked,) = (path.parent for path in folder.glob("*/t"))
    return unpacked
