"""Who comes first: the selectors, one strategy a class."""

from asyncroute._selectors._ensemble import RouterEnsemble
from asyncroute._selectors._round_robin import RoundRobinSelector
from asyncroute._selectors._scored import ScoredSelector
from asyncroute._selectors._strategies import (
    BalancedSelector,
    CostOptimizedSelector,
    LatencyOptimizedSelector,
    LeastLoadedSelector,
    QualityOptimizedSelector,
)

__all__ = (
    "BalancedSelector",
    "CostOptimizedSelector",
    "LatencyOptimizedSelector",
    "LeastLoadedSelector",
    "QualityOptimizedSelector",
    "RoundRobinSelector",
    "RouterEnsemble",
    "ScoredSelector",
)
