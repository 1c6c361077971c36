"""The command line: what it prints at 80 columns, and how it fails."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from asyncroute.__main__ import main
from asyncroute.catalogue import DEFAULT_MODELS
from asyncroute.cli._queries import read_queries
from asyncroute.config import RouterConfig, save_config


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


class Ran:
    """What a command left behind."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err

    def __repr__(self) -> str:
        return f"<Ran {self.status}\n{self.out}\n{self.err}>"


@pytest.fixture
def asyncroute(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*args: str) -> Ran:
        status = main(args)
        said = capsys.readouterr()
        return Ran(status, said.out, said.err)

    return run


def fits(text: str) -> bool:
    return all(len(line) <= 80 for line in text.splitlines())


class TestDemo:
    def test_plays_six_parts_within_80_columns(self, asyncroute: Any) -> None:
        ran = asyncroute("demo")
        assert (ran.status, ran.err) == (0, "")
        assert fits(ran.out)
        assert re.findall(r"^(\d)  ([\w-]+)", ran.out, re.MULTILINE) == [
            ("1", "Cost-optimized"),
            ("2", "Quality-optimized"),
            ("3", "Execution"),
            ("4", "Performance"),
            ("5", "Statistics"),
            ("6", "Strategy"),
        ]
        for model in DEFAULT_MODELS:
            assert f" {model.model_id} " in ran.out or f"\n{model.model_id} " in ran.out

    def test_shows_a_fallback_and_a_hedge(self, asyncroute: Any) -> None:
        for seed in ("0", "1", "2", "3"):
            out = asyncroute("demo", "--seed", seed).out
            assert re.search(r"claude-opus-5-5 +first +failed: unavailable", out)
            assert re.search(r"gpt-6.1-sol +fallback +won ", out)
            assert re.search(r"mistral-small-2603 +first +superseded ", out)
            assert re.search(r"gpt-6-luna +hedge +won +1\.0\d s ", out)

    def test_is_the_same_for_the_same_seed(self, asyncroute: Any) -> None:
        assert asyncroute("demo", "--seed", "7").out == asyncroute("demo", "--seed", "7").out
        assert asyncroute("demo", "--seed", "7").out != asyncroute("demo", "--seed", "8").out

    def test_on_an_endpoint_calls_it_over_http(self, asyncroute: Any, llmock: Any) -> None:
        llmock.delay(0.04, times=None)
        ran = asyncroute(
            "demo", "--base-url", llmock.base_url(), "--model", "gpt-4o", "--model", "other"
        )
        assert (ran.status, ran.err) == (0, "")
        assert fits(ran.out)
        assert re.search(r"no-such-model +first +failed: model_not_found", ran.out)
        assert re.search(r"gpt-4o +fallback +won ", ran.out)
        assert re.search(r"hedge +(won|superseded) ", ran.out)
        assert re.search(r"POST /v1/no-such-path/chat/completions +no-such-model +404", ran.out)
        called = re.findall(r"^POST /v1/chat/completions +(\S+) +200", ran.out, re.MULTILINE)
        assert set(called) == {"gpt-4o", "other"}
        assert len(llmock.requests) > len(called)  # the 404, and the hedge's loser

    def test_on_an_endpoint_sends_the_key_and_shows_it_nowhere(
        self, asyncroute: Any, llmock: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DEMO_KEY", "hunter2hunter2")
        endpoint = ("--base-url", llmock.base_url(), "--model", "gpt-4o")
        ran = asyncroute("demo", *endpoint, "--api-key-env", "DEMO_KEY")
        assert ran.status == 0, ran
        assert "takes two models" in ran.out
        assert "hunter2" not in ran.out + ran.err

    def test_of_an_endpoint_that_is_not_there_is_one_line(self, asyncroute: Any) -> None:
        ran = asyncroute("demo", "--base-url", "http://127.0.0.1:9/v1", "--model", "m")
        assert (ran.status, ran.out) == (1, "")
        assert is_one_line(ran.err, "m at http://127.0.0.1:9/v1 does not answer: ")


class TestRoute:
    def test_explains_a_decision(self, asyncroute: Any) -> None:
        ran = asyncroute("route", "Why?", "--strategy", "cost_optimized", "--max-cost", "0.001")
        assert (ran.status, ran.err) == (0, "")
        assert fits(ran.out)
        assert ran.out.startswith("cost_optimized chose gpt-6-luna\n")
        assert re.search(r"^\* gpt-6-luna +0\.\d+ +\$0\.\d+ +0\.65 s$", ran.out, re.MULTILINE)
        assert re.search(r"^- claude-opus-5-5: .*0\.001", ran.out, re.MULTILINE)

    def test_takes_every_constraint(self, asyncroute: Any) -> None:
        ran = asyncroute(
            *("route", "Look at this", "--capability", "analysis", "--max-latency-ms", "1500"),
            *("--required-quality", "0.85", "--max-tokens", "200", "--strategy", "ensemble"),
            *("--model", "gemini-3.8-flash", "--model", "muse-spark-1.3"),
            *("--exclude", "muse-spark-1.3"),
        )
        assert ran.status == 0, ran
        assert "ensemble chose gemini-3.8-flash" in ran.out
        assert "vote of Balanced" in ran.out

    def test_reads_a_configuration_without_its_secrets(
        self, asyncroute: Any, tmp_path: Path
    ) -> None:
        model = {"model_id": "mine", "params": {"api_key": "${NOT_SET}"}}
        save_config(RouterConfig.from_mapping({"models": [model]}), tmp_path / "c.yaml")
        ran = asyncroute("route", "hello", "--config", str(tmp_path / "c.yaml"))
        assert ran.out.startswith("balanced chose mine\n"), ran


QUERIES = {
    "list.json": '["one", {"query": "two", "capability": "simple_qa"}]',
    "lines.jsonl": '"one"\n\n{"query": "two", "capability": "simple_qa"}\n',
    "unnamed.list": '["one", {"query": "two", "capability": "simple_qa"}]',
    "unnamed.lines": '{"query": "one"}\n{"query": "two", "capability": "simple_qa"}\n',
}


class TestBench:
    def test_compares_the_strategies(self, asyncroute: Any, tmp_path: Path) -> None:
        (tmp_path / "queries.txt").write_text("What is the capital of France?\n\nWhy?\n")
        ran = asyncroute("bench", str(tmp_path / "queries.txt"), "--iterations", "3")
        assert (ran.status, ran.err) == (0, "")
        assert fits(ran.out)
        assert "2 queries x 3, simulated" in ran.out
        names = re.findall(r"^(\w+) +\$0\.\d{5} ", ran.out, re.MULTILINE)
        assert names == [
            "cost_optimized",
            "latency_optimized",
            "quality_optimized",
            "balanced",
            "round_robin",
            "least_loaded",
            "ensemble",
        ]
        assert (
            ran.out == asyncroute("bench", str(tmp_path / "queries.txt"), "--iterations", "3").out
        )

    @pytest.mark.parametrize("name", QUERIES)
    def test_reads_queries_in_three_formats(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text(QUERIES[name])
        one, two = read_queries(tmp_path / name)
        assert (one.query, one.capability) == ("one", "general")
        assert (two.query, two.capability) == ("two", "simple_qa")

    @pytest.mark.parametrize(
        ("name", "text", "expected"),
        [
            ("q.json", '["one",\n {"query": }]', "q.json, line 2, column 12: Expecting value"),
            ("q.jsonl", '"one"\n\n{"query"\n', "q.jsonl, line 3, column 9: "),
            ("q.json", '{"query": "one"}', "must hold a list of queries, not a dict"),
            ("q.json", '["one", 2]', "q.json, query 2: a query is a text or an object, not a int"),
            ("q.json", '[{"query": "x", "max_cost": -1}]', "q.json, query 1: max_cost: "),
            ("q.jsonl", '{"qery": "x"}', "q.jsonl, line 1: qery: "),
            ("q.txt", "\n \n", "there is no query in it"),
            ("q.txt", b"\xff", "not UTF-8"),
        ],
    )
    def test_says_where_a_query_is_wrong(
        self, asyncroute: Any, tmp_path: Path, name: str, text: str | bytes, expected: str
    ) -> None:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        ran = asyncroute("bench", str(path))
        assert (ran.status, ran.out) == (1, "")
        assert is_one_line(ran.err, expected)


def is_one_line(err: str, expected: str) -> bool:
    assert err.startswith("asyncroute: "), err
    assert err.count("\n") == 1, err
    assert expected in err, err
    return True


class TestErrors:
    @pytest.mark.parametrize(
        ("args", "status", "expected"),
        [
            ("nonsense", 2, "'nonsense'"),
            ("route", 2, "Missing argument"),
            ("route hello --bogus", 2, "--bogus"),
            ("route hello --max-cost much", 2, "--max-cost"),
            ("route hello --max-cost -1", 2, "max_cost: "),
            ("route hello --required-quality 7", 2, "got 7.0"),
            ("route hello --strategy fastest", 1, "'fastest'; known are: cost_optimized, "),
            ("route hello --required-quality 0.99", 1, "gpt-6-luna has quality 0.76"),
            ("route hello --config none.json", 1, "none.json: No such file"),
            ("route hello --config none.toml", 1, "use .json, .yaml or .yml"),
            ("bench none.txt", 1, "none.txt: No such file"),
            ("bench none.txt --iterations 0", 2, "--iterations"),
            ("demo --model m", 2, "goes with --base-url"),
            ("demo --base-url http://h", 2, "at least one --model"),
            ("demo --base-url h --model m", 1, "must be http:// or https://"),
            ("demo --base-url http://h --model m --api-key-env NOT_SET_", 1, "'NOT_SET_'"),
        ],
    )
    def test_are_one_line_and_a_status(
        self, asyncroute: Any, args: str, status: int, expected: str
    ) -> None:
        ran = asyncroute(*args.split())
        assert (ran.status, ran.out) == (status, "")
        assert is_one_line(ran.err, expected)

    def test_of_a_configuration_name_line_or_key(self, asyncroute: Any, tmp_path: Path) -> None:
        path = tmp_path / "c.json"
        path.write_text('{\n  "models": [}\n')
        assert is_one_line(asyncroute("route", "x", "--config", str(path)).err, "c.json, line 2, ")
        path.write_text(json.dumps({"models": [{"model_id": "a"}], "cachettl": 3}))
        ran = asyncroute("route", "x", "--config", str(path))
        assert is_one_line(ran.err, "unknown key 'cachettl' (did you mean 'cache_ttl'?)")

    def test_of_the_user_interrupting(
        self, asyncroute: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("asyncroute.cli._commands.demonstrate", interrupt)
        assert asyncroute("demo").status == 130


def test_without_a_command_the_help_is_shown(asyncroute: Any) -> None:
    ran = asyncroute()
    assert ran.status == 0
    assert all(command in ran.out for command in ("demo", "route", "bench"))
    assert fits(ran.out)


def test_version(asyncroute: Any) -> None:
    assert asyncroute("--version").out == f"asyncroute {version('asyncroute')}\n"


def in_a_process(*args: str, code: str | None = None, encoding: str = "utf-8") -> Ran:
    command = ["-m", "asyncroute", *args] if code is None else ["-c", code, *args]
    ran = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=15,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_extra_it_says_which_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None\n"
    code += "from asyncroute.__main__ import main; sys.exit(main(['--version']))"
    ran = in_a_process(code=code)
    assert (ran.status, ran.out) == (1, "")
    assert is_one_line(ran.err, f"needs {missing}: pip install 'asyncroute[cli]'")


def test_a_terminal_that_knows_only_ascii_is_served_too() -> None:
    ran = in_a_process("demo", encoding="ascii")
    assert (ran.status, ran.err) == (0, "")
    assert "6  Strategy benchmarking" in ran.out


def test_it_runs_as_a_module() -> None:
    ran = in_a_process("--version")
    assert (ran.status, ran.out, ran.err) == (0, f"asyncroute {version('asyncroute')}\n", "")


class TestEval:
    @pytest.fixture
    def log(self, tmp_path: Path) -> Path:
        rng = random.Random(0)
        skill = {"small": (0.9, 0.3), "large-model-with-a-long-name": (0.7, 0.9)}
        lines = []
        for number in range(120):
            topic = number % 2
            for model, chances in skill.items():
                right = rng.random() < chances[topic]
                lines.append(
                    {
                        "prompt": f"{('sue the plaintiff', 'integrate')[topic]} {number}",
                        "model": model,
                        "score": float(right),
                        "cost_usd": 0.001 if model == "small" else 0.01,
                        "task": ("law", "mathematics")[topic],
                    }
                )
        (tmp_path / "logs").mkdir()
        path = tmp_path / "logs" / "outcomes.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)), "utf-8")
        return path

    def test_prints_figures_and_tasks_within_80_columns_and_draws(
        self, asyncroute: Any, log: Path, tmp_path: Path
    ) -> None:
        picture, weights = tmp_path / "plot.png", tmp_path / "weights"
        ran = asyncroute(
            *("eval", str(log), "--by", "task", "--splits", "2"),
            *("--plot", str(picture), "--save", str(weights)),
        )
        assert (ran.status, ran.err) == (0, "")
        assert fits(ran.out)
        for word in ("oracle", "cheapest", "static table", "random", "best single: large-model"):
            assert word in ran.out
        for figure in ("cost share", "gain", "AIQ", "APGR", "chosen", "p90 us"):
            assert re.search(rf"^{figure} .*\d", ran.out, re.MULTILINE), figure
        assert re.search(r"^mathematics +2\d +", ran.out, re.MULTILINE)
        assert "Note: Fewer than 200 queries" in ran.out
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert weights.stat().st_size < 300_000

    def test_a_picture_of_no_format_is_refused_before_the_work(
        self, asyncroute: Any, log: Path, tmp_path: Path
    ) -> None:
        ran = asyncroute("eval", str(log), "--plot", str(tmp_path / "plot.txt"))
        assert (ran.status, ran.out) == (1, "")
        assert "plot.txt' must end in one of" in ran.err
        assert "png" in ran.err

    def test_without_asking_neither_draws_nor_saves(
        self, asyncroute: Any, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        ran = asyncroute("eval", str(log), "--splits", "1")
        assert ran.status == 0
        assert "by task" not in ran.out
        assert list(tmp_path.iterdir()) == [tmp_path / "logs"]

    @pytest.mark.parametrize(("given", "threads"), [(None, "1"), ("2", "2")])
    def test_numpy_starts_with_one_thread_unless_told_otherwise(
        self, tmp_path: Path, given: str | None, threads: str
    ) -> None:
        script = (
            "import os, sys\n"
            "from asyncroute.__main__ import main\n"
            "class Watch:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name == 'numpy':\n"
            "            print(os.environ.get('OPENBLAS_NUM_THREADS'))\n"
            "sys.meta_path.insert(0, Watch())\n"
            "main(['eval', sys.argv[1]])\n"
        )
        environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
        if given is not None:
            environment["OPENBLAS_NUM_THREADS"] = given
        command = [sys.executable, "-c", script, str(tmp_path / "missing.jsonl")]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ran.stdout.splitlines() == [threads]

    def test_says_where_a_replay_means_little(self, asyncroute: Any, tmp_path: Path) -> None:
        path = tmp_path / "log.jsonl"
        rows = [
            {"prompt": f"q {n}", "model": f"m{n % 3}", "score": n % 2, "cost_usd": 0.1}
            for n in range(60)
        ]
        path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
        ran = asyncroute("eval", str(path), "--splits", "1")
        assert ran.status == 0
        assert "Note: Only 33% of all pairs" in ran.out

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"prompt": "p", "model": "m"}', "log.jsonl line 1: lacks 'score'"),
            ('{"prompt": "p", "model": "m", "score": 1}', "needs at least 10 queries"),
            ("", "log.jsonl: has no lines"),
        ],
    )
    def test_names_what_is_wrong_in_one_line(
        self, asyncroute: Any, tmp_path: Path, text: str, message: str
    ) -> None:
        path = tmp_path / "log.jsonl"
        path.write_text(text, "utf-8")
        ran = asyncroute("eval", str(path))
        assert (ran.status, ran.out) == (1, "")
        assert message in ran.err
        assert ran.err.count("\n") == 1
