r"""A page that shows a recommender: recommendations with their sources, semantic IDs as a tree, new products, health.

    utgrec space runs/shop
    utgrec space org/shop-recommender --port 8000
    utgrec space runs/demo/seed-0/pretrained-finetuned/recommender --data data/builtin/office  # with pictures

Takes a folder or Hub id of a recommender with its item index, as `utgrec quickstart`, `demo`, `finetune` and
`train-baseline` leave them. The page is for this machine alone, http://127.0.0.1:7860, unless --host or --share say
otherwise; what is asked there stays here, and nothing is fetched to show it. Needs `pip install "utgrec[space]"`.
`utgrec publish --space` makes a Space of the Hub of it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from trainers.arguments import first_words, parse_sections


@dataclass
class SpaceArguments:
    model: str = field(metadata={"help": "Folder or Hub id of a recommender; also the first word after the command."})
    revision: str | None = field(default=None, metadata={"help": "Of --model on the Hub: branch, tag, commit."})
    data: str | None = field(
        default=None,
        metadata={"help": "Items with pictures: a data folder, a file of products, a data set of the Hub."},
    )
    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen at; 0.0.0.0: the whole network."})
    port: int = field(default=7860, metadata={"help": "Port to listen at."})
    share: bool = field(
        default=False, metadata={"help": "Open a public address for it, through a server of gradio's makers."}
    )

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise SystemExit(f"--port is a number from 1 to 65535, got {self.port}.")


def run(arguments: SpaceArguments, wait: bool = True) -> str:
    """
    Opens the page.

    Args:
        arguments ([`SpaceArguments`]): what and where.
        wait (`bool`, *optional*, defaults to `True`): until it is stopped; else the page goes on beside.

    Returns:
        Its address.
    """
    if find_spec("gradio") is None:
        raise SystemExit('The page needs gradio: pip install "utgrec[space]".')
    print("loading the recommender", flush=True)
    from trainers.commands.space_page import build_page, launch_settings
    from trainers.methods.explorer import Explorer

    explorer = Explorer.from_pretrained(arguments.model, arguments.revision, arguments.data)
    place = Path(arguments.model)
    page = build_page(explorer, place.resolve().name if place.is_dir() else arguments.model)
    where = {"server_name": arguments.host, "server_port": arguments.port, "share": arguments.share}
    _, address, public = page.launch(prevent_thread_lock=True, **where, **launch_settings())
    print(f"open {public or address}; Ctrl+C ends it", flush=True)
    if wait:
        page.block_thread()
    return address


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    argv = first_words(sys.argv[1:] if argv is None else argv, ["--model"])
    run(parse_sections(SpaceArguments, {}, __doc__, argv)[0])
