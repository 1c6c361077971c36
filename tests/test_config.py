"""Configurations: what is refused and how, what files hold, where secrets stay."""

from __future__ import annotations

import builtins
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncroute._errors import ConfigurationError
from asyncroute._inputs import ModelConfig
from asyncroute._secrets import Redactor, escape, has_references, resolve
from asyncroute.catalogue import DEFAULT_MODELS
from asyncroute.config import (
    ProviderSettings,
    RouterConfig,
    load_config,
    resolve_model,
    resolve_provider,
    save_config,
)

A = {"model_id": "a"}


def config_of(**fields: Any) -> RouterConfig:
    return RouterConfig.from_mapping({"models": [A], **fields})


def refusal(**fields: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        config_of(**fields)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None  # pydantic's error quotes what it was given
    return str(caught.value)


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"modles": [A]}, "unknown key 'modles' (did you mean 'models'?); it has a list"),
            ({"models": []}, "models: at least one is needed; got []"),
            ({"models": [A, {"model_id": "b"}, A]}, "'a': models[0] and models[2]"),
            ({"models": [{**A, "quality_score": 2}]}, "models[0].quality_score: "),
            ({"models": [{**A, "quality_score": 2}]}, "less than or equal to 1; got 2"),
            (
                {"models": [{**A, "qualty": 1}]},
                "'models[0].qualty' (did you mean 'quality_score'?)",
            ),
            ({"models": [{**A, "cost_per_1k_tokens": math.nan}]}, "cost_per_1k_tokens: "),
            ({"models": [{}]}, "models[0].model_id"),
            ({"models": ["gpt-4"]}, "models[0]: "),
            ({"cache_ttl": -3}, "cache_ttl: Input should be greater than 0; got -3"),
            ({"cache_ttl": math.nan}, "cache_ttl: "),
            ({"max_workers": 0}, "max_workers: "),
            ({"timeout": 0}, "timeout: "),
            ({"on_no_candidates": "cheapest"}, "'fail' or 'relax'; got 'cheapest'"),
            ({"budgets": [{"limit": -1}]}, "budgets[0]: MoneyBudget.limit"),
            ({"providers": {"p": {"url": "x"}}}, "providers.p.base_url is missing"),
            ({"providers": {"p": {"type": "grpc", "base_url": "x"}}}, "got 'grpc'"),
        ],
    )
    def test_name_key_and_value(self, fields: dict[str, Any], expected: str) -> None:
        assert expected in refusal(**fields)

    def test_of_several_mistakes_name_all(self) -> None:
        message = refusal(cache_ttl=0, enable_cachng=True)
        assert "cache_ttl" in message
        assert "did you mean 'enable_caching'?" in message

    def test_without_models_say_so(self) -> None:
        with pytest.raises(ConfigurationError, match="models is missing"):
            RouterConfig.from_mapping({})

    @pytest.mark.parametrize(
        "provider",
        [
            {"base_url": "http://h", "apikey": "hunter2"},
            {"base_url": "http://h", "api_key": 2.5, "headers": {"X-Api-Key": ["hunter2"]}},
            {"base_url": "http://h", "urll": "http://me:hunter2@h"},
        ],
    )
    def test_keep_secrets_to_themselves(self, provider: dict[str, Any]) -> None:
        assert "hunter2" not in refusal(providers={"p": provider})

    def test_of_params_do_not_quote_them(self) -> None:
        assert "hunter2" not in refusal(models=[{**A, "params": "hunter2"}])


def test_models_may_be_given_as_objects() -> None:
    assert config_of(models=[ModelConfig(model_id="b")]).models == (ModelConfig(model_id="b"),)


def test_a_repr_names_models_and_providers_and_no_secret() -> None:
    config = config_of(
        models=[{**A, "params": {"api_key": "hunter2"}}],
        providers={"p": {"base_url": "http://me:hunter2@h", "api_key": "hunter2"}},
    )
    assert "models=['a'], providers=['p']" in repr(config)
    assert "hunter2" not in f"{config!r} {config} {config.providers!r} {config.models!r}"


FULL = {
    "models": [
        *DEFAULT_MODELS,
        {
            "model_id": "own/one:1",
            "provider": "p",
            "group": "fast",
            "supports": ["tools"],
            "requests_per_minute": 60,
            "params": {
                "temperature": 0.5,
                "api_key": "${KEY}",
                "headers": {"Authorization": "Bearer ${KEY}"},
                "stop": ["\n\n", "ü"],
                "logit_bias": {"50256": -100},
                "stop_token": "</s>",
                "max_tokens": 10,
                "prompt": "$${KEY} stays",
            },
        },
    ],
    "providers": {"p": {"base_url": "https://h/v1", "api_key": "${KEY}", "headers": {"x": "y"}}},
    "budgets": [{"limit": 3, "per": "model", "only": ["b", "a"]}],
    "enable_ensemble": True,
    "timeout": math.inf,
    "max_workers": 7,
    "fair_by": "tenant",
}


@pytest.mark.parametrize("suffix", ["json", "yaml", "yml"])
class TestFiles:
    def test_round_trip_exactly(self, tmp_path: Path, suffix: str) -> None:
        config = RouterConfig.from_mapping(FULL)
        path = tmp_path / f"config.{suffix}"
        assert save_config(config, path) == {}
        loaded = load_config(path)
        assert loaded == config
        assert loaded.models[-1].params == config.models[-1].params  # equality looks at them, too
        save_config(loaded, tmp_path / f"again.{suffix}")
        assert (tmp_path / f"again.{suffix}").read_bytes() == path.read_bytes()

    def test_spell_out_what_a_later_version_may_have_other_defaults_for(
        self, tmp_path: Path, suffix: str
    ) -> None:
        path = tmp_path / f"config.{suffix}"
        save_config(config_of(), path)
        assert all(key in path.read_text() for key in ("cache_ttl", "avg_latency_ms", "weight"))

    def test_are_replaced_at_once(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"config.{suffix}"
        save_config(config_of(), path)
        before = path.read_text()
        with path.open() as reader:
            save_config(config_of(max_workers=3), path)
            assert reader.read() == before

    def test_never_hold_plain_secrets(self, tmp_path: Path, suffix: str) -> None:
        config = config_of(
            models=[
                {"model_id": "a-1", "params": {"api_key": "hunter2", "password": 90210}},
                {"model_id": "a_1", "params": {"api_key": "hunter3", "top_p": 1}},
                {"model_id": "b", "params": {"extra": {"X-Custom": "Bearer hunter4"}}},
            ],
            providers={
                "p": {"base_url": "https://me:hunter5@h", "api_key": "hunter6"},
                "q": {"base_url": "https://h/?key=${KEY}", "headers": {"X-Auth-Token": "hunter7"}},
            },
        )
        path = tmp_path / f"config.{suffix}"
        variables = save_config(config, path)
        text = path.read_text()
        assert "hunter" not in text
        assert "90210" not in text
        assert "https://h/?key=${KEY}" in text
        assert variables == {
            "ASYNCROUTE_A_1_API_KEY": "a-1.api_key",
            "ASYNCROUTE_A_1_PASSWORD": "a-1.password",
            "ASYNCROUTE_A_1_API_KEY_2": "a_1.api_key",
            "ASYNCROUTE_B_EXTRA_X_CUSTOM": "b.extra.X-Custom",
            "ASYNCROUTE_P_BASE_URL": "p.base_url",
            "ASYNCROUTE_P_API_KEY": "p.api_key",
            "ASYNCROUTE_Q_HEADERS_X_AUTH_TOKEN": "q.headers.X-Auth-Token",
        }
        assert all(f"${{{name}}}" in text for name in variables)

    def test_are_as_before_when_writing_fails(
        self, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / f"config.{suffix}"
        save_config(config_of(), path)
        before = path.read_bytes()

        def full_disk(_: int) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="no space left"):
            save_config(config_of(max_workers=3), path)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == [path.name]

    def test_are_not_written_with_what_they_cannot_hold(self, tmp_path: Path, suffix: str) -> None:
        config = config_of(models=[{**A, "params": {"hooks": [object()]}}])
        with pytest.raises(ConfigurationError, match=r"models\[0\].params.hooks\[0\] cannot be"):
            save_config(config, tmp_path / f"config.{suffix}")
        assert os.listdir(tmp_path) == []


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


class TestReading:
    @pytest.mark.parametrize(
        ("name", "text", "expected"),
        [
            (
                "c.json",
                '{\n "models": [\n  {"model_id": }\n]}',
                "line 3, column 16: Expecting value",
            ),
            ("c.json", '{"models": [], "models": []}', "the key 'models' stands twice"),
            ("c.json", "[1]", "must hold a mapping of settings, not a list"),
            ("c.json", "{}", "models is missing"),
            ("c.json", "[" * 100_000, "nested too deeply"),
            ("c.json", b'{"a": "\xff"}', "not UTF-8 at byte 7"),
            ("c.yaml", "models:\n  - model_id: [a\n", "line 3, column 1: "),
            ("c.yaml", "", "must hold a mapping of settings, not None"),
            ("c.yaml", "x: \x00", "special characters are not allowed"),
            ("c.toml", "", "use .json, .yaml or .yml"),
            ("c", "", "use .json, .yaml or .yml"),
        ],
    )
    def test_says_what_is_wrong_where(
        self, tmp_path: Path, name: str, text: str | bytes, expected: str
    ) -> None:
        path = written(tmp_path / name, text)
        with pytest.raises(ConfigurationError) as caught:
            load_config(path)
        message = str(caught.value)
        assert message.startswith(str(path))
        assert expected in message
        assert "\n" not in message

    def test_of_a_missing_file_is_an_os_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            load_config(tmp_path / "none.json")

    def test_of_yaml_needs_an_extra_and_says_which(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real_import = builtins.__import__

        def without_yaml(name: str, *args: Any) -> Any:
            if name == "yaml":
                raise ImportError(name)
            return real_import(name, *args)

        monkeypatch.setattr(builtins, "__import__", without_yaml)
        path = written(tmp_path / "c.yaml", "models: [{model_id: a}]")
        with pytest.raises(ConfigurationError, match=r"pip install 'asyncroute\[cli\]'"):
            load_config(path)

    def test_takes_a_byte_order_mark(self, tmp_path: Path) -> None:
        path = written(tmp_path / "c.json", '\ufeff{"models": [{"model_id": "a"}]}')
        assert load_config(path) == config_of()


def test_json_is_what_other_tools_take_for_json(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not in JSON")

    path = tmp_path / "config.json"
    save_config(config_of(timeout=math.inf), path)
    json.loads(path.read_text(), parse_constant=refuse)
    assert load_config(path).timeout == math.inf


def test_writing_follows_a_link_and_keeps_the_mode(tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    save_config(config_of(), target)
    target.chmod(0o640)
    link.symlink_to(target)
    save_config(config_of(max_workers=3), link)
    assert link.is_symlink()
    assert load_config(target).max_workers == 3
    assert target.stat().st_mode & 0o777 == 0o640


def test_importing_the_module_imports_neither_yaml_nor_rich() -> None:
    code = "import sys, asyncroute.config; print({'yaml', 'rich', 'typer'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


class TestReferences:
    def test_are_resolved_in_params(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KEY", "hunter2")
        model = RouterConfig.from_mapping(FULL).models[-1]
        params = resolve_model(model, source="here").params
        assert params["api_key"] == "hunter2"
        assert params["headers"] == {"Authorization": "Bearer hunter2"}
        assert params["prompt"] == "${KEY} stays"
        assert params["temperature"] == 0.5
        assert model.params["api_key"] == "${KEY}"

    def test_are_resolved_in_provider_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOST", "example.org")
        settings = ProviderSettings(base_url="https://${HOST}/v1", headers={"x": "${HOST}"})
        resolved = resolve_provider("p", settings, source="here")
        assert resolved.base_url == "https://example.org/v1"
        assert resolved.headers == {"x": "example.org"}

    def test_to_a_missing_variable_name_variable_key_and_file(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("ABSENT", raising=False)
        model = ModelConfig(model_id="m", params={"h": [{"Authorization": "Bearer ${ABSENT}"}]})
        with pytest.raises(ConfigurationError) as caught:
            resolve_model(model, source="my.json")
        assert str(caught.value) == (
            "my.json: m.params.h.0.Authorization needs the environment variable ABSENT,"
            " which is not set"
        )
        settings = ProviderSettings(base_url="http://h", api_key="${ABSENT}")
        with pytest.raises(ConfigurationError, match=r"my.json: providers.p.api_key .* ABSENT"):
            resolve_provider("p", settings, source="my.json")

    @settings(deadline=None)
    @given(
        st.recursive(
            st.text("${}AB_ "),
            lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner),
        )
    )
    def test_are_kept_apart_from_texts_that_look_like_them(self, value: object) -> None:
        escaped = escape(value)
        assert not has_references(escaped)
        assert resolve(escaped, {}, key="", source="") == value


@pytest.mark.parametrize(
    ("key", "value", "is_secret"),
    [
        ("api_key", "x", True),
        ("apiKey", "x", True),
        ("OPENAI_API_KEY", "x", True),
        ("Ocp-Apim-Subscription-Key", "x", True),
        ("authorization", "Bearer x", True),
        ("access_token", "x", True),
        ("token", "x", True),
        ("clientSecret", "x", True),
        ("db_password", 1234, True),
        ("session_token", "${T}", False),
        ("Authorization", "Bearer ${T}", False),
        ("password", True, False),
        ("api_key", "", False),
        ("key", "value", False),
        ("prompt_cache_key", "user-1", False),
        ("max_tokens", 512, False),
        ("stop_token", "</s>", False),
        ("tokenizer", "cl100k", False),
        ("author", "me", False),
        ("passage", "x", False),
        ("note", "basic idea", False),
        ("note", "token by token", False),
        ("anything", "Basic dXNlcjpwYXNz", True),
        ("anything", "Bearer abc", True),
        ("anything", "sk-abcdefghijklmnopqrstuv", True),
        ("url", "https://me:pw@host", True),
        ("url", "https://host:8080/v1", False),
        ("url", "https://host/?api_key=abc", True),
    ],
)
def test_what_is_taken_for_a_secret(key: str, value: object, is_secret: bool) -> None:
    redactor = Redactor()
    kept = redactor.redact({key: value}, owner="m")
    assert (kept == {key: value}) is not is_secret
    assert bool(redactor.variables) is is_secret


def test_redacting_looks_below_secret_keys_and_not_above() -> None:
    redactor = Redactor()
    value = {"credentials": {"user": "me", "roles": ["x"]}, "plain": [{"y": "z"}]}
    assert redactor.redact(value, owner="secret-model") == {
        "credentials": {
            "user": "${ASYNCROUTE_SECRET_MODEL_CREDENTIALS_USER}",
            "roles": ["${ASYNCROUTE_SECRET_MODEL_CREDENTIALS_ROLES_0}"],
        },
        "plain": [{"y": "z"}],
    }
    assert json.dumps(value)  # left as it was
