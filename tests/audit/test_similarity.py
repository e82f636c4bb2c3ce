from qlora_kit.audit.similarity import split_words, words_of


def test_words_numbers_and_signs():
    assert words_of("1,5 Liter").numbers != words_of("15 Liter").numbers
    assert words_of("1,5 Liter").numbers == words_of("1.5 Liter").numbers
    assert words_of("1,250.50 and 1,000,000").numbers == ("1000000", "1250.5")
    assert split_words("\u0939\u093f\u0928\u094d\u0926\u0940 \u0939\u0948") == [
        "\u0939\u093f\u0928\u094d\u0926\u0940",
        "\u0939\u0948",
    ]
    assert split_words("**bold**, and/or - a > b, C++!") == [
        "bold",
        "and",
        "or",
        "a",
        ">",
        "b",
        "c",
        "++",
    ]
