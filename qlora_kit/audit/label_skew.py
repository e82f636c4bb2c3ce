"""Labels that are rare, or tied to a group: the model would learn how often, or who writes."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

from .answers import is_label_set
from .findings import Finding, Row

LABEL_FIELDS = ("label", "intent", "topic", "category", "class")
GROUP_FIELDS = ("group", "source", "author", "writer", "channel", "region", "country", "gender")
# Chosen by hand, but for what a line says; tests/audit/test_label_skew.py holds what they do.
_MOST = 0.5  # share of the rows that have a field which is looked at
_TIED = 1.5  # times what independence expects, from which a group's label is reported ...
_RESIDUAL = 3.0  # ... when it is so many standard deviations more (Haberman 1973)
_UNEVEN = 4.0  # times the rarest label, from which the most frequent one is reported


def label_findings(rows: Sequence[Row]) -> Iterator[Finding]:
    """Uneven labels, and labels that go with a group.

    Args:
        rows: of the whole set.
    """
    columns = {repr(field): _values(rows, field) for field in LABEL_FIELDS}
    labels = {name: each for name, each in columns.items() if len(each) >= _MOST * len(rows)}
    if not labels and is_label_set(rows):
        answers = {row.number: " ".join(row.answer.split()) for row in rows}
        labels["the answer"] = {number: answer for number, answer in answers.items() if answer}
    for name, column in labels.items():
        yield from _uneven(name, column)
    if labels:
        yield from _skew(rows, next(iter(labels.values())))


def _uneven(name: str, labels: dict[int, Any]) -> Iterator[Finding]:
    counts = Counter(labels.values())
    kinds, rows = len(counts), len(labels)
    if rows < 20 or not 2 <= kinds <= rows / 5:
        return  # as many values as rows are names, not labels
    even = rows / kinds
    (most, top), (_, least) = counts.most_common()[0], counts.most_common()[-1]
    # Twice the chance spread: a label with 3 rows where 5 were due says nothing.
    rare = {
        label: count
        for label, count in counts.items()
        if count < even / 2 and count + 2 * math.sqrt(count) < even
    }
    if top < _UNEVEN * least or not rare:
        return
    shown = ", ".join(
        f"{label} {count}" for label, count in sorted(rare.items(), key=itemgetter(1))[:5]
    )
    more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
    reason = (
        f"{name}: {len(rare)} of {kinds} values have under half of an even share ({even:,.0f} "
        f"rows): {shown}{more}; the most frequent is {most} with {top}"
    )
    yield Finding("imbalance", tuple(n for n, label in labels.items() if label in rare), reason)


def _skew(rows: Sequence[Row], labels: dict[int, Any]) -> Iterator[Finding]:
    """A label that goes with who writes: the model would learn the writer, not the matter."""
    for field in GROUP_FIELDS:
        groups = _values(rows, field)
        cells = {n: (groups[n], label) for n, label in labels.items() if n in groups}
        if len(cells) < _MOST * len(rows) or not 2 <= len(set(groups.values())) <= len(cells) / 5:
            continue
        by_group = Counter(group for group, _ in cells.values())
        by_label = Counter(label for _, label in cells.values())
        for (group, label), count in sorted(Counter(cells.values()).items(), key=str):
            shares = by_group[group] / len(cells), by_label[label] / len(cells)
            due = shares[0] * shares[1] * len(cells)
            spread = math.sqrt(due * (1 - shares[0]) * (1 - shares[1]))
            if count >= _TIED * due and count - due >= _RESIDUAL * spread > 0:
                reason = (
                    f"{field!r} {group}: {count / by_group[group]:.0%} of its rows are {label!r}, "
                    f"of all rows {shares[1]:.0%}"
                )
                tied = tuple(n for n, cell in cells.items() if cell == (group, label))
                yield Finding("skew", tied, reason)


def _values(rows: Sequence[Row], field: str) -> dict[int, Any]:
    values = {row.number: row.raw.get(field) for row in rows}
    return {n: each for n, each in values.items() if isinstance(each, str | int) and each != ""}
