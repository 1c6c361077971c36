"""What `import asyncroute` takes beyond its three dependencies, pydantic in use included.

    uv run python benchmarks/import_time.py [--rounds 9] [--json FILE]

Each round starts an interpreter of its own, which imports them, and then us. CPU seconds and
resident memory; medians. Compiled code is kept from one start to the next, as everywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from report import Report, Row

CHILD = """
import json, time

def look():
    with open("/proc/self/statm", encoding="ascii") as file:
        return time.process_time(), int(file.read().split()[1]) * 4 / 1024

start = look()
import anyio, aiolimiter, pydantic
dependencies = look()
{more}
import asyncroute
all = look()
print(json.dumps([b - a for a, b in (*zip(start, dependencies), *zip(dependencies, all))]))
"""

LOADED = """
from pydantic import BaseModel
class Warm(BaseModel):
    a: int = 0
dependencies = look()
"""
"""pydantic imports most of itself when its first model is made, whoever makes it."""


def medians(rounds: int, more: str = "") -> list[float]:
    """Seconds and MiB of the dependencies, then of us."""
    command = [sys.executable, "-c", CHILD.format(more=more)]
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def look() -> list[float]:
        child = subprocess.run(command, capture_output=True, check=True, text=True, env=kept)
        return json.loads(child.stdout)

    look()  # compiles
    told = [look() for _ in range(rounds)]
    return [median(column) for column in zip(*told, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    seconds_of_theirs, mib_of_theirs, seconds, mib = medians(asked.rounds)
    _, _, seconds_alone, mib_alone = medians(asked.rounds, LOADED)
    rows = (
        Row("import asyncroute, beyond its dependencies in use", seconds_alone, 0.10, unit="s"),
        Row("the same, beyond `import pydantic` alone", seconds, unit="s"),
        Row("import anyio, aiolimiter, pydantic", seconds_of_theirs, unit="s"),
        Row("memory of importing asyncroute, beyond them", mib, 8.0, unit="MiB"),
        Row("the same, beyond them in use", mib_alone, unit="MiB"),
        Row("memory of importing them", mib_of_theirs, unit="MiB"),
    )
    Report("Importing", rows).tell(asked.json)


if __name__ == "__main__":
    main()
