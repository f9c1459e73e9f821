"""What is written to HANDBELL_DATA_DIR: nobody but its owner can read it, also where it was made with a wider mode."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import connections

from handbell.common.databases import SQLITE_OPTIONS
from handbell.common.private_files import make_private, make_private_folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def _open_by_default() -> Any:
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_new_folder_is_private_and_so_are_those_above_it_that_were_missing(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "a" / "b")

    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700


def test_what_is_there_becomes_private_and_keeps_what_its_owner_may_do(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir(mode=0o755)
    file.touch(mode=0o444)

    make_private_folder(folder)
    make_private(file, tmp_path / "missing")
    assert (mode(folder), mode(file)) == (0o700, 0o400)


def test_a_folder_that_all_users_share_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)

    make_private_folder(tmp_path)
    assert mode(tmp_path) == 0o1777


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make what belongs to another user")
def test_what_belongs_to_another_user_stays_as_it_is(tmp_path: Path) -> None:
    foreign, mine, link = tmp_path / "foreign", tmp_path / "mine", tmp_path / "link"
    foreign.touch(mode=0o644)
    os.chown(foreign, 12345, 12345)
    mine.touch(mode=0o644)
    link.symlink_to(mine)
    os.lchown(link, 12345, 12345)

    make_private(foreign, link)
    assert mode(foreign) == mode(mine) == 0o644


@pytest.mark.parametrize("in_data_dir", [True, False])
@pytest.mark.django_db
def test_a_database_in_the_data_folder_is_private_and_one_elsewhere_is_not_touched(
    in_data_dir: bool, tmp_path: Path, settings: LazySettings
) -> None:
    settings.HANDBELL_DATA_DIR = tmp_path if in_data_dir else tmp_path / "other"
    file = tmp_path / "db.sqlite3"
    before = connections.settings["default"]
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": file, "OPTIONS": SQLITE_OPTIONS}
    connections.settings["default"] = {**before, **sqlite}
    try:
        made, again = (connections.create_connection("default") for _ in range(2))
    finally:
        connections.settings["default"] = before
    tmp_path.chmod(0o755)

    with made.temporary_connection() as cursor:
        cursor.execute("CREATE TABLE kept (id)")
        file.chmod(0o644)  # as an earlier version made it
        with again.temporary_connection() as second:
            second.execute("INSERT INTO kept VALUES (1)")
            found = {path.name: mode(path) for path in [tmp_path, *tmp_path.iterdir()]}
    assert set(found) == {tmp_path.name, "db.sqlite3", "db.sqlite3-wal", "db.sqlite3-shm"}
    if in_data_dir:
        assert found.pop(tmp_path.name) == 0o700
        assert set(found.values()) == {0o600}
    else:
        assert (found[tmp_path.name], found["db.sqlite3"]) == (0o755, 0o644)
