"""Secrets that are generated once and kept: whole, the same for everybody, and readable by their owner only."""

import multiprocessing
import os
import resource
import signal
import stat
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from handbell import kept_secret

PROCESSES = 10


def kept_together(path: str) -> str:
    """The secret, as soon as every process has come this far: each leaves a mark, and waits for the others'."""
    folder = Path(path).parent
    (folder / f"mark {os.getpid()}").touch()
    while len(list(folder.glob("mark *"))) < PROCESSES:
        pass
    return kept_secret(Path(path))


def kept_without_space(path: str) -> str:
    """What writing it raises where no file may have even one byte."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        return kept_secret(Path(path))
    except OSError as error:
        return str(error.strerror)


def in_processes(number: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(number, mp_context=multiprocessing.get_context("spawn"))


def test_it_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        secret = kept_secret(tmp_path / "new" / "secret")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "new" / "secret").stat().st_mode) == 0o600
    assert kept_secret(tmp_path / "new" / "secret") == secret
    assert len(secret) >= 50


def test_one_that_others_can_read_becomes_private(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("of an earlier version")
    path.chmod(0o644)

    assert kept_secret(path) == "of an earlier version"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_ten_processes_that_make_one_at_once_get_the_same(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with in_processes(PROCESSES) as pool:
        secrets = set(pool.map(kept_together, [str(path)] * PROCESSES))

    assert secrets == {path.read_text()}
    assert [found.name for found in tmp_path.iterdir() if not found.name.startswith("mark")] == ["secret"]


def test_that_of_a_process_that_was_faster_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "secret"

    def meanwhile(size: int) -> str:
        path.write_text("of the faster one")
        return "draft"

    monkeypatch.setattr("handbell.common.secret_file.secrets.token_hex", meanwhile)

    assert kept_secret(path) == "of the faster one"
    assert list(tmp_path.iterdir()) == [path]


def test_one_that_could_not_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    with in_processes(1) as pool:
        assert pool.submit(kept_without_space, str(tmp_path / "secret")).result() == "File too large"

    assert list(tmp_path.iterdir()) == []
