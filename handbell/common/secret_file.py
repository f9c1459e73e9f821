"""Secrets for the default set-up: made once, kept in a file that only its owner can read."""

import secrets
from pathlib import Path

from handbell.common.private_files import make_private


def kept_secret(path: Path | str) -> str:
    """The secret in the file at `path`, which is made with a random one if it is not there.

    Raises:
        OSError: the file can be neither read nor made.
    """
    path = Path(path)
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        draft.touch(mode=0o600)
        try:
            draft.write_text(secrets.token_urlsafe(50))
            path.hardlink_to(draft)  # of several processes at once the first wins, with a whole file
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    make_private(path)
    return path.read_text().strip()
