"""What a launch prints, of which the beginning and the end are kept."""

from handbell.common.codec import decode_output


class CapturedOutput:
    """Takes any number of bytes, keeps `max_bytes` of them, and counts the rest."""

    def __init__(self, max_bytes: int) -> None:
        self._max_half_bytes = max_bytes // 2
        self._beginning = b""
        self._end = b""
        self._total_bytes = 0

    def add(self, part: bytes) -> None:
        """Take another part."""
        self._total_bytes += len(part)
        if room := self._max_half_bytes - len(self._beginning):
            self._beginning += part[:room]
            part = part[room:]
        if part:
            self._end = (self._end + part)[-self._max_half_bytes :]

    def end_after(self, mark: bytes) -> bytes:
        """What came after the last `mark`; nothing if there was none."""
        _, found, rest = (self._beginning + self._end).rpartition(mark)
        return rest if found else b""

    def __str__(self) -> str:
        left_out = self._total_bytes - len(self._beginning) - len(self._end)
        if not left_out:
            return decode_output(self._beginning + self._end)
        return f"{decode_output(self._beginning)}\n… {left_out:,} bytes left out …\n{decode_output(self._end)}"
