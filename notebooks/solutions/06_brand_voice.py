"""Solutions of lesson 06; copy a function into the notebook's stub."""

import re
from collections import Counter


def figures(text):  # as in the lesson
    return re.findall(r"\d+(?:[.,:]\d+)*", text)


# Exercise 06.1: count what both have; a text without figures loses none
def kept_figures(plain_text, voiced_text):
    wanted = Counter(figures(plain_text))
    if not wanted:
        return 1.0
    return (wanted & Counter(figures(voiced_text))).total() / wanted.total()


# Exercise 06.2: the model once and n adapters, over n models
def share_of_bytes(base, adapter, n):
    return (base + n * adapter) / (n * base)


# Exercise 06.3: it sounds right and says something else
verdict = "lost the content"

ANSWERS = {"06.1": kept_figures, "06.2": share_of_bytes, "06.3": verdict}
