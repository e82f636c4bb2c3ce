"""The model card that stands beside exported weights."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..evaluate import LABELS
from ..models import BUNDLED
from ..runs import TrainConfig
from .parity import COLUMNS, Parity

_SHOWN = ("precision", "method", "rank", "alpha", "target_modules", "dropout", "learning_rate",
          "schedule", "warmup", "epochs", "max_steps", "batch_size", "max_length",
          "seed")  # fmt: skip


def model_card(
    run: Path, config: TrainConfig, what: str, parity: Parity, license: str = ""
) -> str:  # fmt: skip
    """A README.md that says where a model comes from and how well the export was checked.

    Args:
        run: the run folder; its run.json and scoreboard.json are told where they are there.
        config: of the run.
        what: one sentence on what the files are.
        parity: the export's report.
        license: of the base; "" looks it up among the bundled models.
    """
    license = license or license_of(config.model)
    settings = asdict(config)
    head = [
        "---",
        f"license: {license.lower() or 'other'}",
        f"base_model: {_public(config.model)}",
        "tags: [qlora, qlora-kit]",
        "---",
    ]
    parts = [
        "\n".join(head),
        f"# {run.resolve().name}",
        what,
        f"- Base: `{_public(config.model)}`, fine-tuned with QLoRA by qlora-kit.",
        f"- Data: `{_public(config.data)}`.{_trained(run)}",
        f"- License: {license or 'that of the base model, which is not known here'}. The data have "
        "their own.",
        "## Hyperparameters",
        _table(("setting", "value"), [(name, str(settings[name])) for name in _SHOWN]),
        *_scoreboard(run),
        "## Parity",
        f"Each step beside the adapter in transformers, on {parity.questions} held-out questions; "
        f"the adapter's own token F1 is {parity.adapter_score:.3f}. KL in nats.",
        _table(COLUMNS, parity.rows()),
    ]
    return "\n\n".join(part for part in parts if part).replace("\n\n- ", "\n- ") + "\n"


def license_of(model: str) -> str:
    """The license of a bundled model; "" where it is not known.

    Args:
        model: a model name.
    """
    return BUNDLED[model].license if model in BUNDLED else ""


def _public(name: str) -> str:
    """A path of this machine tells nobody anything but its last part."""
    return Path(name).name if Path(name).is_absolute() or Path(name).exists() else name


def _trained(run: Path) -> str:
    try:
        told = json.loads((run / "run.json").read_text(encoding="utf-8"))
        return (
            f" {told['steps']} steps, {told['tokens']:,} tokens, final loss {told['loss']:.3f} "
            f"nats a token, {told['seconds']:.0f} s on {told['machine']}."
        )
    except (OSError, ValueError, KeyError):  # an adapter from elsewhere has no such file
        return ""


def _scoreboard(run: Path) -> list[str]:
    try:
        board = json.loads((run / "scoreboard.json").read_text(encoding="utf-8"))
        rows = [
            (
                LABELS.get(name, name),
                f"{board['base'][name]:.3f}",
                f"{board['tuned'][name]:.3f}",
                "{:+.3f} [{:+.3f}, {:+.3f}]".format(
                    gap["mean"], *(gap["ci95"] or (float("-inf"), float("inf")))
                ),
            )
            for name, gap in board["difference"].items()
        ]
    except (OSError, ValueError, KeyError):
        return []
    head = ("metric", "base", "tuned", "tuned - base [95 %]")
    return [f"## Scoreboard\n\n{board['n']} held-out questions.", _table(head, rows)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines: list[Sequence[str]] = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )
