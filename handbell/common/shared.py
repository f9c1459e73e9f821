"""Values that a worker's main process tells its processes, in memory that they share. They may change at any time."""

import json
import mmap
import struct
from typing import Any


class SharedNumber:
    """A whole number, 0 at first. It is made before the processes are forked."""

    _layout = struct.Struct("=q")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._layout.size)

    @property
    def value(self) -> int:
        return int(self._layout.unpack_from(self._memory)[0])

    @value.setter
    def value(self, number: int) -> None:
        self._layout.pack_into(self._memory, 0, number)


class SharedMapping:
    """A mapping of names to what JSON can hold, of which each process keeps a copy until it changes."""

    max_bytes = 64 * 1024

    def __init__(self) -> None:
        self._version = SharedNumber()
        self._length = SharedNumber()
        self._memory = mmap.mmap(-1, self.max_bytes)
        self._seen, self._copy = 0, dict[str, Any]()

    def get(self, name: str) -> Any:
        """What is under this name, or None."""
        if (version := self._version.value) != self._seen:
            try:
                self._copy = json.loads(self._memory[: self._length.value])
            except ValueError:  # it changes just now
                return self._copy.get(name)
            self._seen = version
        return self._copy.get(name)

    def set(self, name: str, value: Any) -> None:
        """In the main process. What does not fit in is left out."""
        self.get(name)
        content = json.dumps({**self._copy, name: value}).encode()
        if len(content) <= self.max_bytes:
            self._memory[: len(content)] = content
            self._length.value = len(content)
            self._version.value += 1
