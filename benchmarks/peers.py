"""The same job on other libraries, each in an environment of its own, made by uv when first needed.

    uv run python benchmarks/peers.py [--only litellm] [--json FILE]

What they are asked to do is in `peer_routers.py`. Each is measured beside the minimum in its own
process, so that its ratio can be held against ours. One that will not install or run is skipped
with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from environments import HERE, Unavailable, environment
from peer_routers import PEERS
from rich.console import Console
from rich.table import Table

SECONDS = 120.0
"""That one library may take."""


@dataclass(frozen=True, slots=True)
class Peer:
    """What one library came to.

    Attributes:
        name: The name it goes by.
        version: Its version.
        python: The CPython it ran on.
        ratios: By strategy or case, multiples of the minimum; `fallback` among them.
        share_of_rate: Calls per second of a hundred callers, as a share of the minimum's.
        skipped: Why it was not measured; empty if it was.
    """

    name: str
    version: str = ""
    python: str = ""
    ratios: dict[str, float] | None = None
    share_of_rate: float = 0.0
    skipped: str = ""

    @property
    def execute(self) -> list[float]:
        """What a call that succeeds costs, by strategy."""
        return [
            ratio
            for name, ratio in (self.ratios or {}).items()
            if "minimum" not in name and name != "fallback"
        ]

    @property
    def fallback(self) -> float:
        """What a call costs whose first model fails."""
        return (self.ratios or {})["fallback"]

    @property
    def cells(self) -> tuple[str, ...]:
        """What a table shows, under `HEADINGS`."""
        if self.skipped:
            return self.name, "skipped", self.skipped, "", ""
        rate = f"{self.share_of_rate:.3f}"
        return self.name, self.version, spread(self.execute), spread([self.fallback]), rate


def measured(name: str) -> Peer:
    """Measure one library in its environment."""
    distribution, _ = PEERS[name]
    try:
        python = environment(f"peer-{name}", sys.executable, [distribution])
        told = _run(python, name)
    except Unavailable as reason:
        return Peer(name, skipped=str(reason))
    return Peer(name, **told)


def _run(python: Path, name: str) -> dict[str, Any]:
    # No key of the user's, and no proxy: nothing there is to reach a network.
    environ = {key: os.environ[key] for key in ("HOME", "LANG", "PATH") if key in os.environ}
    try:
        ran = subprocess.run(
            (str(python), str(HERE / "peer_routers.py"), name),
            capture_output=True,
            check=True,
            text=True,
            timeout=SECONDS,
            env=environ,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"took more than {SECONDS:g} s") from None
    except subprocess.CalledProcessError as error:
        said = str(error.stderr).strip().splitlines() or [f"exited with {error.returncode}"]
        raise Unavailable(said[-1]) from None
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return told


def read(json_path: Path) -> list[Peer]:
    """Read what `main` has written."""
    return [Peer(**peer) for peer in json.loads(json_path.read_text(encoding="utf-8"))]


def spread(ratios: list[float]) -> str:
    """A ratio, or the least and most of several."""
    least, most = min(ratios), max(ratios)
    if len(ratios) > 1:
        return f"{least:,.0f} to {most:,.0f}"
    return f"{most:,.0f}" if most >= 100 else f"{most:.3g}"


HEADINGS = ("", "version", "execute", "fallback answers", "share of calls/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=tuple(PEERS))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    peers = [measured(name) for name in PEERS if asked.only in (None, name)]
    table = Table(*HEADINGS, title="Other libraries, multiples of the minimum")
    for peer in peers:
        table.add_row(*peer.cells)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if asked.json is not None:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps([asdict(peer) for peer in peers], indent=1)
        asked.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
