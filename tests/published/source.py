"""Tests that a library publishes in its source distribution: of the locked version, with the locked hash."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.system import ROOT


class NotDownloaded(Exception):
    """The source distribution could not be had."""


def published_tests(
    library: str, folder: Path, tests: str = "t", requirements: Path = ROOT / "requirements.txt"
) -> Path:
    """A new folder in `folder` with the library's tests, which are in its folder `tests`, and nothing else of it: what
    they test is what is installed.

    Raises:
        NotDownloaded: the package index does not answer, for example.
    """
    locked = re.search(rf"^{library}==.*?(?=^\S)", f"{requirements.read_text()}\n.", re.DOTALL | re.MULTILINE)
    assert locked, library
    (folder / "locked.txt").write_text(locked.group())
    options = [f"--no-binary={library}", "--no-deps", "--require-hashes", f"--dest={folder}", "-r", "locked.txt"]
    options.append("--ignore-requires-python")  # it is not this Python that runs the tests
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert "DO NOT MATCH THE HASHES" not in done.stderr, done.stderr
    if done.returncode:
        raise NotDownloaded(f"The source distribution of {library} could not be downloaded: {done.stderr.strip()}")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as found:
        wanted = [member for member in found if f"{member.name}/".partition("/")[2].startswith(f"{tests}/")]
        found.extractall(folder, wanted, filter="data")
    (unpacked,) = folder.glob(f"*/{tests}")
    return unpacked.parents[len(Path(tests).parts) - 1]
