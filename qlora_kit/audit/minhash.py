"""Which texts of a large set are alike, without comparing all pairs."""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from .similarity import Idf, Words

PERMUTATIONS = 64  # an estimate good to about 0.06; the exact comparison decides
TREES = 8  # eight prefixes of up to eight hashes: a pair of Jaccard 0.5 is found 19 times in 20
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
    import numpy as np

    values = _signatures(texts, idf)
    found = [_alike(values, pairs) for pairs in _beside(values)]
    keys, first = np.unique(np.concatenate([keys for keys, _ in found]), return_index=True)
    common = np.concatenate([common for _, common in found])[first]
    one, two = np.divmod(keys, len(texts))
    near = _nearest(np.concatenate([one, two]), np.tile(common, 2)).reshape(2, -1).any(axis=0)
    yield from zip(one[near].tolist(), two[near].tolist(), strict=True)


def _signatures(texts: Sequence[Words], idf: Idf) -> Any:
    """(texts, PERMUTATIONS) hashes: two texts share each with their Jaccard likeness as chance."""
    import numpy as np
    from datasketch import MinHash

    pieces = _Pieces(idf)
    hashed = MinHash.generator(
        (pieces.of(text) for text in texts), num_perm=PERMUTATIONS, hashfunc=_same
    )
    return np.stack([signature.hashvalues.astype(np.uint32) for signature in hashed])


def _same(value: int) -> int:
    return value


def _beside(values: Any) -> Iterator[Any]:
    """Pairs of rows that stand close together in one of the trees and begin alike.

    Rows that share a long prefix are neighbors in the sorted order.
    """
    import numpy as np

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
    import numpy as np

    order = np.lexsort((-common, texts))
    place = np.empty_like(order)
    place[order] = np.arange(len(order)) - np.searchsorted(texts[order], texts[order])
    return place < NEIGHBORS


class _Pieces:
    """What is hashed: words, and the letter triples of words that say something."""

    def __init__(self, idf: Idf) -> None:
        self._weights = idf
        self._cache: dict[str, tuple[int, ...]] = {}

    def of(self, text: Words) -> list[int]:
        return [piece for word in text.all for piece in self._of(word)] or [0]

    def _of(self, word: str) -> tuple[int, ...]:
        found = self._cache.get(word)
        if found is None:
            found = tuple(zlib.crc32(piece.encode()) for piece in self._split(word))
            self._cache[word] = found
        return found

    def _split(self, word: str) -> list[str]:
        if word[0].isdigit():  # a number tells questions of one template apart
            return [f"{word}#{copy}" for copy in range(12)]
        if self._weights.counts[word] > COMMON * self._weights.total:
            return [word]
        padded = f" {word} "
        return [word, *(padded[i : i + 3] for i in range(len(padded) - 2))]
