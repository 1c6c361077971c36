"""Secrets in configurations: read from the environment, never written out.

`${NAME}` in a text stands for the environment variable of that name; `$${NAME}` for the text
`${NAME}` itself, and so on with one more `$`. Nothing here changes what it is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast, final

from asyncroute._errors import ConfigurationError

__all__ = ("Redactor", "escape", "has_references", "is_secret", "resolve")

_REFERENCE = re.compile(r"(\$+)\{([A-Za-z_][A-Za-z0-9_]*)\}")

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z0-9]+")

# Words of a key. Of `key` and `token`, which are harmless in most names, the word before decides.
_SECRET_WORDS = re.compile(
    r"apikey|authorization|bearer|cookies?|credentials?|pass(?:phrase|wd|word)|pwd|secrets?"
)
_SECRET_KEYS_OF = re.compile(
    r"access|account|api|auth|client|encryption|functions?|private|service|session|shared|signing"
    r"|subscription"
)
_TOKENS_OF_TOKENIZERS = re.compile(r"bos|cls|eos|mask|pad|sep|stop|unk")

_SECRET_VALUE = re.compile(
    r"""
      ^(?:bearer\s+\S+|basic\s+[A-Za-z0-9+/]{8,}={0,2}|token\s+\S{16,})$
    | ^(?:sk|pk|rk|gsk|xai|hf|ghp|gho|glpat|tgp|AIza|AKIA)[-_]?[A-Za-z0-9_-]{16,}$
    | ://[^/\s@]*:[^/\s@]+@
    | [?&](?:api[-_]?key|key|token|secret|password)=[^&\s]
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SCHEME = re.compile(r"^(?:bearer|basic|token)\s+", re.IGNORECASE)

Keys = tuple[str, ...]


def _is_secret_key(key: str) -> bool:
    words = ["", "", *(word.lower() for word in _WORD.findall(key))]
    if any(map(_SECRET_WORDS.fullmatch, words)):
        return True
    before, last = words[-2:]
    if last == "key":
        return _SECRET_KEYS_OF.fullmatch(before) is not None
    return last == "token" and not _TOKENS_OF_TOKENIZERS.fullmatch(before)


def has_references(value: object) -> bool:
    """Tell whether any text in a structure refers to an environment variable."""
    found = False

    def look(_: Keys, leaf: object) -> object:
        nonlocal found
        if isinstance(leaf, str):
            found = found or any(match[1] == "$" for match in _REFERENCE.finditer(leaf))
        return leaf

    _with_leaves(value, look)
    return found


def resolve(value: object, environ: Mapping[str, str], *, key: str, source: str) -> Any:
    """Copy a structure with every `${NAME}` replaced by the variable's value.

    Args:
        value: Mappings, sequences and texts; anything else is kept as it is.
        environ: The variables.
        key: Where the structure stands, for the error.
        source: The file (or what else) it comes from, for the error.

    Raises:
        ConfigurationError: A variable is not set; names variable, key and source.
    """

    def replace(keys: Keys, leaf: object) -> object:
        def put(match: re.Match[str]) -> str:
            dollars, name = match[1], match[2]
            if len(dollars) > 1:
                return f"{dollars[1:]}{{{name}}}"
            if name not in environ:
                raise ConfigurationError(
                    f"{source}: {'.'.join((key, *keys))} needs the environment variable {name}, "
                    "which is not set"
                )
            return environ[name]

        return _REFERENCE.sub(put, leaf) if isinstance(leaf, str) else leaf

    return _with_leaves(value, replace)


def escape(value: object) -> Any:
    """Copy a structure so that `resolve` gives it back as it is."""
    return _with_leaves(
        value, lambda _, leaf: _REFERENCE.sub(r"$\g<0>", leaf) if isinstance(leaf, str) else leaf
    )


@final
class Redactor:
    """Replaces plain secrets by references to environment variables, and remembers which.

    A text is secret where its key or a key above it says so (`api_key`, `Authorization`), and
    where it looks like a secret itself (`Bearer …`, `sk-…`, a password in a URL). References stay.

    Attributes:
        variables: Where each secret stood, by the name of the variable that is to hold it.
    """

    __slots__ = ("variables",)

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}

    def redact(self, value: object, *, owner: str) -> Any:
        """Copy a structure without the secrets in it.

        Args:
            value: The structure.
            owner: The model or provider it belongs to: a part of the variables' names.
        """

        def replace(keys: Keys, leaf: object) -> object:
            if not is_secret(keys, leaf):
                return leaf
            return f"${{{self._variable(owner, keys)}}}"

        return _with_leaves(value, replace)

    def _variable(self, owner: str, keys: Keys) -> str:
        stem = re.sub(r"[^A-Z0-9]+", "_", "_".join(("ASYNCROUTE", owner, *keys)).upper())
        name, n = stem, 1
        while name in self.variables:
            n += 1
            name = f"{stem}_{n}"
        self.variables[name] = ".".join((owner, *keys))
        return name

    def __repr__(self) -> str:
        return f"<Redactor {', '.join(self.variables) or 'nothing'}>"


def is_secret(keys: Sequence[str], leaf: object) -> bool:
    """Tell whether a value under these keys is a plain secret: no mere reference to one."""
    under_secret_key = any(map(_is_secret_key, keys))
    if not isinstance(leaf, str):
        return under_secret_key and isinstance(leaf, (int, float)) and not isinstance(leaf, bool)
    plain = _REFERENCE.sub("", leaf)
    if _SECRET_VALUE.search(plain) is not None:
        return True
    return under_secret_key and _SCHEME.sub("", plain).strip() != ""


def _with_leaves(value: object, change: Callable[[Keys, object], object], keys: Keys = ()) -> Any:
    """Copy mappings, lists and tuples (as lists) with whatever else is in them changed."""
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {key: _with_leaves(item, change, (*keys, str(key))) for key, item in items}
    if isinstance(value, (list, tuple)):
        parts = cast("Sequence[object]", value)
        return [_with_leaves(part, change, (*keys, str(i))) for i, part in enumerate(parts)]
    return change(keys, value)
