"""How much code a change adds, in syntax tokens: comments, layout and docstrings are free."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Mapping
from functools import lru_cache
from pathlib import PurePosixPath

LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
FREE = LAYOUT | {tokenize.ENCODING, tokenize.ENDMARKER, tokenize.COMMENT}
# Python 3.12 and later split an f-string into parts; it is one string to us on every version.
OPENING = {getattr(tokenize, name, -1) for name in ("FSTRING_START", "TSTRING_START")}
CLOSING = {getattr(tokenize, name, -1) for name in ("FSTRING_END", "TSTRING_END")}

# Words, quoted strings on one line, and every other sign on its own; for any language.
WORDS = r"\w+|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|[^\w\s]"
SLASHES, HASH, DASHES = r"//[^\n]*|/\*.*?\*/", r"(?<!\S)\#[^\n]*", r"--[^\n]*"
COMMENTS = {
    **dict.fromkeys((".sql", ".lua", ".hs"), DASHES),
    **dict.fromkeys(
        (".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".cuh", ".m", ".go", ".rs", ".zig", ".java",
         ".kt", ".scala", ".swift", ".cs", ".js", ".jsx", ".mjs", ".ts", ".tsx", ".css", ".proto"),
        SLASHES,
    ),
}  # fmt: skip


def tokens(source: str, path: str = "") -> int:
    """Syntax tokens of a file: Python exactly, anything else by a language-neutral count."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix == ".py":
        try:
            return _python(source)
        except (tokenize.TokenError, SyntaxError):
            pass
    comment = COMMENTS.get(suffix, HASH)
    # Strings are alternatives too, so that a comment sign inside one is text.
    found = re.finditer(f"(?P<comment>{comment})|{WORDS}", source, re.DOTALL)
    return sum(match["comment"] is None for match in found)


def tokens_added(before: Mapping[str, str], after: Mapping[str, str]) -> int:
    """Net syntax tokens that a change adds, over all files by path; negative when it removes."""
    changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    new = sum(tokens(after[path], path) for path in changed if path in after)
    return new - sum(tokens(before[path], path) for path in changed if path in before)


@lru_cache(maxsize=64)
def _python(source: str) -> int:
    count = inside = 0
    statement: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in CLOSING:
            inside -= 1
        elif token.type in OPENING:
            inside += 1
            if inside == 1:
                statement.append(tokenize.STRING)
        elif token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
            # A statement that is only strings is a docstring, or a comment in disguise.
            if any(each != tokenize.STRING for each in statement):
                count += len(statement)
            statement = []
        elif token.type not in FREE and not inside:
            statement.append(token.type)
    return count
