from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyncroute.learn import Outcome, QualityPredictor, WeightsError, same_number
from asyncroute.learn._codec import pack
from asyncroute.learn._forecast import choose, price_of

TOPICS = {
    "math": "integrate the polynomial equation and compute the matrix determinant value",
    "law": "the plaintiff argued before the supreme court about liability in contract",
    "code": "def function(value): return the sorted list of python dictionary keys",
}
SKILL = {  # chance to be right: who is good at what
    "cheap": {"math": 0.2, "law": 0.9, "code": 0.2},
    "coder": {"math": 0.3, "law": 0.2, "code": 0.9},
    "grand": {"math": 0.9, "law": 0.6, "code": 0.6},
}
COST = {"cheap": 1e-6, "coder": 2e-6, "grand": 5e-5}


def text_of(topic: str, rng: random.Random) -> str:
    words = TOPICS[topic].split()
    return " ".join(rng.choices(words, k=10)) + f" {rng.randrange(1000)}?"


def outcomes(count: int, seed: int = 0, *, informed: bool = True, answers: bool = False):
    rng = random.Random(seed)
    for _ in range(count):
        topic = rng.choice(list(TOPICS))
        query = text_of(topic if informed else rng.choice(list(TOPICS)), rng)
        for model, skill in SKILL.items():
            right = rng.random() < skill[topic]
            answer = ("right" if right else rng.random()) if answers else None
            yield Outcome(query, model, float(right), COST[model] * rng.uniform(0.5, 1.5), answer)


@pytest.fixture(scope="module")
def fitted() -> QualityPredictor:
    return QualityPredictor.fit(outcomes(800))


def test_each_topic_goes_to_who_is_good_at_it(fitted: QualityPredictor) -> None:
    rng = random.Random(9)
    for topic, wanted in (("math", "grand"), ("law", "cheap"), ("code", "coder")):
        picks = [
            fitted.models[choose(fitted.forecast(text_of(topic, rng)), 0.05, fitted.reference)]
            for _ in range(30)
        ]
        assert picks.count(wanted) >= 27


def test_a_high_price_is_the_cheapest_model_and_none_the_best(fitted: QualityPredictor) -> None:
    forecast = fitted.forecast(TOPICS["math"])
    assert choose(forecast, price_of(0.0), fitted.reference) == fitted.models.index("cheap")
    assert choose(forecast, price_of(1.0), fitted.reference) == fitted.models.index("grand")


def test_quality_is_near_the_truth_and_within_bounds(fitted: QualityPredictor) -> None:
    rng = random.Random(3)
    for topic in TOPICS:
        seen = np.mean([fitted.predict(text_of(topic, rng)) for _ in range(30)], axis=0)
        for value, model in zip(seen, fitted.models, strict=True):
            assert value == pytest.approx(SKILL[model][topic], abs=0.15)
    assert ((fitted.predict("") >= 0) & (fitted.predict("") <= 1)).all()


def test_texts_that_tell_nothing_leave_the_static_table() -> None:
    blind = QualityPredictor.fit(outcomes(600, informed=False))
    rng = random.Random(1)
    for topic in TOPICS:
        off = np.abs(blind.predict(text_of(topic, rng)) - blind.static_quality[:3])
        assert off.max() < 0.1


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_few_data_are_near_the_static_table(count: int) -> None:
    few = QualityPredictor.fit(outcomes(count), quality={"cheap": 0.5, "coder": 0.6, "grand": 0.9})
    assert few.models == ("cheap", "coder", "grand")
    seen = few.predict("something else")
    assert np.isfinite(seen).all()
    assert np.abs(seen - few.static_quality[:3]).max() < 0.35


def test_configured_qualities_fade_as_outcomes_come() -> None:
    quality = dict.fromkeys(SKILL, 0.0)
    assert QualityPredictor.fit(outcomes(400), quality=quality).static_quality.min() > 0.3


def test_a_configured_model_without_outcomes_keeps_its_quality() -> None:
    made = QualityPredictor.fit(outcomes(100), quality={"new": 0.77})
    assert made.predict("anything")[0] == pytest.approx(0.77)


def test_gaps_are_allowed() -> None:
    rng = random.Random(5)
    some = [
        Outcome(o.query, o.model, o.score if rng.random() < 0.5 else None, None)
        for o in outcomes(800)
    ]
    made = QualityPredictor.fit(some)
    law = made.predict(TOPICS["law"])
    assert law[made.models.index("cheap")] > law[made.models.index("coder")] + 0.2


def test_a_log_with_one_model_per_query_is_learned_from() -> None:
    rng = random.Random(6)
    grouped: dict[str, list[Outcome]] = {}
    for outcome in outcomes(1500):
        grouped.setdefault(outcome.query, []).append(outcome)
    made = QualityPredictor.fit(rng.choice(group) for group in grouped.values())
    code, law = made.predict(TOPICS["code"]), made.predict(TOPICS["law"])
    coder = made.models.index("coder")
    assert code[coder] - law[coder] > 0.4


def test_cascades_are_choices_after_the_models() -> None:
    rng = random.Random(0)
    rows: list[Outcome] = []
    for number in range(400):
        for model, skill, cost in (("a", 0.8, 1.0), ("b", 0.8, 1.1), ("c", 0.85, 30.0)):
            right = rng.random() < skill
            answer = "right" if right else rng.random()
            rows.append(Outcome(f"question {number}", model, float(right), cost, answer))
    made = QualityPredictor.fit(rows, cascades=4)
    assert (0, 1, 2) in made.choices
    forecast = made.forecast("question 7")
    assert len(made.predict("question 7")) == 3
    assert len(forecast.quality) == len(forecast.cost) == len(made.choices)
    assert made.choices[choose(forecast, 0.05, made.reference)] == (0, 1, 2)
    assert QualityPredictor.fit(rows, cascades=0).choices == ((0,), (1,), (2,))


def test_the_same_data_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        QualityPredictor.fit(outcomes(60), seed=4).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_progress_rises_to_one() -> None:
    seen: list[float] = []
    QualityPredictor.fit(outcomes(20), progress=lambda share, _stage: seen.append(share))
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)


def test_feedback_moves_what_is_near_most_and_what_is_elsewhere_less() -> None:
    made = QualityPredictor.fit(outcomes(400))
    grand, rng = made.models.index("grand"), random.Random(8)
    before = {topic: made.predict(TOPICS[topic])[grand] for topic in TOPICS}
    for second in range(300):
        made.update(text_of("math", rng), "grand", 0.0, float(second))
        made.update(text_of("law", rng), "grand", 1.0, float(second))
    fall = before["math"] - made.predict(TOPICS["math"])[grand]
    assert fall > 0.4
    assert before["law"] - made.predict(TOPICS["law"])[grand] < 0.1
    others = [i for i in range(3) if i != grand]
    assert made.predict(TOPICS["math"])[others].max() < 0.5


def test_feedback_decays() -> None:
    made = QualityPredictor.fit(outcomes(200))
    start = made.predict(TOPICS["math"])[2]
    for _ in range(100):
        made.update(TOPICS["math"], "grand", 0.0, 0.0)
    low = made.predict(TOPICS["math"])[2]
    made.update(TOPICS["law"], "grand", 1.0, made.half_life * 10)
    assert low < start - 0.5
    assert made.predict(TOPICS["math"])[2] > start - 0.15


def test_feedback_names_what_is_wrong_with_it(fitted: QualityPredictor) -> None:
    with pytest.raises(ValueError, match="model must be one of cheap, coder, grand, got 'x'"):
        fitted.update("text", "x", 1.0, 0.0)
    with pytest.raises(ValueError, match=r"score must be from 0 to 1, got 1\.5"):
        fitted.update("text", "grand", 1.5, 0.0)


def test_a_model_added_later_starts_from_its_configured_quality_and_learns() -> None:
    made = QualityPredictor.fit(outcomes(400))
    made.add("fresh", 0.6, 3e-6)
    assert made.models[-1] == "fresh"
    mean = np.mean([made.predict(words)[-1] for words in TOPICS.values()])
    assert mean == pytest.approx(0.6, abs=0.15)
    before = made.predict(TOPICS["code"])[-1]
    for _ in range(30):
        made.update(TOPICS["code"], "fresh", 1.0, 0.0)
    assert made.predict(TOPICS["code"])[-1] > before + 0.15
    with pytest.raises(ValueError, match="model must be new"):
        made.add("fresh", 0.5, 0.0)
    with pytest.raises(ValueError, match="quality must be 0 to 1"):
        made.add("other", 1.5, 0.0)


def test_a_draw_varies_more_where_less_was_seen() -> None:
    made = QualityPredictor.fit(outcomes(400))
    made.add("fresh", 0.5, 1e-6)
    reading, rng = made.read(TOPICS["math"]), random.Random(0)
    forecast = made.forecast(reading)
    draws = np.array([made.drawn(reading, forecast, rng).quality for _ in range(400)])
    assert draws.min() >= 0
    assert draws.max() <= 1
    assert draws[:, 3].std() > draws[:, 0].std()


def test_saved_and_loaded_it_predicts_the_same(fitted: QualityPredictor, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    fitted.save(path)
    again = QualityPredictor.load(path)
    assert path.stat().st_size < 300_000
    assert list(tmp_path.iterdir()) == [path]
    assert (again.models, again.choices, again.curve) == (
        fitted.models,
        fitted.choices,
        fitted.curve,
    )
    for words in TOPICS.values():
        assert again.predict(words) == pytest.approx(fitted.predict(words), abs=2e-3)


def changed(data: bytes, **replaced: bytes | None) -> bytes:
    """Return an archive with members replaced, or left out where None."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            part = replaced.get(name.removesuffix(".npy"), old.read(name))
            if part is not None:
                new.writestr(name, part)
    return out.getvalue()


def array_bytes(array: np.ndarray, *, pickled: bool = False) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=pickled)
    return out.getvalue()


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"lift": None}, "not readable as weights"),
        ({"scale": array_bytes(np.zeros(3, np.float32))}, "array scale must have shape"),
        ({"mean_cost": array_bytes(np.full(3, np.nan))}, "mean_cost must hold finite"),
        ({"bias": array_bytes(np.array([{}], object), pickled=True)}, "not readable as weights"),
        ({"header": array_bytes(np.frombuffer(b"[]", np.uint8))}, "header must be an object"),
        ({"header": array_bytes(np.frombuffer(b"{}", np.uint8))}, "kind must be 'weights'"),
        (
            {
                "header": array_bytes(
                    np.frombuffer(
                        b'{"format":"asyncroute","kind":"weights","version":99}', np.uint8
                    )
                )
            },
            "version must be 3, got 99",
        ),
    ],
)
def test_a_wrong_file_is_refused_and_says_why(
    fitted: QualityPredictor, tmp_path: Path, replaced: dict[str, bytes | None], message: str
) -> None:
    path = tmp_path / "weights"
    fitted.save(path)
    path.write_bytes(changed(path.read_bytes(), **replaced))
    with pytest.raises(WeightsError, match=message):
        QualityPredictor.load(path)


def test_a_prototype_of_no_region_is_refused(fitted: QualityPredictor, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    fitted.save(path)
    with zipfile.ZipFile(path) as archive, archive.open("region.npy") as member:
        region = np.lib.format.read_array(member)
    path.write_bytes(changed(path.read_bytes(), region=array_bytes(region + 200)))
    with pytest.raises(WeightsError, match="array region must hold whole numbers from 0 to"):
        QualityPredictor.load(path)


def test_damage_anywhere_is_found_or_harmless(fitted: QualityPredictor, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    fitted.save(path)
    whole, rng = path.read_bytes(), random.Random(0)
    for _ in range(60):
        broken = bytearray(whole)
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(broken))
        try:
            again = QualityPredictor.load(path)
        except WeightsError:
            continue
        assert again.predict("x") == pytest.approx(fitted.predict("x"), abs=2e-3)
    path.write_bytes(whole[:-100])
    with pytest.raises(WeightsError, match=r"weights: not readable as weights"):
        QualityPredictor.load(path)


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(pack({"kind": "weights"}, {"codes": np.zeros(2**25, np.int8)}))
    with pytest.raises(WeightsError, match="unpacks to more than"):
        QualityPredictor.load(path)


def test_what_was_learned_while_serving_is_saved_and_loaded(tmp_path: Path) -> None:
    made = QualityPredictor.fit(outcomes(300))
    made.add("fresh", 0.5, 1e-6)
    for second in range(50):
        made.update(TOPICS["math"], "grand", 0.0, 1e6 + second)
        made.update_answered(TOPICS["law"], "cheap", False, 1e6 + second)
    made.save(tmp_path / "weights")
    again = QualityPredictor.load(tmp_path / "weights")
    for words in TOPICS.values():
        assert again.predict(words) == pytest.approx(made.predict(words), abs=2e-3)
    low = again.predict(TOPICS["math"])[2]
    again.update(TOPICS["law"], "grand", 1.0, 0.0)  # another process's clock: nothing fades
    assert again.predict(TOPICS["math"])[2] == pytest.approx(low, abs=0.05)


def test_refusals_lower_the_expected_quality_where_they_happen_and_answers_restore_it() -> None:
    made = QualityPredictor.fit(outcomes(400))
    grand = made.columns["grand"]
    before = {topic: made.predict(TOPICS[topic])[grand] for topic in TOPICS}
    for _ in range(40):
        made.update_answered(TOPICS["math"], "grand", False, 0.0)
        made.update_answered(TOPICS["law"], "grand", True, 0.0)
    refused = made.predict(TOPICS["math"])[grand]
    assert refused < 0.5 * before["math"]
    assert made.predict(TOPICS["law"])[grand] > 0.75 * before["law"]
    for _ in range(400):
        made.update_answered(TOPICS["math"], "grand", True, 0.0)
    assert made.predict(TOPICS["math"])[grand] > 0.8 * before["math"]
    assert made.predict(TOPICS["math"])[grand] <= before["math"]


def test_without_outcomes_it_is_the_configured_table_and_learns() -> None:
    made = QualityPredictor.fit([], quality={"a": 0.4, "b": 0.8})
    assert made.predict("anything") == pytest.approx([0.4, 0.8])
    assert (made.reference, made.curve, made.recommended().price) == (0.0, (), 0.0)
    for _ in range(50):
        made.update("anything", "b", 0.0, 0.0)
    assert made.predict("anything")[1] < 0.2


def test_without_outcomes_every_model_needs_a_quality() -> None:
    with pytest.raises(ValueError, match="needs an outcome with a score"):
        QualityPredictor.fit([])
    with pytest.raises(ValueError, match="got none for 'b'"):
        QualityPredictor.fit([("q", "b", None, 0.1)], quality={"a": 0.5})
    with pytest.raises(ValueError, match=r"quality must be 0 to 1, got 1\.5 for 'a'"):
        QualityPredictor.fit([], quality={"a": 1.5})
    with pytest.raises(ValueError, match="half_life must be above 0"):
        QualityPredictor.fit([], quality={"a": 0.5}, half_life=0)


def test_plain_tuples_are_outcomes_and_costs_may_be_missing() -> None:
    made = QualityPredictor.fit([(o.query, o.model, o.score, None) for o in outcomes(300)])
    assert made.reference == 0
    assert not made.static_cost.any()
    law = made.predict(TOPICS["law"])
    assert law[made.columns["cheap"]] > law[made.columns["coder"]] + 0.2


def test_a_model_whose_cost_is_never_known_has_none() -> None:
    rows = [o._replace(cost=None) if o.model == "grand" else o for o in outcomes(300)]
    made = QualityPredictor.fit(rows)
    forecast = made.forecast(TOPICS["math"])
    assert forecast.cost[made.columns["grand"]] == 0
    assert forecast.cost[made.columns["coder"]] == pytest.approx(COST["coder"], rel=0.5)


def test_answers_of_a_fit_agree_as_the_function_says() -> None:
    rng, rows = random.Random(0), []
    for number in range(400):
        for model, skill, cost in (("a", 0.8, 1.0), ("b", 0.8, 1.1), ("c", 0.85, 30.0)):
            right = rng.random() < skill
            text = rng.choice(["It is 7", "7", "so 7.0"]) if right else str(rng.random())
            rows.append(Outcome(f"question {number}", model, float(right), cost, text))
    assert (0, 1, 2) in QualityPredictor.fit(rows, agree=same_number).choices
    gains = [
        QualityPredictor.fit(rows, agree=agree).recommended(with_cascades=True).cost
        for agree in (same_number, None)
    ]
    assert gains[0] < gains[1]


def test_the_curve_falls_with_the_price_and_the_recommended_point_is_on_it(
    fitted: QualityPredictor,
) -> None:
    costs = [point.cost for point in fitted.curve]
    assert costs[0] > costs[-1]
    assert fitted.recommended() in fitted.curve
    assert fitted.recommended().quality >= fitted.static_quality.max() - 0.01


def test_a_fit_without_scores_and_outcomes_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="needs an outcome with a score"):
        QualityPredictor.fit([Outcome("q", "m", None, 1.0)])
    with pytest.raises(ValueError, match="score must be from 0 to 1, got 2"):
        QualityPredictor.fit([Outcome("q", "m", 2.0, 1.0)])
    with pytest.raises(ValueError, match="cost must be finite"):
        QualityPredictor.fit([Outcome("q", "m", 1.0, float("nan"))])


def test_a_knob_is_a_share() -> None:
    assert price_of(1.0) == 0.0
    assert price_of(0.5) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="knob must be from 0 to 1"):
        price_of(1.1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("q", "m"), r"an outcome must be \(query, model, score, cost\), got \('q', 'm'\)"),
        ({"query": "q", "model": "m", "score": 1}, "an outcome must be"),
        ("text", "an outcome must be"),
        ((5, "m", 1.0, 0.1), "query of an outcome must be a text, got 5"),
        (("q", None, 1.0, 0.1), "model of an outcome must be a text, got None"),
    ],
)
def test_what_is_no_outcome_is_refused_and_shown(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QualityPredictor.fit([given])
