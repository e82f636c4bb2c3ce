"""Typical mistakes of lesson 07: one tail, unpaired spreads, and conclusions."""

import math
import statistics


def coin(b, c, least=0, add=1, sides=2):
    small = min(b, c)
    return sides * sum(math.comb(b + c, k) for k in range(least, small + add)) / 2 ** (b + c)


def error(finish, spread=statistics.stdev):
    def standard_error(first, second):
        gaps = [b - a for a, b in zip(first, second, strict=True)]
        return finish(spread(gaps), len(gaps))

    return standard_error


MISTAKES = {
    "07.1": [
        (lambda b, c: coin(b, c, sides=1), "one side"),
        (lambda b, c: coin(b, c, least=min(b, c)), "more uneven"),
        (lambda b, c: coin(b, c, add=0), "that was seen"),
        (lambda b, c: coin(b, c, least=min(b, c), sides=1), "exactly this fall"),
        (lambda b, c: 1 - coin(b, c), "is the rest"),
        (lambda b, c: 2 * sum(math.comb(b + c, k) for k in range(c + 1)) / 2 ** (b + c), "smaller"),
        (coin, "ends at 1"),
        (lambda b, c: 0.5 if b == c else coin(b, c), "half and half"),
    ],
    "07.2": [
        (error(lambda spread, n: spread), "root of n"),
        (error(lambda spread, n: spread / n**0.5, statistics.pstdev), "n - 1"),
        (
            lambda a, b: ((statistics.variance(a) + statistics.variance(b)) / len(a)) ** 0.5,
            "strangers",
        ),
        (error(lambda spread, n: spread / n), "not with n"),
        (error(lambda spread, n: spread**2 / n), "variance"),
    ],
    "07.3": [
        ("no loss that matters", "begin"),
        ("a loss that matters", "end"),
        ("maybe", "Answer with"),
    ],
}
