import json
import os
import subprocess
import sys

from qlora_kit.machine import checks as checks_file
from qlora_kit.machine import hardware


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
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 1
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert "CUDA Setup failed" in checks["bitsandbytes"]["detail"]
    assert checks["bitsandbytes"]["fix"]
