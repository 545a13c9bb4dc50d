"""Confines one program on macOS with sandbox-exec, by a profile that refuses all it does not name.

UNTESTED: no machine with macOS was at hand when this was written. The text of the profile is
tested, that macOS does with it what it says is not; ``probe`` tries to break out of it before it is
ever used. Knows nothing about tasks or metrics.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from .types import Json

PROGRAM = "/usr/bin/sandbox-exec"
# What a program needs to start at all, beside what the rules name.
SYSTEM = (
    "/System",
    "/Library/Apple",
    "/Library/Frameworks",
    "/Library/Developer/CommandLineTools",
    "/Applications/Xcode.app",
    "/opt/homebrew",
    "/usr",
    "/bin",
    "/sbin",
    "/private/var/db/dyld",
    "/private/var/db/timezone",
)
BASE = """\
(version 1)
(deny default)
(allow process-fork process-exec*)
(allow process-info* signal (target same-sandbox))
(allow sysctl-read file-read-metadata file-ioctl)
(allow mach-lookup (global-name "com.apple.system.logger"))
(allow file-read* (literal "/"))
"""
NETWORK = """\
(allow network-outbound network-inbound (remote ip) (local ip))
(allow system-socket (socket-domain AF_INET AF_INET6))
(allow mach-lookup (global-name "com.apple.dnssd.service" "com.apple.trustd.agent"))
(allow network-outbound (literal "/private/var/run/mDNSResponder"))
"""


def command(rules: Mapping[str, Json]) -> list[str]:
    """The words that go before a program's own to confine it by ``rules`` (see landlock.py)."""
    return [PROGRAM, "-p", profile(rules)]


def profile(rules: Mapping[str, Json]) -> str:
    """The profile; of several rules that fit, seatbelt takes the last."""
    text = BASE
    text += _rule("allow", "file-read*", [*SYSTEM, *_paths(rules, "read")])
    text += _rule("deny", "file-read*", _paths(rules, "without"))
    text += _rule("allow", "file-read* file-write*", _paths(rules, "write"))
    text += _rule("allow", "file-read* file-write*", _paths(rules, "devices"))
    return text + (NETWORK if rules["network"] else "")


def _paths(rules: Mapping[str, Json], key: str) -> list[str]:
    found = rules[key]
    assert isinstance(found, list)
    return [str(path) for path in found]


def _rule(verdict: str, what: str, paths: Iterable[str]) -> str:
    # Seatbelt compares real paths: /tmp and /etc are links to /private there.
    real = dict.fromkeys(os.path.realpath(path) for path in paths)
    if not real:
        return ""
    return f"({verdict} {what} {' '.join(f'(subpath {_quoted(path)})' for path in real)})\n"


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
