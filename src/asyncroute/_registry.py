"""The models of one router: added, changed, removed and switched off while calls run."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, final

from asyncroute._admission import LoadBalancer, QuotaLimits
from asyncroute._endpoint import Endpoint, Journal
from asyncroute._errors import ConfigurationError
from asyncroute._health import Health, HealthSettings
from asyncroute._inputs import ModelConfig
from asyncroute._metrics import PerformanceMetrics
from asyncroute._protocols import Provider
from asyncroute._served import Served

__all__ = ("Registry",)


@final
class Registry:
    """Holds an endpoint for every model.

    Args:
        balancer: Gives each model its lane.
        metrics: Gives each model its rings.
        health: When models are set aside.
        rng: For the jitter of ejections.

    Attributes:
        journal: What is known of all endpoints together.
        version: Grows with every change of configuration.
    """

    __slots__ = (
        "_balancer",
        "_endpoints",
        "_health",
        "_metrics",
        "_rng",
        "_served",
        "journal",
        "version",
    )

    def __init__(
        self,
        balancer: LoadBalancer,
        metrics: PerformanceMetrics,
        health: HealthSettings,
        rng: random.Random,
    ) -> None:
        self._balancer = balancer
        self._metrics = metrics
        self._health = health
        self._rng = rng
        self._endpoints: dict[str, Endpoint] = {}
        self.journal = Journal()
        self.version = 0
        self._served: Mapping[str, Served] = {}

    def add(self, *models: ModelConfig | Mapping[str, Any]) -> None:
        """Add models.

        Raises:
            ConfigurationError: There is one of this id, a group means two things, or a quota group
                has other limits.
            ValidationError: A value of a mapping is bad.
        """
        configs = [ModelConfig.model_validate(model) for model in models]
        self._refuse_two_meanings(configs)
        for config in configs:
            self._enter(config)
        self._changed()

    def _enter(self, config: ModelConfig) -> None:
        if config.model_id in self._endpoints:
            raise ConfigurationError(f"model_id {config.model_id!r} is given twice")
        lane = self._balancer.add(
            config.model_id,
            slots=config.max_concurrent_requests,
            quota=_limits_of(config),
            quota_group=config.quota_group,
        )
        self._endpoints[config.model_id] = Endpoint(
            config,
            lane=lane,
            health=Health(self._health, rng=self._rng),
            metrics=self._metrics.for_model(config.model_id),
            journal=self.journal,
        )

    def _refuse_two_meanings(self, added: Sequence[ModelConfig]) -> None:
        """Refuse a group that is called like a model outside of it: it means two things.

        Only of new models: changes go one by one, and may be right in the end.
        """
        new = {config.model_id for config in added}
        configs = [*(endpoint.config for endpoint in self), *added]
        groups = {config.model_id: config.group for config in configs}
        for config in configs:
            group = config.group
            is_new = config.model_id in new or group in new
            if group is not None and is_new and groups.get(group, group) != group:
                raise ConfigurationError(
                    f"group {group!r} of model {config.model_id!r} is the model_id of another"
                    " model, which is not in that group"
                )

    def update(self, model_id: str, changes: Mapping[str, Any]) -> None:
        """Change fields of a model; what runs and waits is kept.

        Raises:
            ConfigurationError: No such model, or limits its quota group does not share.
            ValidationError: A value is bad, or a field unknown.
        """
        endpoint = self[model_id]
        config = ModelConfig.model_validate({**dict(endpoint.config), **changes})
        limits = _limits_of(config)
        self._balancer.update(
            model_id,
            slots=config.max_concurrent_requests,
            quota=limits,
            quota_group=config.quota_group,
        )
        endpoint.configure(config)
        if config.quota_group is not None:
            self._share_limits(config.quota_group, limits)
        self._changed()

    def _share_limits(self, quota_group: str, limits: QuotaLimits) -> None:
        """Let the other models of a group show the figures that are the group's now."""
        for endpoint in self._endpoints.values():
            config = endpoint.config
            if config.quota_group == quota_group and _limits_of(config) != limits:
                shared = {
                    "requests_per_minute": limits.requests_per_minute,
                    "tokens_per_minute": limits.tokens_per_minute,
                }
                endpoint.configure(config.model_copy(update=shared))

    def remove(self, model_id: str) -> None:
        """Remove a model: calls in flight finish, those that wait go elsewhere.

        Raises:
            ConfigurationError: No such model.
        """
        endpoint = self[model_id]
        del self._endpoints[model_id]
        self._balancer.remove(model_id)
        self._metrics.remove(model_id)
        endpoint.is_removed = True
        self.journal.forget(endpoint)
        self._changed()

    def serve_with(self, providers: Mapping[str, Provider]) -> None:
        """Let these providers, by name, call the models from now on."""
        self._served = {name: Served(provider) for name, provider in providers.items()}
        self._changed()

    def _changed(self) -> None:
        groups: dict[str, list[Endpoint]] = {}
        for endpoint in self._endpoints.values():
            config = endpoint.config
            endpoint.served = self._served.get(config.provider) or self._served.get("*")
            if config.quota_group is not None:
                groups.setdefault(config.quota_group, []).append(endpoint)
        for endpoint in self._endpoints.values():
            group = endpoint.config.quota_group
            endpoint.peers = (endpoint,) if group is None else tuple(groups[group])
        self.version += 1

    def __getitem__(self, model_id: str) -> Endpoint:
        try:
            return self._endpoints[model_id]
        except (KeyError, TypeError):  # a model in place of its id has no hash
            known = ", ".join(self._endpoints) or "none"
            raise ConfigurationError(f"no model {model_id!r}; known are: {known}") from None

    def __contains__(self, model_id: object) -> bool:
        return model_id in self._endpoints

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._endpoints.values())

    def __len__(self) -> int:
        return len(self._endpoints)

    def names(self) -> Iterable[str]:
        """Ids and groups that a request may name."""
        for endpoint in self._endpoints.values():
            yield endpoint.model_id
            if endpoint.config.group is not None:
                yield endpoint.config.group

    def __repr__(self) -> str:
        return f"<Registry {', '.join(self._endpoints)}>"


def _limits_of(config: ModelConfig) -> QuotaLimits:
    return QuotaLimits(config.requests_per_minute, config.tokens_per_minute)
