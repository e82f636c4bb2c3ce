"""One definition of the scripts without spaces, for scores, likeness and personal data."""

import itertools
import unicodedata
from collections import Counter

import pytest

from qlora_kit.audit.personal_data import find_personal_data, mask_personal_data
from qlora_kit.audit.similarity import split_words
from qlora_kit.data import spaced_words

# How often must I water the plants? How long is the warranty? Send the invoice to the office.
SENTENCES = {
    "Chinese": ("我多久需要给柜子里的植物浇水", "这盏灯的保修期是几年", "请把发票寄到办公室来"),
    "Thai": ("ฉันต้องรดน้ำต้นไม้ในตู้บ่อยแค่ไหน", "การรับประกันของโคมไฟมีอายุกี่ปี", "กรุณาส่งใบแจ้งหนี้มาที่สำนักงาน"),
    "Lao": ("ຂ້ອຍຕ້ອງຫົດນ້ຳຕົ້ນໄມ້ເລື້ອຍປານໃດ", "ການຮັບປະກັນຂອງໂຄມໄຟມີອາຍຸຈັກປີ", "ກະລຸນາສົ່ງໃບແຈ້ງໜີ້ມາທີ່ຫ້ອງການ"),
    "Khmer": (
        "តើខ្ញុំត្រូវស្រោចទឹកដើមឈើញឹកញាប់ប៉ុណ្ណា",
        "ការធានារបស់ចង្កៀងមានរយៈពេលប៉ុន្មានឆ្នាំ",
        "សូមផ្ញើវិក្កយបត្រមកការិយាល័យ",
    ),
    "Burmese": ("အပင်ကိုဘယ်နှစ်ကြိမ်ရေလောင်းရမလဲ", "မီးအိမ်၏အာမခံသက်တမ်းဘယ်နှစ်နှစ်လဲ", "ငွေတောင်းခံလွှာကိုရုံးသို့ပို့ပေးပါ"),
}
ADDRESSES = {
    "Chinese": "请写信给{}谢谢",
    "Japanese": "メールは{}です",
    "Korean": "메일은 {}으로 보내세요",
    "Thai": "เขียนถึง{}ครับ",
    "Lao": "ຂຽນຫາ{}ເດີ",
    "Khmer": "សរសេរទៅ{}បាទ",
    "Burmese": "စာကို{}သို့ပို့ပါ",
}


def agreement(one, two):
    common = (Counter(one) & Counter(two)).total()
    return 2 * common / (len(one) + len(two))


def letters(text):
    return [sign for sign in text if not unicodedata.category(sign).startswith("M")]


def test_a_sign_is_a_word_where_it_says_something_and_a_letter_is_none():
    for script, sentences in SENTENCES.items():
        pairs = list(itertools.combinations(sentences, 2))
        by_letter = sum(agreement(letters(a), letters(b)) for a, b in pairs) / len(pairs)
        by_word = [agreement(spaced_words(a), spaced_words(b)) for a, b in pairs]
        assert (by_letter > 0.35) == (script != "Chinese"), script
        assert max(by_word) < 0.1, script
    assert spaced_words("東京の天気は cold") == [*"東京の天気は", "cold"]
    assert spaced_words("カレー・ライス") == ["カ", "レ", "ー", "・", "ラ", "イ", "ス"]
    assert split_words("カレー・ライス、人々") == [*"カレーライス人々"]
    assert split_words("서울은 3") == ["서", "울", "은", "3"]
    for script in ("Thai", "Lao", "Khmer", "Burmese"):
        assert len(spaced_words(SENTENCES[script][0])) == 1


@pytest.mark.parametrize("script", ADDRESSES)
def test_an_address_ends_where_a_script_without_spaces_begins(script):
    sentence = ADDRESSES[script]
    [span] = find_personal_data(sentence.format("ann.lee@example.com"))
    assert span.end - span.start == len("ann.lee@example.com")
    assert mask_personal_data(sentence.format("ann.lee@example.com")) == sentence.format("[EMAIL]")
