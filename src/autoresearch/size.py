"""How much code a change adds, in syntax tokens: comments, layout and docstrings are free."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Mapping

SKIP = tokenize.COMMENT
FREE = {
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
# Words, numbers, quoted strings, and every other sign on its own; for any language.
WORDS = re.compile(r"\w+|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|[^\w\s]")
LINE_COMMENT = re.compile(r"(?:^|\s)(?:#|//).*$", re.MULTILINE)


def tokens(source: str, path: str = "") -> int:
    """Syntax tokens of a file; Python exactly, anything else by a language-neutral count."""
    if path.endswith(".py"):
        try:
            return _python(source)
        except (tokenize.TokenError, SyntaxError):
            pass
    return len(WORDS.findall(LINE_COMMENT.sub("", source)))


def _python(source: str) -> int:
    found = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type != SKIP]
    count, first = 0, True
    for token, following in zip(found, [*found[1:], None], strict=True):
        # A string that is a whole statement is a docstring, or a comment in disguise.
        alone = first and following is not None and following.type == tokenize.NEWLINE
        if token.type not in FREE and not (token.type == tokenize.STRING and alone):
            count += 1
        first = token.type in FREE
    return count


def tokens_added(before: Mapping[str, str], after: Mapping[str, str]) -> int:
    """Net syntax tokens that a change adds, over all files by path; negative when it removes."""
    new = sum(tokens(source, path) for path, source in after.items())
    return new - sum(tokens(source, path) for path, source in before.items())
