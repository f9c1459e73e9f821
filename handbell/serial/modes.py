"""How a drain applies operations: as fast as possible, and more cautiously once something has gone wrong."""

from enum import Enum, auto


class Mode(Enum):
    """How the next transaction of a drain is done, from the fastest mode to the most cautious one.

    | mode         | operations in one commit   | savepoints   | rows are written | chosen when                        |
    |--------------|----------------------------|--------------|------------------|------------------------------------|
    | `BATCH`      | up to 2,000                | none         | at the end       | nothing has gone wrong             |
    | `SAVEPOINTS` | until it has 60 savepoints | where needed | at the end       | an operation failed after it had   |
    |              |                            |              |                  | used the database                  |
    | `WRITE_EACH` | the same                   | one each     | after each       | the changed rows, or another part  |
    |              |                            |              |                  | of the batch, could not be written |
    | `ONE_BY_ONE` | one, claimed beforehand    | one          | after it         | a process crashed, or the batch    |
    |              |                            |              |                  | failed even with `WRITE_EACH`      |
    | `EXTERNAL`   | none: one operation, claimed, runs outside of any   | it has `external=True`             |
    |              | transaction                                         |                                    |

    A savepoint is needed where an operation uses the database by itself. It costs as much as a short function's work,
    so a batch is tried without, and done again with savepoints only if such an operation has failed.
    """

    BATCH = auto()
    SAVEPOINTS = auto()
    WRITE_EACH = auto()
    ONE_BY_ONE = auto()
    EXTERNAL = auto()

    @property
    def has_savepoints(self) -> bool:
        return self is not Mode.BATCH

    @property
    def writes_each(self) -> bool:
        return self in {Mode.WRITE_EACH, Mode.ONE_BY_ONE}

    @property
    def claims_first(self) -> bool:
        """Whether the operation is claimed in a transaction of its own before it runs."""
        return self in {Mode.ONE_BY_ONE, Mode.EXTERNAL}
