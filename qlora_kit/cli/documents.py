"""`qlora-kit documents`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json


def documents(
    folder: Annotated[Path, typer.Argument(help="Of .md, .markdown and .txt files.")],
    output: Annotated[Path, typer.Option(help="The folder for train.jsonl and test.jsonl.")],
    question: Annotated[str, typer.Option(help="What to ask; {title} is the headings.")] = (
        "What does the manual say about {title}?"
    ),
    held_out: Annotated[float, typer.Option(help="Share of the sections, whole pages.")] = 0.1,
    max_words: Annotated[int, typer.Option(help="Longer sections are cut.", min=1)] = 180,
    seed: Annotated[int, typer.Option(help="Of the draw of pages.")] = 0,
    as_json: Json = False,
) -> None:
    """Turn a folder of documents into conversations, no page in both training and test."""
    from ..data import read_documents, split_by_document, to_conversations, write_jsonl

    rows = to_conversations(read_documents(folder, max_words), question)
    train, test = split_by_document(rows, held_out, seed)
    files = [write_jsonl(train, output / "train.jsonl"), write_jsonl(test, output / "test.jsonl")]
    if as_json:
        counts = {"train_rows": len(train), "test_rows": len(test)}
        print(json.dumps({"train": str(files[0]), "test": str(files[1])} | counts))
        return
    print(f"{len(train)} conversations in {files[0]}, {len(test)} held out in {files[1]}.")
    print("Their questions are headings. Questions as your customers ask them teach more.")
