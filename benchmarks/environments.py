"""Environments of other Pythons and with other libraries, made by uv and kept between runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ("HERE", "Unavailable", "environment", "newest_python")

HERE = Path(__file__).parent
NEWEST_FIRST = ("3.14", "3.13", "3.12")
SECONDS = 300.0


class Unavailable(Exception):
    """Something cannot be had here; says why."""


def environment(name: str, python: str, packages: Iterable[str]) -> Path:
    """Return the interpreter of an environment with these packages, made unless there is one.

    It is kept in the user's cache. Remove the directory to have newer versions installed.

    Args:
        name: Of its directory.
        python: The interpreter to make it of.
        packages: As `uv pip install` takes them.

    Raises:
        Unavailable: uv is not there, or something will not install.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = cache / "asyncroute-benchmarks" / name
    interpreter = directory / "bin" / "python"
    complete = directory / "complete"
    if not complete.exists():
        _uv("venv", "--quiet", "--clear", "--python", python, str(directory))
        _uv("pip", "install", "--quiet", "--python", str(interpreter), *packages)
        complete.touch()
    return interpreter


def newest_python() -> str:
    """Return the newest interpreter found that is newer than this one.

    Raises:
        Unavailable: There is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    running = "{}.{}".format(*sys.version_info[:2])
    for version in NEWEST_FIRST:
        if version == running:
            break
        found = [str(path) for path in sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)]
        with suppress(Unavailable):
            found.append(_uv("python", "find", "--no-project", version).strip())
        if found:
            return found[0]
    raise Unavailable(f"no Python newer than {running} found")


def _uv(*arguments: str) -> str:
    environ = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    environ.pop("VIRTUAL_ENV", None)
    try:
        ran = subprocess.run(
            ("uv", *arguments),
            capture_output=True,
            check=True,
            text=True,
            timeout=SECONDS,
            env=environ,
        )
    except FileNotFoundError:
        raise Unavailable("uv is not installed") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"uv {arguments[0]} took more than {SECONDS:g} s") from None
    except subprocess.CalledProcessError as error:
        said = str(error.stderr).strip().splitlines() or ["failed"]
        raise Unavailable(f"uv {arguments[0]}: {said[-1].strip(' ╰─▶')}") from None
    return ran.stdout
