import itertools
import random
import string

from qlora_kit.audit.minhash import neighbors
from qlora_kit.audit.similarity import Idf, words_of


def test_neighbors_are_the_pairs_that_a_look_at_all_of_them_finds():
    dice = random.Random(3)
    texts = []
    for _ in range(150):
        words = ["".join(dice.choices(string.ascii_lowercase, k=6)) for _ in range(12)]
        others = dice.sample(range(12), dice.randrange(1, 9))
        changed = [f"new{word}" if place in others else word for place, word in enumerate(words)]
        texts += [words_of(" ".join(words)), words_of(" ".join(changed))]
    dice.shuffle(texts)
    found = list(neighbors(texts, Idf(texts)))
    alike = {
        (i, j): len(one.all & two.all) / len(one.all | two.all)
        for (i, one), (j, two) in itertools.combinations(enumerate(texts), 2)
    }
    close = {pair for pair, share in alike.items() if share >= 0.6}
    assert len(close) >= 40
    assert len(close - set(found)) <= 0.02 * len(close)
    assert len(found) == len(set(found))
    assert all(i < j for i, j in found)
    assert all(alike[pair] > 0 for pair in found)


def test_a_crowd_of_like_texts_has_bounded_work_and_keeps_the_nearest():
    dice = random.Random(4)
    frame = [f"frame{place}" for place in range(10)]
    texts = [
        words_of(" ".join([*frame, *(f"w{dice.randrange(10**6)}" for _ in range(4))]))
        for _ in range(400)
    ]
    texts += [words_of(f"{' '.join(text.order)} indeed") for text in texts[:50]]
    found = set(neighbors(texts, Idf(texts)))
    assert len(found) <= 12 * len(texts)
    assert sum((index, 400 + index) in found for index in range(50)) >= 48
