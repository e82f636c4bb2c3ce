"""Solutions of lesson 05; copy a function into the notebook's stub."""

import math
from collections import Counter


# Exercise 05.1: whole batches an epoch, then whole steps
def steps_of(rows, batch_size, epochs):
    return math.ceil(epochs * math.ceil(rows / batch_size))


# Exercise 05.2: words in common, each as often as both have it
def f1_of(said, wanted):
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted))


# Exercise 05.3: the training loss falls, the held-out one rises
what_happened = "memorized"

ANSWERS = {"05.1": steps_of, "05.2": f1_of, "05.3": what_happened}
