"""What ``--budget`` means, word by word."""

import pytest

from quantizable.interface.budget_words import read_budgets


@pytest.mark.parametrize(
    ("words", "budgets"),
    [
        (["4bit"], [{"bops": "4bit"}]),
        (["3bit,60000"], [{"bops": "3bit"}, {"bops": "60000"}]),
        (["bytes=4bit", "bops=3.5bit"], [{"bytes": "4bit", "bops": "3.5bit"}]),
        (["bytes=4bit bops=3.5bit"], [{"bytes": "4bit", "bops": "3.5bit"}]),
        (["bytes=4bit", "3bit"], [{"bytes": "4bit", "bops": "3bit"}]),
        (
            ["mean_bits=2.25,2.5", "bops=3bit"],
            [{"mean_bits": "2.25", "bops": "3bit"}, {"mean_bits": "2.5", "bops": "3bit"}],
        ),
    ],
)
def test_words_are_searches_and_limits(words: list[str], budgets: list[dict[str, str]]) -> None:
    assert read_budgets(words, "bops") == budgets


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["joule=3"], "cost 'joule' is unknown"),
        (["bytes=3bit", "bytes=4bit"], "limits bytes twice"),
        (["3bit", "4bit"], "limits bops twice"),
        (["bytes="], "not understood"),
        (["3bit,,4bit"], "not understood"),
    ],
)
def test_words_that_say_nothing_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_budgets(words, "bops")
