"""The model card that stands beside exported weights."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..evaluate import LABELS
from ..models import BUNDLED
from ..runs import Run
from ..stats import Interval
from .parity import COLUMNS, Parity


def model_card(run: Run, description: str, parity: Parity) -> str:
    """A README.md that says where a model comes from and how well the export was checked.

    Args:
        run: the run; its result and scoreboard are told where they are there.
        description: one sentence on what the files are.
        parity: the export's report.
    """
    import jinja2
    from huggingface_hub import ModelCardData

    base, result = _public(run.config.model), run.result()
    rate = run.config.learning_rate or result.get("learning_rate")
    license = license_of(run.config.model)
    tags = ["qlora", "qlora-kit"]
    text = Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8")
    template = jinja2.Template(text, trim_blocks=True, keep_trailing_newline=True)
    return template.render(
        head=ModelCardData(license=license.lower() or "other", base_model=base, tags=tags),
        name=run.name,
        description=description,
        base=base,
        bundled=BUNDLED.get(run.config.model),
        data=_public(run.config.data),
        license=license,
        result=result,
        settings=asdict(run.config) | {"learning_rate": rate},
        board=run.scoreboard(),
        labels=LABELS,
        interval=_interval,
        parity=parity,
        columns=COLUMNS,
    )


def license_of(model: str) -> str:
    """The license of a bundled model; "" where it is not known.

    Args:
        model: a model name.
    """
    return BUNDLED[model].license if model in BUNDLED else ""


def _public(name: str) -> str:
    """A path of this machine tells nobody anything but its last part."""
    return Path(name).name if Path(name).is_absolute() or Path(name).exists() else name


def _interval(gap: dict[str, Any]) -> Interval:
    low, high = gap["ci95"] or (float("-inf"), float("inf"))
    return Interval(gap["mean"], low, high)
