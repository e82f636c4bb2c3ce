"""What stands beside exported weights: the model card, and Ollama's Modelfile."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import KitError
from .chat import render, stop_ids
from .config import TrainConfig
from .fetch import BUNDLED
from .parity import COLUMNS, Parity
from .report import LABELS

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


def modelfile(
    tokenizer: Any, weights: str, adapter: str = "", system: str | None = None, model: Any = None
) -> str:
    """An Ollama Modelfile with the chat template and the stop tokens.

    Ollama writes templates in another language. The one here is made from what the tokenizer's
    own template puts around each role's words; where it does more than that, it is left out with
    a comment, and Ollama falls back on the template inside the GGUF file.

    Args:
        tokenizer: with a chat template.
        weights: the GGUF file's name beside the Modelfile.
        adapter: a GGUF adapter's name beside it.
        system: the system prompt that the model was trained with.
        model: its generation config may know more stop tokens.
    """
    lines = [f"FROM ./{weights}"]
    if adapter:
        lines.append(f"ADAPTER ./{adapter}")
    pieces = _pieces(tokenizer)
    if pieces is None:
        lines.append("# The chat template does more than wrap turns; Ollama takes the GGUF's own.")
    else:
        turns = "{{ else }}".join(
            f'{{{{ if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}'
            for role, (before, after) in pieces.items()
        )
        ends = "{{ end }}" * len(pieces)
        opening = pieces["assistant"][0]
        lines.append(f'TEMPLATE """{{{{ range .Messages }}}}{turns}{ends}{{{{ end }}}}{opening}"""')
        system = _default_system(tokenizer, pieces) if system is None else system
    if system:
        lines.append(f'SYSTEM """{system}"""')
    stops = sorted(stop_ids(tokenizer, model))
    lines += [f"PARAMETER stop {json.dumps(tokenizer.decode([index]))}" for index in stops]
    return "\n".join(lines) + "\n"


def _pieces(tokenizer: Any) -> dict[str, tuple[str, str]] | None:
    """What the template puts before and after each role's words; None where that is not all."""
    words = {"system": "<<1>>", "user": "<<2>>", "assistant": "<<3>>"}
    talk = [{"role": role, "content": text} for role, text in words.items()]
    try:
        rest, befores = _render(tokenizer, talk), []
        for text in words.values():
            before, rest = rest.split(text)
            befores.append(before)
        # All turns close alike: what is left at the end also stands before the second and third.
        pieces = {
            role: (before if role == "system" else before.removeprefix(rest), rest)
            for role, before in zip(words, befores, strict=True)
        }
        longer = [*talk, *talk[1:2]]
        made = "".join(pieces[m["role"]][0] + m["content"] + rest for m in longer)
        same = made + pieces["assistant"][0] == _render(tokenizer, longer, answer_next=True)
    except (KitError, ValueError):
        return None
    return pieces if same and '"""' not in made and "{{" not in made else None


def _render(tokenizer: Any, talk: list[dict[str, str]], answer_next: bool = False) -> str:
    """A conversation without the token that begins all text: Ollama adds that by itself."""
    text, begin = render(tokenizer, talk, answer_next), tokenizer.bos_token
    return text.removeprefix(begin) if begin and text.count(begin) == 1 else text


def _default_system(tokenizer: Any, pieces: dict[str, tuple[str, str]]) -> str | None:
    """The system prompt that the template puts where there is none."""
    user, (opening, close) = pieces["user"][0] + "<<2>>", pieces["system"]
    try:
        head = _render(tokenizer, [{"role": "user", "content": "<<2>>"}]).split(user)[0]
    except KitError:
        return None
    inside = head.startswith(opening) and head.endswith(close)
    return head[len(opening) : len(head) - len(close)] if inside else None


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
