"""Keeps other users of the machine away from what is written to HANDBELL_DATA_DIR."""

import os
import stat
from contextlib import suppress
from pathlib import Path


def make_private_folder(folder: Path) -> None:
    """Make the folder, and those above it that are missing, for its owner only; one that is there becomes private."""
    for missing in reversed([it for it in (folder, *folder.parents) if not it.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    make_private(folder)


def make_private(*paths: Path) -> None:
    """Take from everybody but the owner what they may do with these, if they exist.

    What belongs to another user stays as it is, and so does a folder that all users share, as /tmp.
    """
    for path in paths:
        with suppress(FileNotFoundError):
            found = path.stat()
            owners = {path.lstat().st_uid, found.st_uid}  # of a link, and of what it names
            if owners == {os.getuid()} and found.st_mode & 0o077 and not found.st_mode & stat.S_ISVTX:
                path.chmod(stat.S_IMODE(found.st_mode) & 0o700)
