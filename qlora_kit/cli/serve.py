"""`qlora-kit serve`."""

from pathlib import Path
from typing import Annotated

import typer

from .. import KitError


def serve(
    file: Annotated[Path, typer.Argument(help="A GGUF model.")],
    lora: Annotated[list[str] | None, typer.Option(help="NAME=ADAPTER.gguf; repeat it.")] = None,
    host: Annotated[str, typer.Option(help="Beyond loopback only with a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8080,
    api_key: Annotated[
        str | None, typer.Option(help="That requests must bring.", envvar="QLORA_KIT_API_KEY")
    ] = None,
    origin: Annotated[list[str] | None, typer.Option(help="A web page's that may ask.")] = None,
    parallel: Annotated[int, typer.Option(help="Conversations at once.", min=1)] = 4,
    context: Annotated[int, typer.Option(help="Tokens of each.", min=64)] = 2048,
    threads: Annotated[int, typer.Option(help="0: every core.", min=0)] = 0,
    offline: Annotated[
        bool, typer.Option("--offline", help="Let the kernel refuse every way out (Linux).")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show llama.cpp's log.")] = False,
) -> None:
    """Serve a GGUF file to OpenAI's clients; a request chooses an adapter as its model."""
    from ..serve import ServerConfig, run

    adapters: dict[str, Path] = {}
    for each in lora or []:
        name, _, path = each.partition("=")
        if not path:
            raise KitError(f"--lora {each!r} is not of the form NAME=ADAPTER.gguf.")
        if name in adapters:
            raise KitError(f"Two adapters are called {name!r}.")
        adapters[name] = Path(path)
    config = ServerConfig(
        model=file,
        adapters=adapters,
        host=host,
        port=port,
        api_key=api_key,
        origins=tuple(origin or ()),
        parallel=parallel,
        context=context,
        threads=threads,
        offline=offline,
        verbose=verbose,
    )
    run(config)
