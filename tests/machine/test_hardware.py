import logging
import subprocess
import sys

import pytest

from qlora_kit.machine import hardware


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


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("float16", 2), ("float32", 4)])
def test_a_machine_knows_how_wide_its_numbers_are(dtype, size):
    assert hardware.Machine("cpu", "test", dtype, 2, 8.0, 8.0).compute_bytes == size


def test_a_look_at_the_machine_hushes_advice_that_the_kit_has_no_use_for():
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.setLevel(logging.NOTSET)
    hardware.detect()
    assert logger.level == logging.ERROR


def test_importing_the_kit_does_nothing():
    code = (
        "import logging, qlora_kit; print(logging.getLogger('bitsandbytes.backends.cpu.ops').level)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
