"""Packed examples never meet: by gradients, by losses, and on a model that would show it."""

import copy

import pytest
import torch

from qlora_kit import KitError
from qlora_kit.data import (
    IGNORED,
    Example,
    MicroBatchCollator,
    block_mask,
    is_packable,
    pack,
    require_packable,
    share_beginning,
    share_prompts,
)
from qlora_kit.engine import completion_loss
from qlora_kit.models import load


def examples(*lengths, seed=0):
    torch.manual_seed(seed)
    made = []
    for length in lengths:
        ids = torch.randint(5, 200, (length,)).tolist()
        made.append(Example(ids, [IGNORED] * (length // 2) + ids[length // 2 :], length))
    return made


@pytest.fixture(scope="module")
def model(tiny):
    return load(str(tiny), precision="32bit")[0].eval()


def second_loss_on_first(model, mask, positions):
    """The gradient of the second example's loss with respect to the first one's embeddings."""
    packed = pack(examples(9, 7), 16)[0]
    ids = torch.tensor([packed.input_ids])
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_(True)
    logits = model(
        inputs_embeds=embedded,
        attention_mask=mask(packed),
        use_cache=False,
        position_ids=positions(packed),
    ).logits
    torch.nn.functional.cross_entropy(logits[0, 9:-1], ids[0, 10:]).backward()
    return embedded.grad[0, :9].norm().item(), embedded.grad[0, 9:].norm().item()


@pytest.mark.equality
def test_no_gradient_flows_from_one_example_into_another(model):
    leaked, own = second_loss_on_first(
        model,
        lambda packed: block_mask(torch.tensor([packed.segments])),
        lambda packed: torch.tensor([packed.position_ids]),
    )
    assert leaked == 0
    assert own > 0


def test_without_the_mask_the_leak_would_show(model):
    leaked, _ = second_loss_on_first(
        model, lambda packed: None, lambda packed: torch.arange(16).unsqueeze(0)
    )
    assert leaked > 1e-4


def require_same_step(model, made, one, two):
    """Two collators' steps: one loss, one gradient, the same counts; the tokens each computes."""
    results, computed = [], []
    for collate in (one, two):
        trained = copy.deepcopy(model)
        step = collate(made)
        total = 0.0
        for batch in step["micro_batches"]:
            loss = completion_loss(trained, batch) / step["learned"]
            loss.backward()
            total += loss.item()
        gradient = trained.model.layers[0].self_attn.q_proj.weight.grad
        results.append((total, gradient, step["tokens"], step["learned"]))
        computed.append(sum(batch["input_ids"].numel() for batch in step["micro_batches"]))
    (loss, gradient, *counts), (other, same, *others) = results
    assert other == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(gradient, same, atol=1e-6)
    assert counts == others
    return computed


@pytest.mark.equality
def test_a_packed_step_has_the_loss_and_the_gradients_of_a_padded_one(model):
    made = examples(5, 30, 12, 7, 21, 9)
    padded, packed = require_same_step(
        model, made, MicroBatchCollator(0, 64), MicroBatchCollator(0, 64, packing=True)
    )
    assert packed == 5 + 30 + 12 + 7 + 21 + 9 < padded  # nothing is padded


def test_a_step_that_shares_beginnings_has_the_loss_and_the_gradients_of_a_padded_one(model):
    beginning = list(range(40, 70))
    made = [
        Example(
            beginning + row.input_ids,
            [IGNORED] * (len(beginning) + 1) + row.labels[1:],
            len(beginning) + row.length,
        )
        for row in examples(5, 30, 12, 7, 21, 9)
    ]
    padded, shared = require_same_step(
        model, made, MicroBatchCollator(0, 160), MicroBatchCollator(0, 160, sharing=True)
    )
    assert shared < 0.7 * padded


def test_rows_of_one_length_that_begin_differently_are_padded():
    made = examples(12, 12, 12, 12, 12, 12)
    [plain], [sharing] = (
        MicroBatchCollator(0, 96, sharing=on)(made)["micro_batches"] for on in (False, True)
    )
    assert plain.keys() == sharing.keys() == {"input_ids", "labels"}
    assert torch.equal(plain["input_ids"], sharing["input_ids"])


def test_workers_get_as_much_each_of_what_is_shared():
    collate = MicroBatchCollator(0, 1000, sharing=True)
    collate.at_once = 2
    made = examples(100, 60, 58, 90, 61, 59, 97)
    for row in made:
        row.input_ids[:20] = range(20)  # they ask for half of what they hold
    sizes = [batch["input_ids"].numel() for batch in collate(made)["micro_batches"]]
    assert sum(sizes) == sum(len(row.input_ids) for row in made) - 5 * 20
    assert len(sizes) == 2
    assert max(sizes) < 1.15 * min(sizes)
    collate.token_budget = 400  # 200 for each worker
    sizes = [batch["input_ids"].numel() for batch in collate(made)["micro_batches"]]
    assert len(sizes) == 4
    assert max(sizes) <= 200


def test_every_example_is_packed_once_and_whole():
    made = examples(5, 30, 12, 7, 21, 9, 80)
    packed = pack(made, 64)
    assert all(len(row.input_ids) <= 64 for row in packed[1:])
    assert len(packed[0].input_ids) == 80  # too long for a row: it gets one to itself
    whole = {tuple(one.input_ids) for one in made}
    for row in packed:
        for segment in set(row.segments):
            where = [i for i, mine in enumerate(row.segments) if mine == segment]
            whole.remove(tuple(row.input_ids[i] for i in where))
            assert [row.position_ids[i] for i in where] == list(range(len(where)))
            assert row.labels[where[0]] == IGNORED
    assert not whole


def test_a_shared_prompt_stands_once_and_each_answer_follows_it():
    def example(prompt, answer):
        ids = prompt + answer
        return Example(ids, [IGNORED] * len(prompt) + answer, len(ids))

    first, second = [7, 8, 9], [7, 8, 10]
    made = [example(first, [1, 2]), example(second, [1]), example(first, [3]), example(first, [4])]
    rows = share_prompts(made, 100)
    assert len(rows) == 1  # the last token of a prompt is each answer's own
    assert rows[0].input_ids == [7, 8, 9, 1, 2, 10, 1, 9, 3, 9, 4]
    assert rows[0].position_ids == [0, 1, 2, 3, 4, 2, 3, 2, 3, 2, 3]
    assert rows[0].segments == [0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]
    kept = [label for label in rows[0].labels if label != IGNORED]
    assert kept == [1, 2, 1, 3, 4]
    assert [len(row.input_ids) for row in share_prompts(made, 7)] == [7, 6]
    assert [len(row.input_ids) for row in share_prompts(made, 0)] == [5, 4, 4, 4]


def test_a_shared_beginning_stands_once_in_each_row():
    def example(prompt, answer):
        ids = prompt + answer
        return Example(ids, [IGNORED] * len(prompt) + answer, len(ids))

    made = [example([7, 8, 9, 5], [1, 2]), example([7, 8, 6], [1]), example([7, 8, 9, 4], [3])]
    rows = share_beginning(made, 100)
    assert len(rows) == 1
    assert rows[0].input_ids == [7, 8, 9, 5, 1, 2, 6, 1, 9, 4, 3]
    assert rows[0].position_ids == [0, 1, 2, 3, 4, 5, 2, 3, 2, 3, 4]
    assert rows[0].segments == [0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3]
    assert [label for label in rows[0].labels if label != IGNORED] == [1, 2, 1, 3]
    assert [len(row.input_ids) for row in share_beginning(made, 8)] == [8, 5]
    assert share_beginning([], 8) == []
    prompts_alike = [example([7, 8], [1]), example([7, 8], [2])]
    assert share_beginning(prompts_alike, 9)[0].input_ids == [7, 8, 1, 8, 2]
    nothing = [example([1, 2], [3]), example([2, 2], [3])]
    assert share_beginning(nothing, 9)[0].segments == [1, 1, 1, 2, 2, 2]


def test_models_that_would_not_obey_the_mask_are_refused(model):
    require_packable(model)
    assert is_packable(model)
    other = copy.deepcopy(model)
    other.config._attn_implementation = "eager"
    with pytest.raises(KitError, match="'eager'"):
        require_packable(other)
    assert not is_packable(other)
    other.config._attn_implementation = "sdpa"
    other.config.alibi = True
    with pytest.raises(KitError, match="ALiBi"):
        require_packable(other)
    other.config.alibi = False
    other.config.layer_types = ["full_attention", "conv"]  # reads across examples
    assert not is_packable(other)
    del other.config._attn_implementation_internal  # as if the library had renamed it
    with pytest.raises(AttributeError):
        is_packable(other)
