"""Secrets for the default set-up: made once, kept in a file that only its owner can read."""

import secrets
from pathlib import Path


def kept_secret(path: Path) -> str:
    """The secret in the file at `path`, which is made with a random one if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        draft.touch(mode=0o600)
        try:
            draft.write_text(secrets.token_urlsafe(50))
            path.hardlink_to(draft)  # of several processes at once the first wins, with a whole file
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()
