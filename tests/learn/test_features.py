from __future__ import annotations

import numpy as np
import pytest

from asyncroute.learn._features import (
    BUCKETS,
    EDGE,
    FEATURES,
    LinearMap,
    feature_matrix,
    features,
    scan,
    window,
)


def test_a_short_text_is_looked_at_whole() -> None:
    assert window("héllo") == "héllo".encode()


@pytest.mark.parametrize("filler", ["x", "é", "語"])
def test_of_a_long_text_both_ends_are_looked_at_and_nothing_else(filler: str) -> None:
    text = "a" * EDGE + filler * 5000 + "z" * EDGE
    assert window(text) == b"a" * EDGE + b"z" * EDGE


def test_a_text_of_wide_characters_is_cut_by_bytes() -> None:
    assert len(window("語" * 1000)) == 2 * EDGE


@pytest.mark.parametrize("text", ["", "a", "ab", "\0", "\ud800 lone surrogate", "語" * 3000])
def test_any_text_has_finite_features_of_length_one(text: str) -> None:
    vector = features(text)
    assert vector.shape == (FEATURES,)
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector[:BUCKETS]) == pytest.approx(1.0, abs=1e-5)


def test_case_changes_the_shape_but_not_what_it_is_about() -> None:
    one, other = features("What IS this"), features("what is THIS")
    assert np.array_equal(one[:BUCKETS], other[:BUCKETS])
    assert not np.array_equal(features("WHAT")[BUCKETS:], features("what")[BUCKETS:])


def test_texts_that_share_words_are_nearer_than_texts_that_do_not() -> None:
    one, near, far = feature_matrix(
        ["integrate the polynomial", "integrate this polynomial now", "capital city of Peru"]
    )[:, :BUCKETS]
    assert one @ near > 0.4 > one @ far


def test_features_are_a_format_and_do_not_change() -> None:
    vector = features("Ab 12")
    assert np.flatnonzero(vector[:BUCKETS]).tolist() == [275, 761, 1424, 2103, 3938]
    logarithms = np.log1p([1, 1, 2, 1, *[0] * 9, 2, 0, 1, 0, 0, 0, 5, 5, 5])
    shares = [1, 1, 2, 1, *[0] * 9]
    assert vector[BUCKETS:] == pytest.approx(np.array([*logarithms, *shares, 1]), abs=1e-6)


def test_a_bucket_has_the_root_of_how_often_its_grams_and_words_occur() -> None:
    buckets = features("aaaa aaaa")[:BUCKETS]  # "aaa" four times, "aa " and two more, a word twice
    assert sorted(9 * buckets[buckets > 0] ** 2) == pytest.approx([1, 1, 1, 2, 4])


def test_a_word_has_the_same_feature_wherever_it_stands() -> None:
    word, other = (features(text)[:BUCKETS] for text in ("cat", "cab"))
    both = (word > 0) & ~(other > 0)
    for text in ("cat", "the cat sat", "(CAT)", "x" * 300 + " cat"):
        assert (features(text)[:BUCKETS] > 0)[both].all()


def test_a_number_is_what_it_is_written_like_and_not_its_value() -> None:
    number, other, longer = (features(text) for text in ("cost 123", "cost 456", "cost 4567"))
    assert np.array_equal(number, other)
    assert not np.array_equal(number[:BUCKETS], longer[:BUCKETS])


def test_letters_and_digits_that_touch_are_two_words() -> None:
    number, letter = scan("12x").buckets[-2:]
    assert [letter, number] == scan("x-12").buckets[-2:].tolist()


def test_words_that_begin_with_the_same_eight_letters_are_one() -> None:
    one, other, shorter = (
        scan(f"{word}.").buckets[-1] for word in ("integrating", "integration", "integra")
    )
    assert one == other != shorter


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("12 apples", "1234 apples"),
        ("a b c", "abc de"),
        ("so it is", "so it is!"),
        ("paid 1.50", "paid. 150"),
        ("one\ntwo three", "one two\nthree"),
    ],
)
def test_texts_of_another_shape_have_other_numbers(text: str, other: str) -> None:
    assert not np.array_equal(features(text)[BUCKETS:], features(other)[BUCKETS:])


@pytest.mark.parametrize("text", ["", "the cat, the dog, the 3.5 mice\n", "語" * 3000])
def test_a_map_of_what_a_text_has_is_the_map_of_its_vector(text: str) -> None:
    weights = np.random.default_rng(0).standard_normal((BUCKETS, 4)).astype(np.float32)
    seen, vector = scan(text), features(text)
    assert seen.weights @ weights[seen.buckets] == pytest.approx(
        vector[:BUCKETS] @ weights, abs=1e-4
    )
    assert np.array_equal(seen.shape, vector[BUCKETS:])


def test_a_long_line_counts_among_the_first_ones_only() -> None:
    long = "a line that is longer than all others\n"
    last, first = (scan(text).shape for text in ("ab\n" * 20 + long, long + "ab\n" * 20))
    longest = np.flatnonzero(last != first)
    assert len(longest) == 1
    assert last[longest] == pytest.approx(np.log1p(2))
    assert first[longest] == pytest.approx(np.log1p(len(long) - 1))


def test_an_output_array_is_filled_and_nothing_of_before_is_left() -> None:
    out = np.full(FEATURES, 7, np.float32)
    assert features("hello", out) is out
    assert np.array_equal(out, features("hello"))


def test_a_rounded_map_is_near_the_exact_one() -> None:
    weights = np.random.default_rng(0).standard_normal((4, FEATURES))
    rounded = LinearMap.rounded(weights, np.zeros(4))
    assert rounded.codes.dtype == np.int8
    exact = rounded.by_bucket().T * rounded.scale[:, None]
    assert np.abs(exact - weights).max() <= rounded.scale.max() * 0.51


def test_a_map_of_zeros_stays_finite() -> None:
    assert not LinearMap.rounded(np.zeros((2, 8)), np.zeros(2)).by_bucket().any()
