"""A step's rows as micro-batches: bounded in memory, nearly without padding, nothing read twice."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch.nn.utils.rnn import pad_sequence

from .chat import IGNORED, Example
from .packing import SHARING_PAYS, Pack, block_mask, pack, share_beginning

Batch = dict[str, torch.Tensor]
Row = TypeVar("Row", Example, Pack)
# In a row that holds a micro-batch; attention sees all of it. Chosen by hand.
_SHARED_TOKENS = 512


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

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """One step's rows as batches for the model.

        Args:
            examples: from `encode`.

        Returns:
            "micro_batches": "input_ids" and "labels" of each, (rows, tokens), and in a shared or
            packed one "position_ids", the same, and "attention_mask", (rows, 1, tokens, tokens);
            "tokens" and "learned": of the step, without padding, and those that the loss sees.
        """
        return {
            "micro_batches": self._packs(examples) if self.packing else self._groups(examples),
            "tokens": _tokens(examples),
            "learned": sum(example.learned for example in examples),
        }

    def _groups(self, rows: Sequence[Example]) -> list[Batch]:
        rows = sorted(rows, key=lambda row: len(row.input_ids), reverse=True)
        padded = self._padded(rows)
        shared = self._shared(rows) if self.sharing else []
        pays = shared and self._cost(shared) < SHARING_PAYS * self._cost(padded)
        return shared if pays else padded

    def _cost(self, batches: list[Batch]) -> float:
        """Tokens until the last worker is done."""
        sizes = [batch["input_ids"].numel() for batch in batches]
        return max(max(sizes), sum(sizes) / self.at_once)

    def _padded(self, rows: list[Example]) -> list[Batch]:
        budget = self.token_budget // self.at_once
        groups = cut(rows, budget)
        if self.at_once > 1:  # as many for each worker, and alike, so that none waits for another
            count = math.ceil(len(groups) / self.at_once) * self.at_once
            limits = range(len(rows[0].input_ids), budget)
            enough = bisect_left(limits, True, key=lambda limit: len(cut(rows, limit)) <= count)
            groups = cut(rows, limits.start + enough)
            groups.sort(key=lambda group: len(group) * len(group[0].input_ids), reverse=True)
        return [self._pad(group) for group in groups]

    def _shared(self, rows: list[Example]) -> list[Batch]:
        """A few rows of like size, as many for each worker; none where they would be too long."""
        limit = min(self.token_budget // self.at_once, _SHARED_TOKENS)
        for count in range(self.at_once, len(rows) + 1, self.at_once):
            groups: list[list[Example]] = [[] for _ in range(count)]
            for row in rows:  # the longest first, each where least is (Graham 1969)
                min(groups, key=_tokens).append(row)
            packs = [share_beginning(group, _tokens(group))[0] for group in groups]
            packs.sort(key=lambda one: len(one.input_ids), reverse=True)
            if len(packs[0].input_ids) <= limit:
                return [_as_batch(one, shared=0) for one in packs]
        return []

    def _packs(self, rows: Sequence[Example]) -> list[Batch]:
        return [_as_batch(one) for one in pack(rows, self.token_budget // self.at_once)]

    def _pad(self, rows: list[Example]) -> Batch:
        return {
            "input_ids": padded([row.input_ids for row in rows], self.pad_id),
            "labels": padded([row.labels for row in rows], IGNORED),
        }


def _tokens(rows: Sequence[Example]) -> int:
    return sum(len(row.input_ids) for row in rows)


def _as_batch(row: Pack, shared: int | None = None) -> Batch:
    return {
        "input_ids": torch.tensor([row.input_ids]),
        "labels": torch.tensor([row.labels]),
        "position_ids": torch.tensor([row.position_ids]),
        "attention_mask": block_mask(torch.tensor([row.segments]), shared),
    }


def padded(lines: Sequence[list[int]], filler: int) -> torch.Tensor:
    """Lines of numbers as one tensor, (lines, the longest), filled up behind the shorter ones.

    Args:
        lines: of any length.
        filler: what to fill up with.
    """
    tensors = [torch.tensor(line) for line in lines]
    return pad_sequence(tensors, batch_first=True, padding_value=filler)


def cut(rows: Sequence[Row], limit: int) -> list[list[Row]]:
    """Rows, the longest first, in groups that hold no more than limit tokens when padded.

    Args:
        rows: examples, or packs of them.
        limit: of a group; a longer row is one of its own.
    """
    groups: list[list[Row]] = []
    for row in rows:
        longest = len(groups[-1][0].input_ids) if groups else 0
        if groups and (len(groups[-1]) + 1) * longest <= limit:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
