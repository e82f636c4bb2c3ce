"""`qlora-kit doctor`."""

import json

import typer

from .options import Json


def doctor(as_json: Json = False) -> None:
    """Look at this machine: what works, what is slow, and the line that mends it."""
    from ..machine import doctor as look
    from ..machine import doctor_report

    checks = look()
    report = doctor_report(checks)
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        for check in checks:
            print(f"{check.status:<5} {check.name:<13} {check.detail}")
            if check.fix:
                print(f"{'':<19} mend it with: {check.fix}")
    if not report["ok"]:
        raise typer.Exit(1)
