"""Which texts of a large set are alike, without comparing all pairs."""

import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from .similarity import Idf, Words

# Chosen by hand, but for what a line says; tests/audit/test_minhash.py holds the recall. With FLOOR
# from 0.2 to 0.4 the planted duplicates of tests/audit/conftest.py are the same.
PERMUTATIONS = 64  # an estimate good to about 0.06; the exact comparison decides
TREES = 8  # eight prefixes of up to eight hashes: a pair of Jaccard 0.5 is found 19 times in 20
_NUMBER = 12  # hashes of a number: it weighs as much as a word of eleven letters
NEIGHBORS = 12  # looked at for each text: bounds the work on sets made from templates
FLOOR = 0.3  # estimated likeness below which a neighbor is not looked at
COMMON = 0.05  # words in more than this share of the texts enter the hashes only whole


def neighbors(texts: Sequence[Words], idf: Idf) -> Iterator[tuple[int, int]]:
    """Pairs of texts worth a closer look: the most alike ones by MinHash.

    Args:
        texts: the set, each text once.
        idf: of the set.

    Yields:
        (i, j) with i < j, each pair once.

    Source:
        Broder 1997 for the hashes; LSH Forest (Bawa, Condie and Ganesan 2005) for where to
        look, its trees as sorted arrays.
    """
    if len(texts) < 2:
        return
    values = _signatures(texts, idf)
    alike = [_alike(values, pairs) for pairs in _beside(values)]
    keys, first = np.unique(np.concatenate([keys for keys, _ in alike]), return_index=True)
    common = np.concatenate([common for _, common in alike])[first]
    one, two = np.divmod(keys, len(texts))
    near = _nearest(np.concatenate([one, two]), np.tile(common, 2)).reshape(2, -1).any(axis=0)
    yield from zip(one[near].tolist(), two[near].tolist(), strict=True)


def _signatures(texts: Sequence[Words], idf: Idf) -> Any:
    """(texts, PERMUTATIONS) hashes: two texts share each with their Jaccard likeness as chance."""
    from datasketch import MinHash

    @cache
    def hashes(word: str) -> list[int]:
        return [zlib.crc32(piece.encode()) for piece in _pieces(word, idf)]

    hashed = MinHash.generator(
        ([value for word in text.all for value in hashes(word)] or [0] for text in texts),
        num_perm=PERMUTATIONS,
        hashfunc=int,  # they are hashes already
    )
    return np.stack([signature.hashvalues.astype(np.uint32) for signature in hashed])


def _beside(values: Any) -> Iterator[Any]:
    """Pairs of rows that stand close together in one of the trees and begin alike.

    Rows that share a long prefix are neighbors in the sorted order.
    """
    for tree in np.split(values, TREES, axis=1):
        order = np.lexsort(tree.T[::-1])
        begin = tree[order, 0]
        for step in range(1, NEIGHBORS + 1):
            pairs = np.stack([order[:-step], order[step:]])
            yield np.sort(pairs[:, begin[:-step] == begin[step:]], axis=0)


def _alike(values: Any, pairs: Any) -> tuple[Any, Any]:
    """Pairs of at least some likeness as one number each, and how many hashes they share."""
    common = (values[pairs[0]] == values[pairs[1]]).sum(axis=1)
    some = common >= FLOOR * PERMUTATIONS
    return pairs[0, some] * len(values) + pairs[1, some], common[some]


def _nearest(texts: Any, common: Any) -> Any:
    """Which of all sides of pairs are among their text's most alike ones."""
    order = np.lexsort((-common, texts))
    place = np.empty_like(order)
    place[order] = np.arange(len(order)) - np.searchsorted(texts[order], texts[order])
    return place < NEIGHBORS


def _pieces(word: str, idf: Idf) -> list[str]:
    """What is hashed: words, and the letter triples of words that say something."""
    if word[0].isdigit():  # a number tells questions of one template apart
        return [f"{word}#{copy}" for copy in range(_NUMBER)]
    if idf.counts[word] > COMMON * idf.total:
        return [word]
    padded = f" {word} "
    return [word, *(padded[i : i + 3] for i in range(len(padded) - 2))]
