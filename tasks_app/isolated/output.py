"""What a launch prints, of which the beginning and the end are kept."""


class Output:
    """Takes any number of bytes, keeps `most` of them, and counts the rest."""

    def __init__(self, most: int) -> None:
        self._most = most // 2
        self._begin = b""
        self._end = b""
        self._total = 0

    def add(self, part: bytes) -> None:
        self._total += len(part)
        if room := self._most - len(self._begin):
            self._begin += part[:room]
            part = part[room:]
        if part:
            self._end = (self._end + part)[-self._most :]

    def __str__(self) -> str:
        left_out = self._total - len(self._begin) - len(self._end)
        middle = f"\n… {left_out:,} bytes left out …\n" if left_out else ""
        # PostgreSQL keeps neither NUL nor half a character.
        return f"{_text(self._begin)}{middle}{_text(self._end)}" if left_out else _text(self._begin + self._end)


def _text(part: bytes) -> str:
    return part.decode("utf-8", "backslashreplace").replace("\0", "\\x00")
