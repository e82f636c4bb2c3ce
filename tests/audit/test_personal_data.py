import random

import pytest

from qlora_kit.audit.personal_data import find_personal_data, mask_personal_data
from tests.audit.planting import (
    PRIVATE,
    near_miss,
)


@pytest.mark.parametrize("what", PRIVATE)
def test_personal_data_is_named_and_masked(what):
    dice = random.Random(what)
    make, *frames = PRIVATE[what]
    for _ in range(100):
        private = make(dice)
        text = dice.choice(frames).format(private)
        assert [span.what for span in find_personal_data(text)] == [what], text
        assert private not in mask_personal_data(text)


@pytest.mark.parametrize(("text", "masked"), [
    ("\u5361\u53f74111111111111111\u8c22\u8c22", "\u5361\u53f7[CARD]\u8c22\u8c22"),
    ("\u6211\u7684\u7535\u8bdd\u662f13800138000", "\u6211\u7684\u7535\u8bdd\u662f[PHONE]"),
    ("\u90ae\u7bb1zhang.san@qq.com\u8c22\u8c22", "\u90ae\u7bb1[EMAIL]\u8c22\u8c22"),
    ("To o'brien@example.com, please.", "To [EMAIL], please."),
    ("To 'ann@example.com', please.", "To '[EMAIL]', please."),
    ("m\u00fcller@m\u00fcller.de schrieb", "[EMAIL] schrieb"),
    ("My order was paid with card 4111111111111111", "My order was paid with card [CARD]"),
    *[(text, text) for text in (
        "My order number 4111111111111111", "Tracking number 4111111111111111",
        "The call lasted 1234567890 seconds", "call 2024-2025", "text 20240115",
        "ratio 0800 1600 2400", "open 0800 1600 2400")],
])  # fmt: skip
def test_words_around_a_number_decide(text, masked):
    assert mask_personal_data(text) == masked


@pytest.mark.parametrize(("text", "masked"), [
    ("My card is 4111 1111 1111 1111 12/27", "My card is [CARD] 12/27"),
    ("Card: 4111 1111 1111 1111 123", "Card: [CARD] 123"),
    ("2 cards: 12 4111 1111 1111 1111", "2 cards: 12 [CARD]"),
    ("from DE89 3704 0044 0532 0130 00 to GB82 WEST 1234 5698 7654 32",
     "from [IBAN] to [IBAN]"),
    ("order 4111 1111 1111 1111 123", "order 4111 1111 1111 1111 123"),
])  # fmt: skip
def test_a_number_is_found_beside_another(text, masked):
    assert mask_personal_data(text) == masked


def test_what_only_looks_like_personal_data_is_left():
    dice = random.Random(5)
    texts = [near_miss(dice) for _ in range(1000)]
    wrong = [text for text in texts if find_personal_data(text)]
    assert len(wrong) <= 5, wrong
