"""A step's rows as micro-batches: bounded in memory, nearly without padding, nothing read twice."""

import math
from bisect import bisect_left
from typing import Any

import torch

from .chat import IGNORED, Example
from .packing import SHARING_PAYS, Pack, block_mask, pack, share_beginning

_SHARED_TOKENS = 512  # in a row that holds a micro-batch; attention sees all of it


class MicroBatchCollator:
    """One optimizer step's rows, sorted by length and cut where a token budget is reached.

    Sorting inside a step leaves the gradient as it is and nearly ends padding; the budget
    bounds the memory, whatever the rows' lengths.

    Args:
        pad_id: the token to pad with (masked, so any will do).
        token_budget: padded tokens that may be worked on at once; a longer row goes alone.
        packing: fill micro-batches of one row with whole examples that do not see each other.
        sharing: one row holds a whole micro-batch, and what all of it begins with, such as a system
            prompt, once; for models that obey the mask and draw no random numbers.
    """

    def __init__(
        self, pad_id: int, token_budget: int, packing: bool = False, sharing: bool = False
    ) -> None:
        self.pad_id, self.token_budget = pad_id, token_budget
        self.packing, self.sharing = packing, sharing
        self.at_once = 1  # micro-batches side by side; the budget is split among them

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        return {
            "micro_batches": self._packs(rows) if self.packing else self._groups(rows),
            "tokens": sum(len(row["input_ids"]) for row in rows),
            "learned": sum(label != IGNORED for row in rows for label in row["labels"][1:]),
        }

    def _groups(self, rows: list[dict[str, list[int]]]) -> list[dict[str, torch.Tensor]]:
        rows = sorted(rows, key=lambda row: len(row["input_ids"]), reverse=True)
        padded = self._padded(rows)
        shared = self._shared(rows) if self.sharing else []
        pays = shared and self._cost(shared) < SHARING_PAYS * self._cost(padded)
        return shared if pays else padded

    def _cost(self, batches: list[dict[str, torch.Tensor]]) -> float:
        """Tokens until the last worker is done."""
        sizes = [batch["input_ids"].numel() for batch in batches]
        return max(max(sizes), sum(sizes) / self.at_once)

    def _padded(self, rows: list[dict[str, list[int]]]) -> list[dict[str, torch.Tensor]]:
        budget = self.token_budget // self.at_once
        groups = cut(rows, budget)
        if self.at_once > 1:  # as many for each worker, and alike, so that none waits for another
            count = math.ceil(len(groups) / self.at_once) * self.at_once
            limits = range(len(rows[0]["input_ids"]), budget)
            enough = bisect_left(limits, True, key=lambda limit: len(cut(rows, limit)) <= count)
            groups = cut(rows, limits.start + enough)
            groups.sort(key=lambda group: len(group) * len(group[0]["input_ids"]), reverse=True)
        return [self._pad(group) for group in groups]

    def _shared(self, rows: list[dict[str, list[int]]]) -> list[dict[str, torch.Tensor]]:
        """A few rows of like size, as many for each worker; none where they would be too long."""
        examples, limit = _examples(rows), min(self.token_budget // self.at_once, _SHARED_TOKENS)
        for count in range(self.at_once, len(rows) + 1, self.at_once):
            groups: list[list[Example]] = [[] for _ in range(count)]
            for example in examples:  # the longest first, each where least is (Graham 1969)
                min(groups, key=_length).append(example)
            made = [share_beginning(group, _length(group))[0] for group in groups]
            if max(len(one.input_ids) for one in made) <= limit:
                made.sort(key=lambda one: len(one.input_ids), reverse=True)
                return [_as_batch(one, shared=0) for one in made]
        return []

    def _packs(self, rows: list[dict[str, list[int]]]) -> list[dict[str, torch.Tensor]]:
        budget = self.token_budget // self.at_once
        return [_as_batch(packed) for packed in pack(_examples(rows), budget)]

    def _pad(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        width = len(rows[0]["input_ids"])
        batch = {
            "input_ids": torch.full((len(rows), width), self.pad_id),
            "labels": torch.full((len(rows), width), IGNORED),
        }
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            batch["input_ids"][index, :length] = torch.tensor(row["input_ids"])
            batch["labels"][index, :length] = torch.tensor(row["labels"])
        return batch


def _length(group: list[Example]) -> int:
    return sum(len(example.input_ids) for example in group)


def _examples(rows: list[dict[str, list[int]]]) -> list[Example]:
    return [Example(row["input_ids"], row["labels"], len(row["input_ids"])) for row in rows]


def _as_batch(packed: Pack, shared: int | None = None) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.tensor([packed.input_ids]),
        "labels": torch.tensor([packed.labels]),
        "position_ids": torch.tensor([packed.position_ids]),
        "attention_mask": block_mask(torch.tensor([packed.segments]), shared),
    }


def cut(rows: list[dict[str, list[int]]], limit: int) -> list[list[dict[str, list[int]]]]:
    """Rows, the longest first, in groups that hold no more than limit tokens when padded.

    Args:
        rows: with "input_ids" each.
        limit: of a group; a longer row is one of its own.
    """
    groups: list[list[dict[str, list[int]]]] = []
    for row in rows:
        longest = len(groups[-1][0]["input_ids"]) if groups else 0
        if groups and (len(groups[-1]) + 1) * longest <= limit:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
