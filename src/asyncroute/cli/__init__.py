"""The command line: a demonstration, an explanation, a benchmark. Needs the extra `cli`."""

from asyncroute.cli._commands import run

__all__ = ("run",)
