import errno

import pytest
from safetensors import SafetensorError

from qlora_kit import KitError, checkpoint


def write(folder):
    for name in (*checkpoint._PARTS, "adapter_model.safetensors"):
        (folder / name).write_text(name)


def test_saved_ones_are_complete_and_old_ones_pruned(tmp_path):
    for step in (5, 10, 15):
        checkpoint.save(tmp_path, step, write, keep=2)
    assert [path.name for path in checkpoint.complete(tmp_path)] == [
        "checkpoint-10",
        "checkpoint-15",
    ]
    assert checkpoint.latest(tmp_path).name == "checkpoint-15"


def test_the_newest_whole_one_counts_whatever_lies_beside_it(tmp_path):
    checkpoint.save(tmp_path, 9, write)
    checkpoint.save(tmp_path, 10, write)
    (tmp_path / "checkpoint-11").mkdir()  # a half-written one of another tool
    (tmp_path / "checkpoint-11/optimizer.pt").write_text("x")
    (tmp_path / "checkpoint-12").write_text("a file")
    (tmp_path / "checkpoint-last").mkdir()
    assert checkpoint.latest(tmp_path).name == "checkpoint-10"
    assert checkpoint.latest(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("PytorchStreamWriter failed writing file: No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_failed_save_leaves_the_earlier_ones(tmp_path, failure):
    checkpoint.save(tmp_path, 1, write)

    def full(folder):
        (folder / "optimizer.pt").write_text("half")
        raise failure

    with pytest.raises(KitError, match=r"Checkpoint 2 .*No space left.*--resume"):
        checkpoint.save(tmp_path, 2, full)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_killed_save_is_not_resumed_from_and_does_not_stop_the_next(tmp_path):
    checkpoint.save(tmp_path, 1, write)

    def killed(folder):
        write(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 2, killed)
    assert checkpoint.latest(tmp_path).name == "checkpoint-1"
    assert checkpoint.save(tmp_path, 3, write).name == "checkpoint-3"
