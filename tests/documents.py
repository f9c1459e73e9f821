"""Documents as programs: what a page tells its reader to write and to run, so that a test can do exactly that.

In front of each block of code stands a comment, `<!-- test: run -->`, that says what a reader does with it:

    write FILE      put it into a new file
    append FILE     add it at the end of a file
    run             run each line as a command, in the project's folder
    shell           run it in `manage.py shell`; a value in a comment behind an expression must be right
    skip            nothing

More words may follow after a comma; they are the step's `notes`.
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(
    r"<!-- test: (?P<what>[^>]*?) -->\n+(?:```\w*\n(?P<fenced>.*?)\n```|(?P<indented>(?:    [^\n]*\n?|\n(?=    ))+))",
    re.S,
)


@dataclass(frozen=True)
class Step:
    """What a reader does with a block: `verb`, the file it is about, if any, and the code."""

    verb: str
    file: str
    notes: str
    text: str


def steps(path: str | Path) -> list[Step]:
    """The steps of a page, in their order."""
    found = []
    for match in _BLOCK.finditer((ROOT / path).read_text()):
        what, _, notes = match["what"].partition(",")
        verb, _, file = what.strip().partition(" ")
        text = match["fenced"] or "\n".join(line[4:] for line in match["indented"].splitlines())
        found.append(Step(verb, file.strip(), notes.strip(), text.strip() + "\n"))
    return found


def checked(code: str) -> str:
    """The code, with an assertion in the place of each expression that has its value in a comment behind it."""
    return "\n".join(map(_checked_line, code.splitlines()))


def _checked_line(line: str) -> str:
    expression, mark, comment = line.partition("  # ")
    if not mark:
        return line
    for expected in (comment, comment.partition(":")[0]):
        try:
            ast.parse(expression.strip(), mode="eval")
            value = ast.literal_eval(expected.strip())
        except (SyntaxError, ValueError):
            continue
        return f"found = {expression.strip()}\nassert found == {value!r}, found"
    return line
