"""The commands and their options; what goes wrong is one line on standard error."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio
import typer
from pydantic import ValidationError
from rich.console import Console

from asyncroute._benchmark import compare, progress_bar, strategies_of
from asyncroute._errors import AsyncRouteError
from asyncroute._inputs import Capability
from asyncroute.catalogue import DEFAULT_MODELS
from asyncroute.cli._demo import Endpoint, demonstrate
from asyncroute.cli._evaluation import evaluate_outcomes
from asyncroute.cli._queries import describe, read_queries
from asyncroute.cli._tables import strategies_table
from asyncroute.config import RouterConfig, load_config
from asyncroute.manager import LLMRoutingManager

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("run",)

app = typer.Typer(
    name="asyncroute",
    help="Route each LLM query to the best model by cost, latency, quality and load.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

# Typer exports no base class of what it raises for bad arguments; this is a parent of all.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]


def run(args: Sequence[str] | None = None) -> int:
    """Run a command; see `asyncroute.__main__.main`."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")  # a terminal that cannot show a sign gets a `?`
    try:
        status = app(args=args, prog_name="asyncroute", standalone_mode=False)
    except (AsyncRouteError, ImportError) as error:
        return _fail(str(error), 1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}", 1)
    except ValidationError as error:
        return _fail(describe(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except _USAGE_ERROR as error:
        return _fail(str(getattr(error, "format_message", error.__str__)()), 2)
    return status or 0


def _fail(message: str, status: int) -> int:
    print(f"asyncroute: {' '.join(message.split())}", file=sys.stderr)
    return status


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"asyncroute {version('asyncroute')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


Seed = Annotated[int, typer.Option(help="Where chance comes from; equal seeds, equal output.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="A configuration (JSON, YAML) instead of the eight models."),
]


@app.command()
def demo(
    seed: Seed = 0,
    base_url: Annotated[
        str | None,
        typer.Option(help="An OpenAI-compatible endpoint to call, as http://localhost:8000/v1."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model of that endpoint, the best first; may be repeated."),
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="The environment variable with the endpoint's key.")
    ] = None,
) -> None:
    """Show everything in six parts: simulated, or on a real endpoint."""
    endpoint = None
    if base_url is not None:
        if not model:
            raise typer.BadParameter("needs at least one --model", param_hint="--base-url")
        endpoint = Endpoint(base_url, tuple(dict.fromkeys(model)), api_key_env)
    elif model or api_key_env:
        raise typer.BadParameter("goes with --base-url", param_hint="--model or --api-key-env")
    demonstrate(_console(), seed=seed, endpoint=endpoint)


@app.command()
def route(  # noqa: PLR0913 - one parameter is one option
    query: Annotated[str, typer.Argument(help="The query's text.")],
    strategy: Annotated[str, typer.Option(help="The strategy that chooses.")] = "balanced",
    capability: Annotated[
        str,
        typer.Option(help=f"What the model must be good for: {', '.join(Capability)}, or others."),
    ] = "general",
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Dollars at most.")] = None,
    max_latency_ms: Annotated[float | None, typer.Option(help="Milliseconds at most.")] = None,
    required_quality: Annotated[float | None, typer.Option(help="Least quality, 0 to 1.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model or group to choose among; may be repeated.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="A model or group not to use; may be repeated.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Explain which model a query would go to, and why. Calls nobody."""
    manager = LLMRoutingManager(_config(config))

    async def explain() -> str:
        decision = await manager.router.route(
            query,
            strategy=strategy,
            capability=capability,
            max_tokens=max_tokens,
            max_cost=max_cost,
            max_latency_ms=max_latency_ms,
            required_quality=required_quality,
            models=model,
            exclude=exclude or (),
        )
        return decision.explain()

    print(anyio.run(explain))


@app.command()
def bench(
    file: Annotated[
        Path, typer.Argument(help="Queries: a JSON list, JSON lines, or one text a line.")
    ],
    iterations: Annotated[
        int, typer.Option(min=1, help="How often all queries are executed with each strategy.")
    ] = 100,
    seed: Seed = 0,
    config: ConfigFile = None,
) -> None:
    """Compare the strategies on the queries of a file, simulated in virtual time."""
    requests = read_queries(file)
    settings = _config(config)
    total = len(requests) * iterations * len(strategies_of(settings))
    with progress_bar("Benchmarking strategies", total) as advance:

        def go_on() -> bool:
            advance()
            return True

        reports = compare(settings, requests, iterations, seed=seed, go_on=go_on)
    title = f"{len(requests)} queries x {iterations}, simulated"
    _console().print(strategies_table(reports, title))


@app.command("eval")
def evaluate_routing(
    data: Annotated[
        Path, typer.Argument(help="Outcomes: a log (OutcomeLog), or a folder with a table.")
    ],
    by: Annotated[
        Literal["task"] | None, typer.Option(help="Also show the figures of every task.")
    ] = None,
    splits: Annotated[int, typer.Option(min=1, help="How often to split at random.")] = 5,
    cascades: Annotated[
        int, typer.Option(min=0, help="Cascades to offer at most; they need answers.")
    ] = 24,
    plot: Annotated[
        Path | None, typer.Option(help="Draw quality against cost into this file (PNG, SVG).")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Fit all outcomes, and write the weights into this file.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Measure what routing that learns would have gained on recorded outcomes."""
    evaluate_outcomes(
        _console(),
        data,
        by_task=by == "task",
        splits=splits,
        cascades=cascades,
        plot=plot,
        save=save,
        seed=seed,
    )


def _config(path: Path | None) -> RouterConfig:
    if path is not None:
        return load_config(path)
    models: dict[str, Any] = {"models": DEFAULT_MODELS, "enable_ensemble": True}
    return RouterConfig.from_mapping(models)


def _console() -> Console:
    return Console(highlight=False)
