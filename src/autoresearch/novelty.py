"""Is it a new idea? Pure: gives a file's content a name that comments and layout do not change.

Python is compared by its syntax tree without docstrings. In languages where the start and the end
of a line mean nothing, indentation, trailing blanks and empty lines are left out. Everything else,
and whatever is too large or too odd, is compared byte by byte: a prompt, a Makefile or a table may
mean something else with one blank more.
"""

from __future__ import annotations

import ast
import hashlib
import warnings
from pathlib import PurePosixPath

# Parsing takes memory of a thousand times a file, and every file is hostile.
LARGEST_BYTES = 256 << 10
LAYOUT_FREE = frozenset(
    (".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".cuh", ".go", ".java", ".kt", ".scala", ".swift",
     ".cs", ".js", ".jsx", ".mjs", ".ts", ".tsx", ".css")
)  # fmt: skip
# What may begin text of several lines, where layout is content; and lines that are continued.
LONG_TEXT = (b"`", b'"""', b'R"', b'@"', b'#"', b"\\\n")


def form(path: str, data: bytes) -> str:
    """A name for a file's content: equal where only comments or layout differ."""
    suffix = PurePosixPath(path).suffix.lower()
    if len(data) <= LARGEST_BYTES:
        if suffix == ".py" and (tree := _tree(data)):
            return _name(b"python", tree)
        if suffix in LAYOUT_FREE and (lines := _lines(data)):
            return _name(b"lines", lines)
    return _name(b"bytes", data)


def _name(kind: bytes, data: bytes) -> str:
    return hashlib.sha256(kind + b"\0" + data).hexdigest()[:32]


def _tree(data: bytes) -> bytes:
    """The syntax tree of Python source; empty where it is none, or too deep."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a candidate's odd escapes, on our screen
            tree = ast.parse(data)
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
        return ast.dump(tree).encode("utf-8", "surrogatepass")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return b""


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a docstring, or a comment in disguise."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _lines(data: bytes) -> bytes:
    """The lines without indentation and what is empty; empty where layout may be content."""
    data = data.replace(b"\r\n", b"\n")
    if any(sign in data for sign in LONG_TEXT):
        return b""
    lines = (line.strip(b" \t") for line in data.split(b"\n"))
    return b"\n".join(line for line in lines if line)
