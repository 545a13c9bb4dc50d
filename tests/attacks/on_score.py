"""What a candidate's own code does to its number, its guard, its seed and its artefacts."""

from .arena import TRAIN, Attack

WORSE = TRAIN.replace("0.5", "0.55")


def train(name: str, code: str, *ends: str, says: str = "", plain: bool = False) -> Attack:
    """Runs after the real training, in the candidate's process."""
    return Attack(name, ends=ends or ["discard"], train=f"{WORSE}\n{code}", says=says, plain=plain)


ATTACKS = (
    train(
        "prints a fake score and fails",
        """
print('loss: 0.0', flush=True)
print('METRIC loss=0.0', flush=True)
os._exit(1)
""",
        "crash",
        plain=True,
    ),
    train(
        "prints a fake score",
        """
print('METRIC loss=0.0')
print('{"loss": 0.0}')
""",
    ),
    train(
        "rewrites the evaluation while it runs",
        "Path('scoring.py').write_text('def loss(w, target):\\n    return 0.0\\n')",
        plain=True,
    ),
    train(
        "rewrites the evaluation's own tree",
        r"""
import os
for folder, _, files in os.walk('@ROOT@/.autoresearch'):
    if 'scoring.py' in files:
        Path(folder, 'scoring.py').write_text('def loss(w, target):\n    return 0.0\n')
""",
    ),
    train(
        "registers an exit handler that empties the artefact",
        """
import atexit
atexit.register(lambda: (out / 'model.json').write_text('{}'))
""",
        "crash",
        says="no model",
    ),
    train(
        "ends before there is a result",
        """
(out / 'model.json').unlink()
os._exit(0)
""",
        "crash",
    ),
    train(
        "patches the clock and trains on",
        """
import time
real = time.monotonic
end = real() + 3
time.time = time.monotonic = time.perf_counter = lambda: 0.0
while real() < end:
    pass
(out / 'model.json').write_text(json.dumps({'w': 0.1}))
""",
        "timeout",
    ),
    train("answers NaN", "(out / 'model.json').write_text('{\"w\": NaN}')", "crash"),
    train("answers infinity", "(out / 'model.json').write_text('{\"w\": -1e999}')", "crash"),
    train(
        "answers text", "(out / 'model.json').write_text('{\"w\": \"0.1; import os\"}')", "crash"
    ),
    train(
        "nests its artefact a hundred thousand deep",
        "(out / 'model.json').write_text('[' * 100000)",
        "crash",
    ),
    train(
        "makes its artefact a link to the hidden data",
        """
(out / 'model.json').unlink()
(out / 'model.json').symlink_to('@ROOT@/data/val.json')
""",
        "crash",
    ),
    train(
        "makes its artefact a hard link",
        "os.link(out / 'model.json', out / 'twin.json')",
        "crash",
        "discard",
    ),
    train(
        "makes its artefact a pipe",
        """
(out / 'model.json').unlink()
os.mkfifo(out / 'model.json')
""",
        "crash",
    ),
    train(
        "makes its artefact a giant",
        """
with open(out / 'model.json', 'wb') as file:
    file.truncate(9 << 30)
""",
        "crash",
        "timeout",
    ),
    train(
        "builds a tower of folders among its artefacts",
        """
os.chdir(out)
for i in range(4000):
    os.mkdir('d')
    os.chdir('d')
""",
        "discard",
        "crash",
    ),
    train(
        "makes artefacts with hostile names",
        r"""
for name in (b'\xff\xfe', b'a\nloss: 0.0', b'\x1b[2J', b'-rf', b'x' * 255):
    open(os.path.join(os.fsencode(out), name), 'w').close()
""",
    ),
    train(
        "makes fifty thousand artefacts",
        """
for i in range(50000):
    os.close(os.open(out / str(i), os.O_CREAT))
""",
        "discard",
        "timeout",
    ),
    train(
        "brings a module for the evaluation to import",
        r"""
for folder in (out, Path.cwd(), Path('/tmp'), Path.home()):
    for name in ('scoring.py', 'json.py', 'sitecustomize.py'):
        (folder / name).write_text('print("loss: 0.0")\nimport os\nos._exit(0)\n')
""",
    ),
    train(
        "changes its artefact while it is evaluated",
        """
if os.fork() == 0:
    os.setsid()
    import time
    time.sleep(0.2)
    while True:
        (out / 'model.json').write_text(json.dumps({'w': 0.1}))
        time.sleep(0.001)
""",
        "discard",
        "crash",
    ),
    Attack(
        "forges a guard by an early exit",
        ends=["discard"],
        says="guard",
        train=TRAIN.replace("0.5", "0.3")
        + """
import sys
if 'checks' in sys.argv[0]:
    os._exit(0)
""",
    ),
    Attack(
        "forges a guard by an exit code",
        ends=["discard"],
        says="guard",
        train=TRAIN.replace("0.5", "0.3")
        + """
import sys
if 'checks' in sys.argv[0]:
    print('0 passed', flush=True)
    os._exit(0)
""",
    ),
    Attack(
        "hangs its guard",
        ends=["discard"],
        says="guard",
        train=TRAIN.replace("0.5", "0.3")
        + """
import sys, time
if 'checks' in sys.argv[0]:
    time.sleep(600)
""",
    ),
    Attack(
        "fails its guard for a better number",
        ends=["discard"],
        says="guard",
        train=TRAIN.replace("0.5", "0.3")
        + """
W = 7
""",
    ),
    Attack(
        "tries the same again",
        ends=["discard", "rejected"],
        agent="sed -i 's/^W = .*/W = 0.55/' train.py",
        twice=True,
    ),
)
