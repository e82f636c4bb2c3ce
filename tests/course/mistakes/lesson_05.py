"""Typical mistakes of lesson 05: steps, token F1, two losses."""

import math
from collections import Counter

MISTAKES = {
    "05.1": [
        (lambda rows, batch, epochs: epochs * -(-rows // batch), "round up"),
        (lambda rows, batch, epochs: math.ceil(epochs * (rows // batch)), "four over"),
        (lambda rows, batch, epochs: -(-rows // batch), "one epoch"),
        (lambda rows, batch, epochs: math.ceil(epochs * rows / batch), "into the next"),
    ],
    "05.2": [
        (
            lambda said, wanted: 2 * len({*said} & {*wanted}) / (len({*said}) + len({*wanted})),
            "Sets forget",
        ),
        (
            lambda said, wanted: sum((Counter(said) & Counter(wanted)).values()) / len(said),
            "precision",
        ),
        (
            lambda said, wanted: sum((Counter(said) & Counter(wanted)).values()) / len(wanted),
            "recall",
        ),
        (
            lambda said, wanted: 2 * sum(w in wanted for w in said) / (len(said) + len(wanted)),
            "only as often",
        ),
        (
            lambda said, wanted: 2 * len(set(said) & set(wanted)) / (len(said) + len(wanted)),
            "counts twice",
        ),
    ],
    "05.3": [("learned", "not seen"), ("diverged", "explodes"), ("yes", "Answer with")],
}
