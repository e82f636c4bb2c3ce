"""Solutions of lesson 07; copy a function into the notebook's stub."""

import math
import statistics


# Exercise 07.1: both tails of a fair coin, as uneven as seen or more
def p_value(b, c):
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    return min(1.0, 2 * tail)


# Exercise 07.2: differences first, then their spread over the root of n
def standard_error(first, second):
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    return statistics.stdev(gaps) / math.sqrt(len(gaps))


# Exercise 07.3: the margin of -2 points lies inside the interval
conclusion = "cannot tell"

ANSWERS = {"07.1": p_value, "07.2": standard_error, "07.3": conclusion}
