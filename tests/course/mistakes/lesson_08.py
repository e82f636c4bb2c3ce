"""Typical mistakes of lesson 08: doses, contradictions, and lone wrong labels."""


def rows_where(wrong, start=1):
    def contradicting(rows):
        return [n for n, row in enumerate(rows, start) if wrong(rows, n - start, *row)]

    return contradicting


def later(rows, at, question, answer):
    return any(q == question and a != answer for q, a in rows[:at])


MISTAKES = {
    "08.1": [(0.3, "her own rows"), (0.2, "she filed"), (6, "in percent"), (1.5, "by a fifth")],
    "08.2": [
        (rows_where(later, start=0), "from 0"),
        (rows_where(lambda rows, at, q, a: any(q == one for one, _ in rows[:at])), "a copy, no"),
        (rows_where(lambda rows, at, q, a: later(rows, len(rows), q, a)), "after another"),
        (lambda rows: [4, 6], "copy of row 6"),
        (lambda rows: 3, "a list of row numbers"),
        (
            lambda rows: [n for n, (q, a) in enumerate(rows, 1) if dict(rows[::-1])[q] != a],
            "the one between",
        ),
    ],
    "08.3": [("contradiction", "twice"), ("skew", "both"), ("all", "Answer")],
}
