"""Typical mistakes of lesson 06: kept figures, bytes, a verdict."""

import re


def numbers(text, pattern=r"\d+(?:[.,:]\d+)*"):
    return re.findall(pattern, text)


def kept(share, none=1, pattern=r"\d+(?:[.,:]\d+)*"):
    def kept_figures(plain, voiced):
        p, v = numbers(plain, pattern), numbers(voiced, pattern)
        return share(p, v, [f for f in p if f in v]) if p else none

    return kept_figures


MISTAKES = {
    "06.1": [
        (kept(lambda p, v, both: len(both)), "how many are kept"),
        (kept(lambda p, v, both: len(v) / len(p)), "counted as kept"),
        (kept(lambda p, v, both: len(both) / len(v)), "what matters is the plain"),
        (kept(lambda p, v, both: min(1, len(v) / len(p))), "loses $20"),
        (kept(lambda p, v, both: len(both) / len(p), none=0), "nothing to lose"),
        (lambda p, v: sum(f in numbers(v) for f in numbers(p)) / len(numbers(p)), "by zero"),
        (
            lambda p, v: sum(f in v for f in numbers(p)) / len(numbers(p)) if numbers(p) else 1,
            "whole figures",
        ),
        (kept(lambda p, v, both: len(both) / len(p), pattern=r"\d+"), "one figure"),
        (
            lambda p, v: (
                len({*numbers(p)} & {*numbers(v)}) / len({*numbers(p)}) if numbers(p) else 1
            ),
            "stands there twice",
        ),
    ],
    "06.2": [
        (lambda base, adapter, n: n * adapter / (n * base), "add it, once"),
        (lambda base, adapter, n: n * (base + adapter) / (n * base), "is there once"),
        (lambda base, adapter, n: (base + adapter) / (n * base), "n of them"),
        (lambda base, adapter, n: (base + n * adapter) / base, "one model"),
        (lambda base, adapter, n: n * base / (base + n * adapter), "upside down"),
        (lambda base, adapter, n: base + n * adapter, "divide them"),
        (lambda base, adapter, n: (base + 3 * adapter) / (3 * base), "use n"),
    ],
    "06.3": [
        ("lost the voice", "Look at the second"),
        ("kept both", "different news"),
        ("the classifier", "Answer with"),
    ],
}
