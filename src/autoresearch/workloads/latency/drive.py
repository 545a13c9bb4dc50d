"""Fixed: asks the function and writes its answers; the processor time of this process counts."""

from __future__ import annotations

import json
import os
from pathlib import Path

from inputs import draw
from nearest import nearest

points, queries, k = draw()
answers = nearest(points, queries, k)
Path(os.environ["AUTORESEARCH_OUT"], "answers.json").write_text(json.dumps(answers))
