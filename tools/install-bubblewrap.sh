#!/bin/sh
# Installs bubblewrap where we may; otherwise says what is missing and what that costs.
[ "$(uname -s)" = Linux ] || exit 0
command -v bwrap >/dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing bubblewrap (the sandbox for untrusted code) ..."
    { apt-get install -y -q bubblewrap || { apt-get update -q && apt-get install -y -q bubblewrap; }; } \
        >/dev/null 2>&1
fi
command -v bwrap >/dev/null 2>&1 && exit 0
echo "bubblewrap is missing: experiments cannot be confined on this machine, and autoresearch"
echo "refuses to run them without --unconfined. Install it: apt install bubblewrap (or dnf, pacman)."
