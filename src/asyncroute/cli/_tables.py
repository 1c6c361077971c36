"""What the commands show, as tables that fit into 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncroute._benchmark import StrategyReport
    from asyncroute.cli._stage import HttpCall

__all__ = (
    "attempts_table",
    "candidates_table",
    "http_table",
    "models_table",
    "plain_table",
    "progress_table",
    "strategies_table",
)

Row = tuple[str, ...]


def candidates_table(decision: Mapping[str, Any]) -> Table:
    """Show the candidates of a decision of `route_query`, best first."""
    table = plain_table("", "model", ">score", ">expected cost", ">expected ms")
    chosen = decision["selected_model"]["model_id"]
    for candidate in decision["candidates"]:
        table.add_row(
            "*" if candidate["model_id"] == chosen else "",
            candidate["model_id"],
            f"{candidate['score']:.3f}",
            _dollars(candidate["expected_cost"]),
            _milliseconds(candidate["expected_latency_ms"]),
        )
    return table


def attempts_table(result: Mapping[str, Any]) -> Table:
    """Show what a result of `execute_query` took: every attempt in the order of their starts."""
    table = plain_table("model", "role", "outcome", ">from", ">to", ">cost")
    for attempt in result["attempts"]:
        started = attempt["started_after"]
        ended = started + attempt["queued"] + attempt["duration"]
        outcome = attempt["outcome"]
        colour = {"won": "green", "failed": "red", "timed_out": "red"}.get(outcome, "dim")
        if attempt["error_kind"]:
            outcome = f"{outcome}: {attempt['error_kind']}"
        table.add_row(
            attempt["model_id"],
            attempt["role"],
            f"[{colour}]{outcome}[/]",
            f"{started:.2f} s",
            f"{ended:.2f} s",
            _dollars(attempt["cost"]),
        )
    return table


def progress_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Show how the figures grow with the queries."""
    table = plain_table(">queries", ">answered", ">from cache", ">avg ms", ">spent")
    for row in rows:
        table.add_row(
            str(row["queries"]),
            f"{row['answered'] / row['queries']:.0%}",
            str(row["cached"]),
            _milliseconds(row["avg_latency_ms"]),
            _dollars(row["spent"]),
        )
    return table


def models_table(statistics: Mapping[str, Any]) -> Table:
    """Show the statistics of every model that was asked."""
    table = plain_table(
        "model", ">calls", ">success", ">avg ms", ">p95 ms", ">avg cost", ">total cost"
    )
    for model_id, model in statistics["model_stats"].items():
        if not model["total_requests"]:
            continue
        table.add_row(
            model_id,
            str(model["total_requests"]),
            f"{model['success_rate']:.1%}",
            _milliseconds(model["avg_latency_ms"]),
            _milliseconds(model["p95_latency_ms"]),
            _dollars(model["avg_cost"]),
            _dollars(model["total_cost"]),
        )
    return table


def strategies_table(reports: Mapping[str, StrategyReport], title: str) -> Table:
    """Show how the strategies compare."""
    table = plain_table(
        "strategy", ">avg cost", ">avg ms", ">p95 ms", ">ok", ">quality", "most used"
    )
    table.title = title
    for strategy, report in reports.items():
        table.add_row(
            strategy,
            f"${report.avg_cost:.5f}",
            _milliseconds(report.avg_latency),
            _milliseconds(report.p95_latency),
            f"{report.success_rate:.1%}",
            f"{report.avg_quality:.2f}",
            next(iter(report.models_used), ""),
        )
    return table


def http_table(calls: Sequence[HttpCall]) -> Table:
    """Show HTTP requests as they went over the wire."""
    table = plain_table("HTTP request", "model", ">status", ">ms")
    for call in calls:
        took = "" if call.took is None else _milliseconds(call.took * 1000)
        status = "no answer" if call.status is None else str(call.status)
        table.add_row(f"{call.method} {call.path}", call.model, status, took)
    return table


def plain_table(*columns: str) -> Table:
    """Make a table; a column whose name begins with `>` is aligned to the right."""
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title_justify="left",
        title_style="bold",
    )
    for column in columns:
        side: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        table.add_column(column.removeprefix(">"), justify=side, overflow="fold")
    return table


def _dollars(amount: float | None) -> str:
    return "" if amount is None else f"${amount:.6f}"


def _milliseconds(duration: float | None) -> str:
    return "" if duration is None else f"{duration:,.0f}"
