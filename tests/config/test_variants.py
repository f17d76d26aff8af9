"""The words behind the colon, and what tiny changes."""

import pytest

from kd_jax.config import base, finish, make_tiny, parse
from kd_jax.config.variants import HelpAsked, Words

KINDS = dict(data=("cifar10", "digits"), knowledge=("response", "at", "kd"), variants=("mutual", "joint"))


def test_words_come_in_any_order_and_each_kind_has_its_own_name():
    expected = ("digits", "at+kd", "joint", ("small", "tiny"))
    assert parse("joint,small,at+kd,digits,tiny", **KINDS, flags=("small",)) == expected
    assert parse("small,tiny,digits,joint,at+kd", **KINDS, flags=("small",)) == expected
    variant = parse("", **KINDS)
    assert (variant.data, variant.knowledge, variant.variant, variant.flags) == ("cifar10", "response", "mutual", ())


def test_kinds_that_a_config_has_not_are_empty():
    assert parse("tiny") == ("", "", "", ("tiny",))
    assert parse("joint", variants=("mutual", "joint")).variant == "joint"


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("join", "Unknown word 'join' in the config's variant 'join'. Did you mean 'joint'"),
        ("joint,mutual", "^variant is given twice: 'joint' and 'mutual'.$"),
        ("digits,cifar10", "^data is given twice: 'digits' and 'cifar10'.$"),
        ("at,kd", "knowledge is given twice: 'at' and 'kd'. Knowledge combines with '\\+'"),
        ("at+kdd", "Unknown word 'kdd'.*'kd'"),
    ],
)
def test_other_words_are_told(arg, message):
    with pytest.raises(ValueError, match=message):
        parse(arg, **KINDS)


def test_help_tells_the_words():
    with pytest.raises(HelpAsked) as asked:
        parse("digits,help", **KINDS, flags=("small",))
    assert asked.value.words == Words(KINDS["data"], KINDS["knowledge"], KINDS["variants"], ("small", "tiny"))


def test_tiny_is_applied_by_finish():
    config = finish(base(), parse("digits", **KINDS), tiny={"data": {"limit": 3}})
    assert config.to_json() == base().to_json()
    tiny = finish(base(), parse("tiny", **KINDS), steps=4, tiny={"data": {"limit": 3}, "scheme": {"kwargs": {"n": 1}}})
    assert (tiny.train.steps, tiny.teacher.train.steps, tiny.eval_every) == (4, 4, 4)
    assert (tiny.data.limit, tiny.scheme.kwargs.n, tiny.data.eval_limit) == (3, 1, 64)
    assert finish(base(), parse("tiny")).to_json() == make_tiny(base()).to_json()
