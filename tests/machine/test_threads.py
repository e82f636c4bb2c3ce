import os

import pytest

from qlora_kit.machine import threads


def test_thread_policy_leaves_the_users_choice_alone():
    environ = {"GOMP_SPINCOUNT": "infinite"}
    threads.apply_thread_policy(environ)
    assert environ["GOMP_SPINCOUNT"] == "infinite"
    assert environ["KMP_BLOCKTIME"] == "1"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "12800000 100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
    ],
)
def test_cores_respect_the_containers_limit(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert threads.usable_cores(tmp_path) == cores
