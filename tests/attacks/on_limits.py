"""Ways to use more than is allowed, to stay, and to take the machine down."""

from .arena import TRAIN, Attack

WORSE = TRAIN.replace("0.5", "0.55")
GOOD = TRAIN.replace("W = 0.5", "W = 0.1")
STAY = """
import os, subprocess, sys
subprocess.Popen(["@SURVIVOR@", "600"], executable="/bin/sleep", start_new_session=True,
                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
"""


def train(name: str, code: str, *ends: str, says: str = "", plain: bool = False) -> Attack:
    return Attack(name, ends=ends, train=f"{WORSE}\n{code}", says=says, plain=plain)


ATTACKS = (
    train(
        "never ends",
        """
while True:
    pass
""",
        "timeout",
        says="killed after 4 s",
    ),
    train(
        "sleeps over its budget",
        """
import time
time.sleep(3)
""",
        "timeout",
        says="used",
    ),
    train(
        "ignores every signal",
        """
import signal, time
for n in range(1, 32):
    try:
        signal.signal(n, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
time.sleep(600)
""",
        "timeout",
    ),
    train(
        "stops itself",
        """
import signal
os.kill(os.getpid(), signal.SIGSTOP)
""",
        "timeout",
    ),
    train(
        "stops everybody",
        """
import signal
try:
    os.kill(-1, signal.SIGSTOP)
except OSError:
    pass
os.kill(os.getpid(), signal.SIGSTOP)
""",
        "timeout",
    ),
    train("leaves a process behind", STAY, "discard", plain=True),
    train(
        "leaves a daemon behind",
        """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 64)
        os.execve('/bin/sleep', ['@SURVIVOR@', '600'], {})
    os._exit(0)
""",
        "discard",
        plain=True,
    ),
    train(
        "leaves a daemon that clears its leash",
        """
import ctypes
if os.fork() == 0:
    os.setsid()
    ctypes.CDLL(None).prctl(1, 0)
    ctypes.CDLL(None).prctl(36, 1)
    if os.fork() == 0:
        os.closerange(0, 64)
        os.execve('/bin/sleep', ['@SURVIVOR@', '600'], {})
    os._exit(0)
""",
        "discard",
    ),
    Attack(
        "an agent leaves a process behind",
        ends=["discard"],
        plain=True,
        agent="""
sed -i 's/^W = .*/W = 0.55/' train.py; python3 - <<'EOF'
"""
        + STAY
        + "EOF",
    ),
    train(
        "forks without end",
        """
import time
while True:
    try:
        if os.fork() == 0:
            time.sleep(600)
    except OSError:
        time.sleep(0.01)
""",
        "crash",
        "timeout",
    ),
    train(
        "forks faster than it can be counted",
        """
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
        "crash",
        "timeout",
    ),
    train(
        "takes all memory",
        """
hoard = bytearray(2 << 30)
hoard[::4096] = b'x' * len(hoard[::4096])
""",
        "crash",
    ),
    train(
        "takes all memory in small processes",
        """
import time
for i in range(8):
    if os.fork() == 0:
        h = bytearray(100 << 20)
        h[::4096] = b'x' * len(h[::4096])
        time.sleep(600)
time.sleep(3)
""",
        "crash",
        says="GiB",
    ),
    train(
        "hides memory in files of the scratch space",
        """
for place in ('/dev/shm', '/tmp', str(Path.home())):
    try:
        with open(f'{place}/hoard', 'wb') as file:
            for i in range(200):
                file.write(b'x' * (1 << 20))
    except OSError as error:
        print(place, error)
        raise SystemExit(9)
""",
        "crash",
    ),
    train(
        "prints without end",
        """
while True:
    os.write(1, b'x' * (1 << 20))
""",
        "crash",
        "timeout",
    ),
    train(
        "prints one endless line of escapes",
        r"""
os.write(1, b'\x1b]0;pwned\x07\x1b[2J' * (1 << 18))
raise SystemExit(1)
""",
        "crash",
    ),
    train(
        "fills the disk",
        """
import time
end = time.monotonic() + 3
i = 0
while time.monotonic() < end and i < 1000:
    with open(f'fill{i}', 'wb') as file:
        file.write(b'x' * (1 << 20))
    i += 1
""",
        "timeout",
        "crash",
        "discard",
    ),
    train(
        "takes a terabyte in one sparse file",
        """
with open('sparse', 'wb') as file:
    file.truncate(1 << 40)
""",
        "crash",
    ),
    train(
        "uses up the inodes",
        """
import time
for i in range(40_000):
    os.close(os.open(f'i{i}', os.O_CREAT))
time.sleep(9)
""",
        "timeout",
        "crash",
    ),
    train(
        "opens every descriptor",
        """
import time
hoard = []
try:
    while True:
        hoard.append(os.pipe())
except OSError:
    pass
time.sleep(0.1)
""",
        "discard",
    ),
    train(
        "closes its output and goes on",
        """
os.closerange(0, 64)
while True:
    pass
""",
        "timeout",
    ),
    Attack(
        "an agent never ends",
        fails=True,
        agent="sleep 600",
        ends=[],
    ),
    Attack("an agent fails", fails=True, agent="sed -i 's/^W = .*/W = 0.1/' train.py; exit 3"),
    Attack("an agent kills itself", fails=True, agent="kill -9 $$"),
    Attack(
        "an agent forks without end",
        fails=True,
        agent="""
python3 -c "import os, time
while True:
    try:
        if os.fork() == 0: time.sleep(600)
    except OSError: time.sleep(0.01)"
""",
    ),
    Attack("an agent prints without end", fails=True, agent="yes 'keep 0.0'"),
)
