"""Text that agents, candidates and their logs wrote, made into data wherever it goes.

Whoever shows or reads it, a terminal, a spreadsheet, a browser or another agent, must find nothing
to act on. Imports nothing of ours; every other module uses these functions and no other.
"""

from __future__ import annotations

import re
import secrets
import unicodedata

# What terminals act on (ECMA-48): control sequences, strings such as titles and links, and short
# escapes; each introducer also as the single byte of the C1 set.
ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\r\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]"
)
# Letters and marks that show nothing, so that they could carry text nobody sees.
INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0000-\U000e0fff]"
)
# What begins a formula in a spreadsheet, and the quote that could hide one from a reader of cells.
FORMULA = '=+-@"'
# How many times the length asked for is read at most.
SEEN = 50


def clean(text: str, length: int = 200) -> str:
    """One printable line of at most ``length`` characters."""
    text = ESCAPES.sub(" ", text[: SEEN * length])
    text = INVISIBLE.sub("", "".join(c if c.isprintable() else " " for c in text))
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1].rstrip(' ,')}…"


def cell(text: str, length: int = 200) -> str:
    """``clean``, and no spreadsheet takes it for a formula."""
    line = clean(text, SEEN * length)
    start = 0
    while start < len(line) and unicodedata.normalize("NFKC", line[start])[0] in FORMULA + " ":
        start += 1
    return clean(line[start:], length)


def block(text: str) -> str:
    """Many lines without what a terminal would act on; what is left out shows as such."""
    text = ESCAPES.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    text = INVISIBLE.sub("\N{REPLACEMENT CHARACTER}", text)
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def excerpt(text: str, count: int, length: int = 200) -> str:
    """The last ``count`` lines as a ``block``, each cut at ``length`` characters."""
    last = block(text[-SEEN * count * length :]).splitlines()[-count:]
    return "\n".join(line if len(line) <= length else f"{line[: length - 1]}…" for line in last)


def fence(text: str) -> str:
    """The text between two lines that it cannot contain, for a reader that takes orders."""
    nonce = secrets.token_hex(8)
    while nonce in text:
        nonce = secrets.token_hex(8)
    return f"<data {nonce}>\n{text}\n</data {nonce}>"
