import json
import os
import platform
import subprocess
import sys

import pytest

from qlora_kit.machine import allocator, hardware, threads
from qlora_kit.machine import checks as checks_file


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float16"), ((6, 1), "float32")],
)
def test_bf16_only_on_gpus_that_have_it(capability, dtype):
    assert hardware.fast_cuda_dtype(capability) == dtype


def test_a_cpu_computes_in_16_bits_only_with_the_instructions_for_it():
    assert hardware.fast_cpu_dtype({"avx2": True, "avx512_f": True}, {}) == "float32"
    assert hardware.fast_cpu_dtype({"avx512_bf16": True}, {}) == "bfloat16"
    assert hardware.fast_cpu_dtype({"amx_bf16": True}, {}) == "bfloat16"
    limited = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert hardware.fast_cpu_dtype({"avx512_bf16": True}, limited) == "float32"


def test_memory_respects_the_containers_limit(tmp_path):
    (tmp_path / "memory.max").write_text(str(2 * 10**9))
    (tmp_path / "memory.current").write_text(str(15 * 10**8))
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 100000000\n")
    free, total = hardware.main_memory(tmp_path)
    assert total == 2 * 10**9
    assert free == 6 * 10**8  # the file cache can be dropped, so it counts as free


def test_memory_without_a_limit_is_the_machines(tmp_path):
    import psutil

    (tmp_path / "memory.max").write_text("max\n")
    assert hardware.main_memory(tmp_path)[1] == psutil.virtual_memory().total


def test_thread_policy_leaves_the_users_choice_alone():
    environ = {"GOMP_SPINCOUNT": "infinite"}
    threads.apply_thread_policy(environ)
    assert environ["GOMP_SPINCOUNT"] == "infinite"
    assert environ["KMP_BLOCKTIME"] == "1"


def test_doctor_says_this_machine_can_train():
    report = checks_file.doctor_report(checks_file.doctor())
    assert report["ok"]
    assert report["machine"]["free_memory_gb"] > 0
    assert {"device", "bitsandbytes", "memory", "disk"} <= {c["name"] for c in report["checks"]}


def test_doctor_fails_and_says_what_to_install(monkeypatch):
    found = {**hardware.versions(), "bitsandbytes": "missing"}
    monkeypatch.setattr(checks_file, "versions", lambda: found)
    failed = [check for check in checks_file.doctor() if check.status == "fail"]
    assert failed[0].fix.startswith("pip install")


def test_doctor_exits_with_1_when_training_cannot_work(tmp_path):
    (tmp_path / "bitsandbytes").mkdir()  # a broken installation shadows the real one
    (tmp_path / "bitsandbytes" / "__init__.py").write_text(
        "raise RuntimeError('CUDA Setup failed')"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "qlora_kit.cli", "doctor", "--json"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 1
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert "CUDA Setup failed" in checks["bitsandbytes"]["detail"]
    assert checks["bitsandbytes"]["fix"]


def test_freed_memory_is_kept_where_malloc_can():
    assert allocator.keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
    assert hardware.peak_rss_gb() > 0.01
