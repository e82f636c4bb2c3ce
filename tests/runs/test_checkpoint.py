import errno
import shutil
import warnings

import pytest
from safetensors import SafetensorError

from qlora_kit import KitError
from qlora_kit.runs import checkpoint


def write(folder):
    for name in (*checkpoint._PARTS, "adapter_model.safetensors"):
        (folder / name).write_text(name)


def test_saved_ones_are_complete_and_old_ones_pruned(tmp_path):
    for step in (5, 10, 15):
        checkpoint.save_checkpoint(tmp_path, step, write, keep=2)
    assert [path.name for path in checkpoint.complete(tmp_path)] == [
        "checkpoint-10",
        "checkpoint-15",
    ]
    assert checkpoint.latest(tmp_path).name == "checkpoint-15"


def test_the_newest_whole_one_counts_whatever_lies_beside_it(tmp_path):
    checkpoint.save_checkpoint(tmp_path, 9, write)
    checkpoint.save_checkpoint(tmp_path, 10, write)
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
        Exception("No space left on device (os error 28)"),  # the tokenizers library's
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_failed_save_leaves_the_earlier_ones(tmp_path, failure):
    checkpoint.save_checkpoint(tmp_path, 1, write)

    def full(folder):
        (folder / "optimizer.pt").write_text("half")
        raise failure

    with pytest.raises(KitError, match=r"Checkpoint 2 .*No space left.*--resume"):
        checkpoint.save_checkpoint(tmp_path, 2, full)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_killed_save_is_not_resumed_from_and_does_not_stop_the_next(tmp_path):
    checkpoint.save_checkpoint(tmp_path, 1, write)

    def killed(folder):
        write(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_checkpoint(tmp_path, 2, killed)
    assert checkpoint.latest(tmp_path).name == "checkpoint-1"
    assert checkpoint.save_checkpoint(tmp_path, 3, write).name == "checkpoint-3"


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_damaged_one_is_passed_over_and_said(tmp_path):
    checkpoint.save_checkpoint(tmp_path, 1, write)
    newest = checkpoint.save_checkpoint(tmp_path, 2, write)
    (newest / "optimizer.pt").write_text("optimizer.pT")
    with pytest.warns(UserWarning, match=r"checkpoint-2 is passed over: optimizer\.pt changed"):
        assert checkpoint.latest(tmp_path).name == "checkpoint-1"


@pytest.mark.parametrize("change", ["added", "removed", "renamed"])
def test_what_a_stranger_changed_is_not_unpickled(tmp_path, change):
    path = checkpoint.save_checkpoint(tmp_path, 3, write)
    if change == "added":
        (path / "scaler.pt").write_text("evil")
    elif change == "removed":
        (path / "rng_state.pth").unlink()
    else:
        path.rename(tmp_path / "checkpoint-9")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert checkpoint.latest(tmp_path) is None


def test_one_of_an_earlier_version_is_taken_unverified_when_there_is_no_other(tmp_path):
    checkpoint.save_checkpoint(tmp_path, 5, write)
    old = tmp_path / "checkpoint-7"
    old.mkdir()
    write(old)
    assert checkpoint.latest(tmp_path).name == "checkpoint-5"
    shutil.rmtree(tmp_path / "checkpoint-5")
    with pytest.warns(UserWarning, match="unverified"):
        assert checkpoint.latest(tmp_path) == old


def test_the_new_one_is_never_pruned_for_damaged_ones_that_claim_to_be_newer(tmp_path):
    for step in (8, 12, 13):
        checkpoint.save_checkpoint(tmp_path, step, write, keep=3)
    for step in (12, 13):
        (tmp_path / f"checkpoint-{step}/optimizer.pt").write_text("damaged")
    checkpoint.save_checkpoint(tmp_path, 9, write, keep=2)
    with pytest.warns(UserWarning, match="passed over"):
        assert checkpoint.latest(tmp_path).name == "checkpoint-9"
    assert (tmp_path / "checkpoint-8").exists()


@pytest.mark.parametrize(("keep", "left"), [(1, 1), (3, 3), (9, 4)])
def test_as_many_are_kept_as_wanted(tmp_path, keep, left):
    for step in (1, 2, 3, 4):
        checkpoint.save_checkpoint(tmp_path, step, write, keep=9)
    checkpoint.save_checkpoint(tmp_path, 4, write, keep=keep)
    assert len(files(tmp_path)) == left


def test_saved_again_a_step_is_replaced(tmp_path):
    checkpoint.save_checkpoint(tmp_path, 4, write)
    (tmp_path / "checkpoint-4/optimizer.pt").write_text("damaged")
    checkpoint.save_checkpoint(tmp_path, 4, write)
    assert checkpoint.latest(tmp_path).name == "checkpoint-4"
    assert files(tmp_path) == ["checkpoint-4"]


def test_those_of_whole_models_count_too(tmp_path):
    def whole(folder):
        write(folder)
        (folder / "adapter_model.safetensors").rename(folder / "model.safetensors")

    checkpoint.save_checkpoint(tmp_path, 1, whole)
    assert checkpoint.latest(tmp_path).name == "checkpoint-1"


def test_a_disk_that_really_refuses_leaves_the_last_good_state(tmp_path):
    """The system itself refuses the file: here one above a size, there a full disk."""
    import resource

    checkpoint.save_checkpoint(tmp_path, 1, write)

    def large(folder):
        write(folder)
        (folder / "optimizer.pt").write_bytes(bytes(200_000))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(KitError, match=r"Checkpoint 2 could not be saved.*File too large"):
            checkpoint.save_checkpoint(tmp_path, 2, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(tmp_path) == ["checkpoint-1"]
    assert checkpoint.latest(tmp_path).name == "checkpoint-1"
