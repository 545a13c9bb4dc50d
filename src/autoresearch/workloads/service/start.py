"""Fixed: starts the service, asks it a little and stops it. What it prints is for the log only."""

from __future__ import annotations

import os
import subprocess
import sys

from catalogue import draw
from client import Client, Exchange, UnansweredError
from load import requests

ASKED = 60

exchanges = [Exchange(each.data) for each in requests(ASKED, draw())]
service = subprocess.Popen([sys.executable, "service.py"])
client = Client(int(os.environ["SERVICE_PORT"]), 4)
try:
    client.wait_until_up(20)
    took_s = client.run(exchanges)
except UnansweredError as error:
    sys.exit(f"a request {error}")
finally:
    service.kill()
    service.wait()
refused = sum(each.status != 200 for each in exchanges)
print(f"{ASKED} requests in {1000 * took_s:.0f} ms, {refused} of them refused")
