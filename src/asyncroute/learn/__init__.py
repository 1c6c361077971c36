"""Routing that learns which model will be right on which query. Needs numpy (extra `learn`).

`PredictiveSelector` is the strategy, `QualityPredictor` what it knows; `OutcomeLog` keeps what
`evaluate` measures it on.
"""

from importlib import import_module

try:
    import_module("numpy")
except ImportError as error:
    raise ImportError(
        "asyncroute.learn needs numpy: pip install 'asyncroute[learn]'", name=error.name
    ) from None

from asyncroute.learn._agreement import same_json, same_number, same_text
from asyncroute.learn._codec import WeightsError
from asyncroute.learn._dataset import Dataset, read_dataset
from asyncroute.learn._evaluate import Report, evaluate
from asyncroute.learn._forecast import Forecast, Point
from asyncroute.learn._log import OutcomeLog
from asyncroute.learn._outcomes import Outcome
from asyncroute.learn._plot import plot
from asyncroute.learn._predictor import QualityPredictor
from asyncroute.learn._selector import PredictiveSelector, Scorer

__all__ = (
    "Dataset",
    "Forecast",
    "Outcome",
    "OutcomeLog",
    "Point",
    "PredictiveSelector",
    "QualityPredictor",
    "Report",
    "Scorer",
    "WeightsError",
    "evaluate",
    "plot",
    "read_dataset",
    "same_json",
    "same_number",
    "same_text",
)
