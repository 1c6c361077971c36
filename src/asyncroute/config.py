"""The configuration of a manager: a dictionary, a JSON file or a YAML file.

Secrets do not belong into files: in `params` of a model and in the settings of a provider,
`${NAME}` stands for the environment variable of that name. It is looked up when it is used, and
written as it stands when the configuration is saved; a plain secret is never written.
"""

from __future__ import annotations

import difflib
import os
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from asyncroute._budget import MoneyBudget
from asyncroute._errors import ConfigurationError
from asyncroute._files import read_structure, write_structure
from asyncroute._inputs import ModelConfig, Name, Names
from asyncroute._secrets import Redactor, is_secret, resolve

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = (
    "BudgetSettings",
    "ProviderSettings",
    "RouterConfig",
    "load_config",
    "resolve_model",
    "resolve_provider",
    "save_config",
)

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


@final
class BudgetSettings(BaseModel):
    """A budget of money, as `MoneyBudget` describes it.

    Attributes:
        limit: US dollars.
        window: Seconds; a day by default.
        per: `router`, `model`, `tenant`, or a key of the request's `metadata`.
        only: The models, tenants or values that are limited; None for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: float
    window: float = 86400.0
    per: Name = "router"
    only: Names | None = None

    @model_validator(mode="after")
    def _is_a_budget(self) -> Self:
        self.to_budget()
        return self

    def to_budget(self) -> MoneyBudget:
        """Return the budget itself."""
        return MoneyBudget(self.limit, self.window, self.per, self.only)


@final
class ProviderSettings(BaseModel):
    """How to reach a provider. `${NAME}` may stand in every text.

    Attributes:
        type: The kind of API; only `openai_compatible` for now.
        base_url: Where it is, up to and with the version: `https://api.openai.com/v1`.
        api_key: The key; None sends none.
        headers: Further headers, for every request.
        stream_usage: Whether token counts are asked for at the end of streams.
        done_marker: Whether a stream must end with `[DONE]`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["openai_compatible"] = "openai_compatible"
    base_url: Name = Field(repr=False)
    api_key: Name | None = Field(default=None, repr=False)
    headers: dict[str, str] = Field(default_factory=dict[str, str], repr=False)
    stream_usage: bool = True
    done_marker: bool = True


@final
class RouterConfig(BaseModel):
    """Everything a manager can be configured with.

    Attributes:
        models: The models, at least one.
        providers: How to reach the models' providers, by name.
        enable_caching: Whether results are cached.
        enable_ensemble: Whether there is a strategy `ensemble`.
        cache_ttl: Seconds a cached result lives.
        cache_size: How many results are cached at most.
        max_workers: Requests in flight over all models; None for no such limit.
        queue_size: Requests that may wait for one model.
        timeout: Seconds for a request that names no timeout of its own.
        attempt_timeout: Seconds for each attempt; None shares out what is left.
        strict_capabilities: Whether a model must name a capability to be asked for it.
        on_no_candidates: What happens when no model meets the constraints.
        fair_by: The key of a request's `metadata` between whose values queues are fair.
        adaptive_concurrency: Whether slots follow the models' overload.
        metrics_window: Samples kept of each model.
        drain_timeout: Seconds that calls in flight are given when the manager is left.
        budgets: Limits on money.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[ModelConfig, ...]
    providers: dict[Name, ProviderSettings] = Field(default_factory=dict[str, ProviderSettings])
    enable_caching: bool = True
    enable_ensemble: bool = False
    cache_ttl: Seconds = 300.0
    cache_size: Count = 1000
    max_workers: Count | None = None
    queue_size: Annotated[int, Field(ge=0)] = 1000
    timeout: Seconds = 60.0
    attempt_timeout: Seconds | None = None
    strict_capabilities: bool = False
    on_no_candidates: Literal["fail", "relax"] = "fail"
    fair_by: Name | None = None
    adaptive_concurrency: bool = False
    metrics_window: Count = 1000
    drain_timeout: Annotated[float, Field(ge=0)] = 10.0
    budgets: tuple[BudgetSettings, ...] = ()

    @model_validator(mode="after")
    def _has_models_of_different_ids(self) -> Self:
        if not self.models:
            raise ValueError("models: at least one is needed; got []")
        counts = Counter(model.model_id for model in self.models)
        for model_id, count in counts.items():
            if count > 1:
                at = [i for i, model in enumerate(self.models) if model.model_id == model_id]
                places = " and ".join(f"models[{i}]" for i in at)
                raise ValueError(f"{count} models have the id {model_id!r}: {places}")
        return self

    @classmethod
    def from_mapping(
        cls, data: Mapping[str, Any], *, source: str = "the configuration"
    ) -> RouterConfig:
        """Check a dictionary.

        Args:
            data: The keys are those of this class.
            source: Where it comes from, for the error.

        Raises:
            ConfigurationError: Names every bad key and its value, but for secrets.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            problems = [_describe(details) for details in error.errors(include_url=False)]
        # Outside the handler: the original, which quotes what it was given, is not to be chained.
        raise ConfigurationError(f"{source}: {'; '.join(problems)}")

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Name models and providers instead of showing them."""
        yield "models", [model.model_id for model in self.models]
        yield "providers", list(self.providers)
        for field in type(self).model_fields:
            if field not in ("models", "providers"):
                yield field, getattr(self, field)


def resolve_model(model: ModelConfig, *, source: str) -> ModelConfig:
    """Return the model with the environment's values in its `params`.

    Raises:
        ConfigurationError: A variable is not set.
    """
    params = resolve(model.params, os.environ, key=f"{model.model_id}.params", source=source)
    return model if params == model.params else model.model_copy(update={"params": params})


def resolve_provider(name: str, settings: ProviderSettings, *, source: str) -> ProviderSettings:
    """Return the settings with the environment's values in them.

    Raises:
        ConfigurationError: A variable is not set.
    """
    plain = settings.model_dump()
    return ProviderSettings(**resolve(plain, os.environ, key=f"providers.{name}", source=source))


def load_config(path: str | os.PathLike[str]) -> RouterConfig:
    """Read a configuration; the suffix tells JSON (`.json`) from YAML (`.yaml`, `.yml`).

    Raises:
        ConfigurationError: What is wrong with it, by line or by key and value; PyYAML is missing.
        OSError: The file cannot be read.
    """
    data = read_structure(Path(path))
    if not isinstance(data, dict):
        raise ConfigurationError(f"{path}: must hold a mapping of settings, not {_shown(data)}")
    return RouterConfig.from_mapping(cast("dict[str, Any]", data), source=str(path))


def save_config(config: RouterConfig, path: str | os.PathLike[str]) -> dict[str, str]:
    """Write a configuration, all of it or nothing; the suffix tells JSON from YAML.

    References to environment variables are written as they are, and a plain secret as a reference
    to a variable named after its place.

    Returns:
        The variables that must hold the secrets left out: by name, where each one stood.

    Raises:
        ConfigurationError: Something in it cannot be written; PyYAML is missing.
        OSError: The file cannot be written.
    """
    redactor = Redactor()
    write_structure(Path(path), _exportable(config, redactor))
    return redactor.variables


def _exportable(config: RouterConfig, redactor: Redactor) -> dict[str, Any]:
    plain = config.model_dump(mode="json", exclude={"models", "providers"})
    for key, value in plain.items():
        if value == inf:
            plain[key] = "inf"  # JSON has no word for it; as a text it is understood all the same
    plain["providers"] = {
        name: redactor.redact(settings.model_dump(mode="json"), owner=name)
        for name, settings in config.providers.items()
    }
    plain["models"] = [_exportable_model(model, redactor) for model in config.models]
    return plain


def _exportable_model(model: ModelConfig, redactor: Redactor) -> dict[str, Any]:
    plain = model.model_dump(mode="json", exclude_none=True)
    if model.params:
        plain["params"] = redactor.redact(model.params, owner=model.model_id)
    return plain


def _describe(details: ErrorDetails) -> str:
    """Say in one line which key has which bad value."""
    keys = [str(part) for part in details["loc"] if part != "[key]"]
    place = "".join(f"[{key}]" if key.isdigit() else f".{key}" for key in keys).lstrip(".")
    problem = details["msg"].removeprefix("Value error, ")
    match details["type"]:
        case "missing":
            return f"{place} is missing"
        case "extra_forbidden":
            return f"unknown key {place!r}{_similar(keys)}; it has {_shown(details['input'], keys)}"
        case "value_error" if not isinstance(details["input"], (str, int, float)):
            return f"{place}: {problem}".removeprefix(": ")
        case _:
            return f"{place}: {problem}; got {_shown(details['input'], keys)}".removeprefix(": ")


def _similar(keys: Sequence[str]) -> str:
    owner: type[BaseModel] = RouterConfig
    if len(keys) > 1:
        owner = _PARTS.get(keys[0], RouterConfig)
    close = difflib.get_close_matches(keys[-1], owner.model_fields, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


_PARTS: Mapping[str, type[BaseModel]] = {
    "models": ModelConfig,
    "providers": ProviderSettings,
    "budgets": BudgetSettings,
}


def _shown(value: object, keys: Sequence[str] = ()) -> str:
    if isinstance(value, (Mapping, list, tuple, set)):
        return f"a {type(cast('object', value)).__name__}"
    if is_secret(keys, value) or "params" in keys:
        return "a value not shown here"
    return textwrap.shorten(repr(value), 60)
