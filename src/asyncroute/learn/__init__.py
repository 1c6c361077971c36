"""Routing that learns which model will be right on which query. Needs numpy (extra `learn`)."""

from __future__ import annotations

from asyncroute.learn._cascade import expected, same_json, same_number, same_text, vote
from asyncroute.learn._codec import WeightsError
from asyncroute.learn._controller import BudgetController, CostController, ExplorationCap
from asyncroute.learn._dataset import Dataset, read_dataset
from asyncroute.learn._evaluate import Report, evaluate, plot
from asyncroute.learn._forecast import Forecast, Point, choose, price_of
from asyncroute.learn._outcomes import Outcome
from asyncroute.learn._predictor import QualityPredictor

__all__ = (
    "BudgetController",
    "CostController",
    "Dataset",
    "ExplorationCap",
    "Forecast",
    "Outcome",
    "Point",
    "QualityPredictor",
    "Report",
    "WeightsError",
    "choose",
    "evaluate",
    "expected",
    "plot",
    "price_of",
    "read_dataset",
    "same_json",
    "same_number",
    "same_text",
    "vote",
)
