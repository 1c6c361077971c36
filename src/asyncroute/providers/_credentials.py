"""Keys and addresses: where they come from, and what of them may be shown."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from asyncroute._errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ("check_header", "credentials_in", "key_of", "missing_sdk", "shown", "unless_given")

_CREDENTIAL_HEADERS = ("authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie")


def key_of(api_key: str | None, variable: str | None) -> str | None:
    """Find the key that was given, or that an environment variable holds.

    Raises:
        ConfigurationError: Both are given, or the variable is not set.
    """
    if variable is not None:
        if api_key is not None:
            raise ConfigurationError("give either api_key or api_key_env, not both")
        api_key = os.environ.get(variable, "").strip()
        if not api_key:
            raise ConfigurationError(f"api_key_env: the variable {variable!r} is not set")
    if api_key is not None and not isinstance(api_key, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"api_key must be a text, got a {type(api_key).__name__}")
    key = api_key.strip() if api_key else None
    if key:
        check_header("Authorization", key)
    return key


def unless_given(client: object, **settings: object) -> None:
    """Check that what belongs to a client of ours is not given beside one of the user's.

    Raises:
        ConfigurationError: It is.
    """
    given = [name for name, value in settings.items() if value is not None]
    if client is not None and given:
        raise ConfigurationError(f"{given[0]}: a client was given, which has one of its own")


def check_header(name: str, value: str) -> None:
    """Check that a header can be sent.

    Here and not when sending: the HTTP library's complaint would quote the value.

    Raises:
        ConfigurationError: It cannot.
    """
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"header {name!r}: its value must be a text")
    if not (name and value.isascii() and value.isprintable()):
        raise ConfigurationError(f"header {name!r}: its value has characters a header cannot carry")


def credentials_in(headers: Mapping[str, object]) -> Iterator[str]:
    """Give what in these headers is a secret, with and without its scheme (`Bearer`, `Basic`)."""
    for name, value in headers.items():
        if name.lower() in _CREDENTIAL_HEADERS and isinstance(value, str):
            yield value
            yield value.rpartition(" ")[2]


def shown(base_url: str) -> str:
    """Give what may be shown of an address: no user, no password, no query."""
    return re.sub(r"//[^/]*@", "//", base_url).partition("?")[0].rstrip("/")


def missing_sdk(owner: str, extra: str, error: ModuleNotFoundError) -> ConfigurationError:
    """Make the error of an SDK that is not installed."""
    return ConfigurationError(f"{owner} needs {error.name}: pip install 'asyncroute[{extra}]'")
