"""The command `asyncroute`, also as `python -m asyncroute`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("main",)

_NEEDED = frozenset(("rich", "typer"))


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: The arguments; None for those of the process.

    Returns:
        The exit status: 0, 1 for what went wrong, 2 for arguments that make no sense, 130 when
        interrupted. An error is one line on standard error.
    """
    try:
        from asyncroute.cli import run
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _NEEDED:
            raise
        message = f"the command line needs {missing}: pip install 'asyncroute[cli]'"
        print(f"asyncroute: {message}", file=sys.stderr)
        return 1
    return run(args)


if __name__ == "__main__":
    sys.exit(main())
