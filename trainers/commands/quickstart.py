r"""A recommender of a shop's own orders and products, in about a minute: read, made, measured, saved, shown.

    utgrec quickstart orders.csv products.csv
    # columns of any name are guessed and shown; where a guess is wrong
    utgrec quickstart orders.csv products.csv --columns user=customer_no item=sku time=ordered_at text=colour,size
    # texts read by an encoder, and a network trained for two minutes
    utgrec quickstart orders.csv products.csv --minutes 2 \
        --text_encoder sentence-transformers/all-MiniLM-L6-v2

orders.csv has a row for each purchase, view or rating: who, what and, if there is one, when. products.csv, which may
be left out, has a row for each product: the id that orders have, and whatever says what it is like. Both may be csv of
any separator and encoding, JSON lines or parquet, their rows in any order. Products without any order stay and are
recommended by their texts; what is left out is counted, with an example.

Products get semantic IDs by RQ-k-means of their texts (TF-IDF, or --text_encoder). What is recommended comes from a
memory of what followed what and which texts are alike, chosen on validation, and with --minutes from a network too.
Up to 5,000 products what follows what is in closed form, above that counted: a closed form of 20,000 takes minutes.
Writes one folder, which `Recommender.from_pretrained`, `utgrec recommend`, `utgrec publish` and the pipeline read.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainers.arguments import first_words, parse_sections

USERS = 3  # that are recommended to, as an example
TOP_K = 5
SHOWN_HISTORY = 3  # latest items of a history that are shown
TITLE = 60  # characters


@dataclass
class QuickstartArguments:
    orders: str = field(metadata={"help": "File of orders; also the first word after the command."})
    products: str | None = field(default=None, metadata={"help": "File of products; also the second."})
    columns: list[str] = field(
        default_factory=list,
        metadata={
            "help": "What columns mean, where the guess is wrong: user=NAME, item=NAME, time=NAME and quantity=NAME "
            "(below 0: a return) of the orders, id=NAME, title=NAME, price=NAME and text=NAME,NAME of the products; "
            "=- for none."
        },
    )
    output_dir: str = field(default="runs/quickstart", metadata={"help": "Where the recommender goes."})
    text_encoder: str = field(
        default="tf-idf", metadata={"help": "Hub id or folder of a text encoder that reads the products' texts."}
    )
    minutes: float = field(default=0.0, metadata={"help": "Training of an item-level network; 0: the memory alone."})
    overwrite: bool = field(default=False, metadata={"help": "Replace a recommender that is there."})
    push_to_hub: str | None = field(default=None, metadata={"help": "Repository to push it to, such as org/shop."})
    seed: int = field(default=0, metadata={"help": "Of clusters and training."})

    def __post_init__(self) -> None:
        if self.minutes < 0:
            raise SystemExit(f"--minutes is a time, got {self.minutes:g}.")


def run(arguments: QuickstartArguments) -> None:
    """Makes, saves and shows."""
    output = Path(arguments.output_dir)
    say("loading the program, which takes a few seconds")
    from tokenization_items.files import check_writable
    from trainers.hub.upload import check_text_encoder
    from trainers.methods.recommendation_rules import RECOMMENDER_FILE
    from trainers.methods.recommender import Recommender
    from trainers.runtime.progress import lines_alone
    from trainers.runtime.run_file import run_values, write_run_file

    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        if not arguments.overwrite:
            raise SystemExit(f"{output} is there already: give another --output_dir, or --overwrite to replace it.")
        if not (output / RECOMMENDER_FILE).is_file():
            raise SystemExit(
                f"{output} holds no {RECOMMENDER_FILE}, so this did not make it: give another --output_dir."
            )
    if arguments.push_to_hub is not None:
        check_text_encoder(arguments.text_encoder)
    check_writable(output, replaced=True)
    with lines_alone("trainers.rankers"):  # what takes long is said here
        recommender = Recommender.from_interactions(
            arguments.orders,
            arguments.products,
            arguments.columns,
            arguments.text_encoder,
            arguments.minutes,
            arguments.seed,
            progress=say,
        )
        recommender.save_pretrained(output)
        write_run_file(output, "quickstart", run_values(arguments))
        say(f"\n{validation(recommender.facts)}")
        say(f"\n{examples(recommender)}")
        if arguments.push_to_hub is not None:
            say(f"\npushed to {recommender.push_to_hub(arguments.push_to_hub)}")
        shown = recommender.item_ids[:2]
        say(f"\nsaved in {output}; in Python:\n")
        say("    from trainers import Recommender")
        say(f"    Recommender.from_pretrained({str(output)!r}).recommend({shown!r}, top_k={TOP_K})")


def say(text: str) -> None:
    """A line at once, whoever reads."""
    print(text, flush=True)


def validation(facts: dict) -> str:
    """The results on validation as a table, with what they are of."""
    from hub_cards.formatting import metric_name

    rows = facts.get("validation") or []
    if not rows:
        return "Nothing was measured: no customer has three orders."
    metrics = [name for name in rows[0] if name != "model"]
    width = max(len(row["model"]) for row in rows)
    head = "".join(f"{metric_name(name):>12}" for name in metrics)
    lines = [f"{row['model']:<{width}}" + "".join(f"{row[name]:12.3f}" for name in metrics) for row in rows]
    first = facts["rows"][0]
    seen = "items bought before are not recommended" if facts["seen"] == "masked" else "items bought before count too"
    return "\n".join(
        [
            f"The second last item of {first['num_users']:,} customers, found among {facts['items']:,} items ({seen};",
            "settings were chosen on the same customers, so the first and last line are a little too good):",
            "",
            " " * width + head,
            *lines,
        ]
    )


def examples(recommender) -> str:
    """Recommendations for three users with long histories, with titles."""
    interactions, titles = recommender.domain.interactions, recommender.titles
    ids, lengths = interactions.item_ids, interactions.lengths
    long_enough = (lengths >= min(SHOWN_HISTORY, lengths.max())).nonzero()[0]
    users = long_enough[:: max(1, len(long_enough) // USERS)][:USERS]
    histories = [[ids[row] for row in interactions.sequence(user)] for user in users]
    lines = []
    for user, history, found in zip(users, histories, recommender.recommend(histories, top_k=TOP_K), strict=True):
        latest = "; ".join(shortened(titles[each] or each) for each in history[-SHOWN_HISTORY:])
        lines += [f"Customer {interactions.user_ids[user]}, {len(history):,} orders, the latest: {latest}"]
        lines += [
            f"  {place}. {entry['item_id']}  {shortened(entry['title'])}".rstrip()
            for place, entry in enumerate(found, 1)
        ]
    return "\n".join(lines)


def shortened(text: str) -> str:
    return text if len(text) <= TITLE else text[: TITLE - 1] + "…"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    argv = first_words(sys.argv[1:] if argv is None else argv, ["--orders", "--products"])
    run(parse_sections(QuickstartArguments, {}, __doc__, argv)[0])
