"""Flags of zero-shot evaluation, apart from it: reading them takes no model code."""

from dataclasses import dataclass, field

from trainers.evaluation.level_scores import SCORES


@dataclass
class ZeroShotArguments:
    """How recommenders are judged without training; which rows: [`trainers.evaluation.candidate_rows.RowChoices`]."""

    score: str = field(
        default="sum",
        metadata={"help": f"What a result's gauc is of, for a generative recommender: {', '.join(SCORES)}."},
    )
    prior_histories: int = field(
        default=32,
        metadata={"help": "Other users' histories that the context-free probability is the mean over; 0: no pmi."},
    )
    items: str | None = field(
        default=None,
        metadata={"help": "Folder of examples/tokenize_items.py with the domain's index; default: the recommender's."},
    )
    language_model: str | None = field(
        default=None, metadata={"help": "Hub id or folder of a causal language model, for `title-likelihood`."}
    )
    pretrained_on: list[str] | None = field(
        default=None, metadata={"help": "Domains of the pre-training, or none; default: as the model's folder says."}
    )
    full_ranking: bool = field(default=True, metadata={"help": "Also Recall and NDCG over the whole catalogue."})

    def __post_init__(self):
        if self.score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {self.score!r}.")
        if self.prior_histories < ("pmi" in self.score):
            raise ValueError(f"The score {self.score!r} needs prior_histories, got {self.prior_histories}.")
