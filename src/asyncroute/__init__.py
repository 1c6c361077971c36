"""Route each LLM query to the best model, asynchronously.

`LLMRouter` chooses among models by cost, latency, quality and load, and carries the call through:
admission, fallback, hedging, racing, caching, metrics. `LLMRoutingManager` is its face in plain
dictionaries. What users extend or choose lives in `asyncroute.providers`, `asyncroute.testing` and
`asyncroute.config`.
"""

from typing import TYPE_CHECKING

from asyncroute._admission import LoadBalancer
from asyncroute._budget import MoneyBudget
from asyncroute._cache import CacheManager
from asyncroute._errors import (
    AllAttemptsFailedError,
    AsyncRouteError,
    AttemptTimeoutError,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ConfigurationError,
    ContentRefusedError,
    ContextTooLongError,
    DeadlineExceededError,
    ModelNotFoundError,
    NoEligibleModelError,
    OverloadedError,
    ProtocolError,
    ProviderError,
    ProviderOverloadedError,
    QuotaExhaustedError,
    RateLimitedError,
    RouterStateError,
    StreamInterruptedError,
    UnavailableError,
)
from asyncroute._fallback import FallbackStrategy
from asyncroute._health import HealthSettings
from asyncroute._inputs import Capability, ModelConfig, QueryRequest
from asyncroute._metrics import PerformanceMetrics
from asyncroute._protocols import (
    Call,
    Candidate,
    ModelSelector,
    Observer,
    OnAttempt,
    OnFeedback,
    OnResult,
    OnStart,
    Plan,
    Provider,
    Ranking,
    StreamingProvider,
)
from asyncroute._results import ExecutionResult, RoutingDecision
from asyncroute._router import LLMRouter
from asyncroute._selectors import (
    BalancedSelector,
    CostOptimizedSelector,
    LatencyOptimizedSelector,
    LeastLoadedSelector,
    QualityOptimizedSelector,
    RoundRobinSelector,
    RouterEnsemble,
    ScoredSelector,
)
from asyncroute._stream import Stream
from asyncroute._values import Attempt, Chunk, Completion, Usage

if TYPE_CHECKING:
    from asyncroute.manager import LLMRoutingManager

__all__ = (
    "AllAttemptsFailedError",
    "AsyncRouteError",
    "Attempt",
    "AttemptTimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "BalancedSelector",
    "BudgetExceededError",
    "CacheManager",
    "Call",
    "Candidate",
    "Capability",
    "Chunk",
    "Completion",
    "ConfigurationError",
    "ContentRefusedError",
    "ContextTooLongError",
    "CostOptimizedSelector",
    "DeadlineExceededError",
    "ExecutionResult",
    "FallbackStrategy",
    "HealthSettings",
    "LLMRouter",
    "LLMRoutingManager",
    "LatencyOptimizedSelector",
    "LeastLoadedSelector",
    "LoadBalancer",
    "ModelConfig",
    "ModelNotFoundError",
    "ModelSelector",
    "MoneyBudget",
    "NoEligibleModelError",
    "Observer",
    "OnAttempt",
    "OnFeedback",
    "OnResult",
    "OnStart",
    "OverloadedError",
    "PerformanceMetrics",
    "Plan",
    "ProtocolError",
    "Provider",
    "ProviderError",
    "ProviderOverloadedError",
    "QualityOptimizedSelector",
    "QueryRequest",
    "QuotaExhaustedError",
    "Ranking",
    "RateLimitedError",
    "RoundRobinSelector",
    "RouterEnsemble",
    "RouterStateError",
    "RoutingDecision",
    "ScoredSelector",
    "Stream",
    "StreamInterruptedError",
    "StreamingProvider",
    "UnavailableError",
    "Usage",
)


def __getattr__(name: str) -> object:
    # The manager brings the catalogue and the simulated provider along: most routers need neither.
    if name == "LLMRoutingManager":
        from asyncroute.manager import LLMRoutingManager

        return LLMRoutingManager
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
