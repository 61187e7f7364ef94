r"""A recommender over HTTP: recommendations, similar items, a catalogue that changes while it is served, metrics.

    pip install 'utgrec[serve]'
    utgrec serve runs/shop                                   # or a Hub id, with --revision
    curl localhost:8000/recommend -H 'Content-Type: application/json' -d '{"histories": [["sku-17", "sku-301"]]}'
    UTGREC_API_KEY=... utgrec serve org/shop --host 0.0.0.0  # then -H "Authorization: Bearer $UTGREC_API_KEY"

POST /recommend      histories of ids or described items, top_k, allow, deny, exclude_seen, sources; of a history that
                     cannot be answered the reason, `on_error` says what else it gets
GET /similar/ID      items that are alike in content, by the recommender's memory
GET, DELETE /items/ID, POST /items {"add": [...], "remove": [...]}, POST /reload: after `utgrec tokenize` of the folder
GET /health, GET /metrics (Prometheus), /docs and /openapi.json, where every field is explained, with examples

Requests that come together are read together (--max_batch_size, --max_wait_ms). The catalogue changes in one step:
requests that have begun are answered by the one that was there. A change lasts until the end, or with --save_changes
is written to the folder. What is too large is refused with 413 or 422, what is too much with 503 and Retry-After.

The key is in an environment variable, as a flag would be seen by every user of the machine; it is in no log. Without
one only this machine may change the catalogue. There is no TLS: put a proxy before it. SIGTERM ends it when what has
begun is answered. `--log_level info` writes a line for each request, without what it says.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from trainers.arguments import parse_sections
from trainers.serving.limits import Limits

PACKAGES = {"fastapi": "FastAPI", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}


@dataclass
class ServeArguments:
    model: str = field(
        metadata={"help": "Folder or Hub id of a recommender with its items; also the first word after the command."}
    )
    revision: str | None = field(default=None, metadata={"help": "Of a Hub id: branch, tag, commit."})
    host: str = field(default="127.0.0.1", metadata={"help": "Address; 0.0.0.0: reached from everywhere."})
    port: int = field(default=8000, metadata={"help": "Port; 0: one that is free."})
    api_key_variable: str = field(
        default="UTGREC_API_KEY", metadata={"help": "Environment variable with the key that requests must show."}
    )
    read_only: bool = field(default=False, metadata={"help": "No request changes the catalogue."})
    save_changes: bool = field(
        default=False, metadata={"help": "Write changes of the catalogue to the folder, each in one step."}
    )


def run(arguments: ServeArguments, limits: Limits) -> None:
    """Serves until SIGTERM or Ctrl-C."""
    if missing := [name for module, name in PACKAGES.items() if find_spec(module) is None]:
        raise SystemExit(f"utgrec serve needs {', '.join(missing)}: pip install 'utgrec[serve]'")
    from trainers.serving import server

    key = server.key_of(arguments.api_key_variable)
    save_to = Path(arguments.model) if arguments.save_changes else None
    if save_to is not None and not save_to.is_dir():
        raise SystemExit(f"--save_changes writes to a folder, and {arguments.model} is none: download it first.")
    if arguments.revision is not None and Path(arguments.model).is_dir():
        raise SystemExit(f"{arguments.model} is a folder, and folders have no --revision: leave it out.")
    with server.bind(arguments.host, arguments.port) as bound:
        from trainers.serving.application import Service, build_application
        from trainers.serving.state import load

        read = partial(load, arguments.model, arguments.revision)
        service = Service(read(), limits, lambda version: read(version=version), save_to)
        may_change = not arguments.read_only and (key is not None or server.is_loopback(bound))
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        print(f"{arguments.model}: {len(service.served.recommender.tokenizer):,} items")
        print(f"http://{host}:{bound.getsockname()[1]}, explained at /docs")
        print(f"key: {f'that of {arguments.api_key_variable}' if key else 'none'}; ", end="")
        print("changes of the catalogue: " + ("taken" if may_change else "refused"), flush=True)
        server.run(build_application(service, key, may_change), bound, limits.timeout_s)


def model_named(argv: Sequence[str]) -> list[str]:
    """The command line with its first word, if it names no flag, as that of `--model`."""
    argv = list(argv)
    return ["--model", *argv] if argv and not argv[0].startswith("-") else argv


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    argv = model_named(sys.argv[1:] if argv is None else argv)
    run(*parse_sections((ServeArguments, Limits), {}, __doc__, argv))
