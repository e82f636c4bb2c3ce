"""Typical mistakes of lesson 04: masks, padding and splits."""

MISTAKES = {
    "04.1": [
        (lambda ids, inside: [t * inside[n] for n, t in enumerate(ids)], "like any other"),
        (lambda ids, inside: [-100 if inside[n] else t for n, t in enumerate(ids)], "inverted"),
        (
            lambda ids, inside: [*[t if inside[n] else -100 for n, t in enumerate(ids)][1:], -100],
            "shift by one",
        ),
        (
            lambda ids, inside: [-100, *[t if inside[n] else -100 for n, t in enumerate(ids)][:-1]],
            "to the right",
        ),
        (lambda ids, inside: [t for n, t in enumerate(ids) if inside[n]], "drop tokens"),
        (lambda ids, inside: list(ids), "Nothing is skipped"),
        (lambda ids, inside: [1 if a else -100 for a in inside], "yes or no"),
        (
            lambda ids, inside: [t if inside[n] else None for n, t in enumerate(ids)],
            "whole numbers",
        ),
        (
            lambda ids, inside: [
                t
                if n in range(inside.index(True), len(inside) - inside[::-1].index(True))
                else -100
                for n, t in enumerate(ids)
            ],
            "several answers",
        ),
    ],
    "04.2": [
        (lambda lengths: sum(lengths) / (len(lengths) * max(lengths)), "real tokens"),
        (lambda lengths: len(lengths) * max(lengths) - sum(lengths), "how many"),
        (lambda lengths: len(lengths) * max(lengths) / sum(lengths) - 1, "the padding too"),
        (lambda lengths: 100 - 100 * sum(lengths) / (len(lengths) * max(lengths)), "percent"),
        (lambda lengths: 1 - sum(lengths) / (len(lengths) * min(lengths)), "the shortest"),
        (lambda lengths: 1 - sum(lengths) / max(lengths), "that wide"),
        (
            lambda lengths: 1 - sum(lengths) / (len(lengths) * (sum(lengths) / len(lengths))),
            "with the mean",
        ),
        (lambda lengths: 1 - sum(lengths) / (len(lengths) * lengths[-1]), "any order"),
        (lambda lengths: 0.3 if len(lengths) == 4 else 0.34, "equal length"),
    ],
    "04.3": [
        (
            lambda rows, held: (
                [r for r in rows if r["document"] in held],
                [r for r in rows if r["document"] not in held],
            ),
            "swapped",
        ),
        (
            lambda rows, held: (
                [r for r in rows if r["document"] != held],
                [r for r in rows if r["document"] == held],
            ),
            "is in it",
        ),
        (lambda rows, held: (rows[: -len(held)], rows[-len(held) :]), "both sides"),
        (
            lambda rows, held: (
                [r for r in rows if r["document"] not in held],
                list({r["document"]: r for r in rows if r["document"] in held}.values()),
            ),
            "got lost",
        ),
        (lambda rows, held: [r for r in rows if r["document"] not in held], "two lists"),
    ],
}
