"""Flags and domains of the pre-trainings of recommenders that read items as embeddings of their texts."""

from dataclasses import dataclass, field

from accelerate import PartialState

from tokenization_items.text_statistics import TF_IDF
from trainers.data.domains import Domain, load_domains


@dataclass
class TextPretrainingArguments:
    """Flags of the pre-trainings of recommenders that read items as embeddings of their texts."""

    data: list[str] = field(metadata={"help": "Folders of the domains, or a folder of such folders."})
    output_dir: str = field(metadata={"help": "Where the results go."})
    text_encoder: str | None = field(default=None, metadata={"help": "Hub id or folder of the text encoder."})
    embeddings: list[str] = field(
        default_factory=list, metadata={"help": "Folders of text embeddings instead, one for each domain."}
    )
    minutes: float | None = field(default=None, metadata={"help": "Most time of the recommender's training."})
    k_core: int = field(default=0, metadata={"help": "Keep users and items with so many interactions; 0: all."})
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint of each stage."})
    allow_partial_resume: bool = field(
        default=False,
        metadata={"help": "With --resume: go on though the optimizer's or the random numbers' state is lost."},
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Train anew though the output folder holds a model, and replace it."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Check data and flags, say sizes, steps and memory, and stop."}
    )
    license: str | None = field(default=None, metadata={"help": "Licence of the model, for its card."})
    push_to_hub: bool = field(default=False, metadata={"help": "Push the recommender at the end."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Where to; default: the output folder's name."})
    seed: int = field(default=0, metadata={"help": "Seed of weights and training."})

    def __post_init__(self) -> None:
        if self.text_encoder == TF_IDF:
            raise SystemExit(
                "--text_encoder tf-idf is fitted on one catalogue, and no two domains share its space: give a text "
                "encoder."
            )
        if (self.text_encoder is None) == (not self.embeddings):
            raise SystemExit("Items are read by their texts: give either --text_encoder or --embeddings.")
        if self.minutes is not None and self.minutes <= 0:
            raise SystemExit(f"--minutes is a time, got {self.minutes:g}.")


def load_text_domains(arguments: TextPretrainingArguments) -> list[Domain]:
    """
    The domains, each printed.

    Raises:
        SystemExit: as [`~trainers.data.domains.load_domains`], or `--embeddings` of another number of domains.
    """
    domains = load_domains(arguments.data, k_core=arguments.k_core, check_images=False)
    for domain in domains:
        PartialState().print(domain)
    if arguments.embeddings and len(arguments.embeddings) != len(domains):
        raise SystemExit(f"--embeddings: {len(arguments.embeddings)} folders for {len(domains)} domains.")
    return domains
