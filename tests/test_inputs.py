"""What users write: good values as they are, bad ones refused by field and value."""

from __future__ import annotations

import json
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from asyncroute import Capability, ModelConfig, QueryRequest

SECRET = "sk-hush"  # short: pydantic cuts long values, and shows their ends


def test_a_model_needs_no_more_than_an_id() -> None:
    model = ModelConfig(model_id="gpt-4")
    assert (model.name, model.provider, model.is_available) == ("gpt-4", "default", True)
    assert (model.capabilities, model.params) == (("general",), {})


def test_the_models_of_the_specification_are_taken_as_written() -> None:
    model = ModelConfig.model_validate(
        {
            "model_id": "gpt-4",
            "name": "GPT-4",
            "provider": "openai",
            "cost_per_1k_tokens": 0.03,
            "max_tokens": 8192,
            "avg_latency_ms": 2000,
            "capabilities": ["complex_reasoning", "code_generation", "analysis"],
            "quality_score": 0.95,
            "max_concurrent_requests": 50,
        }
    )
    assert model.name == "GPT-4"
    assert model.capabilities == ("complex_reasoning", "code_generation", "analysis")


def test_prices_of_input_and_output_default_to_the_common_one() -> None:
    model = ModelConfig(model_id="a", cost_per_1k_tokens=3.0, output_cost_per_1k=15.0)
    assert (model.input_price, model.output_price) == (0.003, 0.015)
    assert model.cached_input_price == 0.003


def test_a_price_of_zero_is_a_price() -> None:
    model = ModelConfig(
        model_id="a", cost_per_1k_tokens=3.0, input_cost_per_1k=0, cached_input_cost_per_1k=0
    )
    assert (model.input_price, model.output_price, model.cached_input_price) == (0, 0.003, 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_id", ""),
        ("model_id", 7),
        ("provider", ""),
        ("cost_per_1k_tokens", -0.01),
        ("cost_per_1k_tokens", nan),
        ("input_cost_per_1k", inf),
        ("output_cost_per_1k", -1),
        ("cached_input_cost_per_1k", "dear"),
        ("max_tokens", 0),
        ("max_output_tokens", 0),
        ("avg_latency_ms", 0),
        ("avg_latency_ms", inf),
        ("quality_score", 1.01),
        ("quality_score", -0.5),
        ("quality_score", nan),
        ("max_concurrent_requests", -1),
        ("requests_per_minute", 0),
        ("tokens_per_minute", 0),
        ("weight", -2),
        ("weight", nan),
        ("capabilities", ["", "x"]),
        ("capabilities", [["nested"]]),
        ("supports", 3),
    ],
)
def test_bad_values_of_a_model_are_refused_by_field_and_value(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        ModelConfig(**{"model_id": "a", field: value})
    assert caught.value.errors()[0]["loc"][0] == field
    assert f"{field}\n" in str(caught.value) or f"{field}." in str(caught.value)
    said = value[0] if isinstance(value, list) else value
    assert repr(said) in str(caught.value)


def test_an_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="cost_per_token"):
        ModelConfig(model_id="a", cost_per_token=1)  # pyright: ignore[reportCallIssue]


def test_names_are_taken_alone_in_lists_and_in_sets_without_repetition() -> None:
    def of(given: Any) -> tuple[str, ...]:
        return ModelConfig(model_id="a", capabilities=given).capabilities

    assert of("analysis") == ("analysis",)
    assert of(["b", "a", "b"]) == ("b", "a")
    assert of({"b", "a"}) == ("a", "b")
    assert of([Capability.ANALYSIS]) == ("analysis",)
    assert of(["something_else"]) == ("something_else",)


def test_inputs_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ModelConfig(model_id="a").model_id = "b"
    with pytest.raises(ValidationError, match="frozen"):
        QueryRequest(query="x").query = "y"


def test_a_query_is_the_users_only_message() -> None:
    assert QueryRequest(query="hi").chat == ({"role": "user", "content": "hi"},)


def test_messages_are_passed_as_they_are() -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    assert list(QueryRequest.model_validate({"messages": chat}).chat) == chat


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "needs a query or messages; got query=None, messages=None"),
        ({"query": "  "}, "query='  '"),
        ({"messages": []}, r"messages=\(\)"),
        ({"query": "x", "messages": [{"role": "user", "content": "x"}]}, "either .*, not both"),
        ({"messages": [{"content": "x"}]}, r"message 0 has no role; it has \['content'\]"),
    ],
)
def test_a_request_says_one_thing(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        QueryRequest(**given)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_cost", -1.0),
        ("max_cost", nan),
        ("max_latency_ms", 0),
        ("required_quality", 1.5),
        ("required_quality", nan),
        ("timeout", 0),
        ("timeout", -3.0),
        ("timeout", nan),
        ("models", []),
        ("models", [3]),
        ("strategy", ""),
        ("capability", ""),
        ("priority", 1.5),
    ],
)
def test_bad_values_of_a_request_are_refused_by_field_and_value(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        QueryRequest(**{"query": "x", field: value})
    (error,) = caught.value.errors()
    assert error["loc"][0] == field
    assert field in str(caught.value)
    assert (repr(value[0]) if value and isinstance(value, list) else str(value)) in str(
        caught.value
    )


def test_an_infinite_timeout_is_none() -> None:
    assert QueryRequest(query="x", timeout=inf).timeout == inf


# Secrets

MODEL = ModelConfig(model_id="a", params={"api_key": SECRET})
REQUEST = QueryRequest(query="x", params={"extra_headers": {"Authorization": SECRET}})


@pytest.mark.parametrize("value", [MODEL, REQUEST])
def test_params_are_left_out_of_reprs_and_of_what_is_serialised(value: Any) -> None:
    dumped = json.dumps(TypeAdapter(type(value)).dump_python(value, mode="json"))
    for shown in (repr(value), str(value), value.model_dump_json(), dumped):
        assert SECRET not in shown
        assert "params" not in shown


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (ModelConfig, {}),
        (ModelConfig, {"model_id": "a", "quality_score": 2}),
        (ModelConfig, {"model_id": 5}),
        (QueryRequest, {}),
        (QueryRequest, {"query": "x", "messages": [{"role": "user"}]}),
        (QueryRequest, {"query": "x", "timeout": 0}),
    ],
)
def test_validation_errors_show_nobodys_params(kind: Any, given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        kind(params={"api_key": SECRET}, **given)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


def test_params_of_a_wrong_kind_are_refused_without_being_shown() -> None:
    with pytest.raises(ValidationError, match="params") as caught:
        ModelConfig(model_id="a", params=[SECRET])  # pyright: ignore[reportArgumentType]
    assert SECRET not in str(caught.value)


@given(
    st.builds(
        QueryRequest,
        query=st.text(min_size=1).filter(str.strip),
        max_cost=st.none() | st.floats(0, 10),
        timeout=st.none() | st.floats(0.1, 100),
        models=st.none() | st.lists(st.text(min_size=1), min_size=1),
        priority=st.integers(-5, 5),
    )
)
def test_a_request_survives_its_dictionary(request: QueryRequest) -> None:
    assert QueryRequest.model_validate(request.model_dump()) == request
