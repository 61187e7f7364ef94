"""Zero-shot evaluation (RecBase): how well does a model that never trained on a domain rank its items?

Two measures: GAUC, the AUC of each user's candidates averaged over the users (rows of `candidate_rows`, scores of
`level_scores`), and Recall and NDCG over the whole catalogue ([`~trainers.evaluation.protocol.evaluate`]).
Models that need no training stand beside, judged on the same rows; one that does use the domain's interactions, as
popularity does, is marked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hub_cards import load_values
from hub_cards.formatting import markdown_table
from tokenization_items.item_index import CODES_NAME
from trainers.data.interactions import Interactions
from trainers.evaluation.candidate_rows import CandidateRows, score_in_batches
from trainers.evaluation.level_scores import ZeroShotArguments, context_free, named_scores
from trainers.evaluation.metrics import auc_by_user, metric_names
from trainers.evaluation.protocol import evaluate
from trainers.evaluation.significance import BOOTSTRAP_SAMPLES, bootstrap_intervals
from trainers.rankers import Ranker, title_likelihood
from trainers.rankers.generative import GenerativeRanker
from trainers.rankers.nearest_items import NearestItems
from trainers.rankers.popularity import Popularity
from trainers.rankers.scoring import ScoringRanker
from trainers.rankers.title_likelihood import TitleLikelihood

RANKING_FACTS = ("split", "part", "seen", "max_history", "ties", "num_beams", "candidates", "num_cases", "num_short")
# Results with the same of these are one line of a table.
LINE = ("model", "train_users", "uses_domain", "score", "labels", "targets")
SEEN = {"unseen": "unseen in pre-training", "seen": "seen in pre-training", "unknown": "pre-training not known"}


@dataclass(frozen=True)
class ZeroShotModel:
    """
    Args:
        name (`str`): in results.
        score (`Callable`): rows → float [R] for each named score; the first name is the one that counts.
        ranker ([`Ranker`], *optional*): ranks the whole catalogue; None: it would take too long.
        uses_domain (`bool`, *optional*, defaults to `False`): whether it learns from the domain's interactions.
        pretrained_on (`Sequence[str]`, *optional*): domains of the pre-training; None: not known.
        seed (`int`, *optional*): of its training.
        max_history (`int`, *optional*): last items of a history that it gets; None: all, or that it looks at none.
        prior_histories (`int`, *optional*): most other users' histories behind its scores that are free of popularity.
    """

    name: str
    score: Callable[[CandidateRows], dict[str, np.ndarray]]
    ranker: Ranker | None = None
    uses_domain: bool = False
    pretrained_on: Sequence[str] | None = ()
    seed: int | None = None
    max_history: int | None = None
    prior_histories: int | None = None


def zero_shot_model(
    ranker: Ranker | TitleLikelihood,
    interactions: Interactions,
    arguments: ZeroShotArguments,
    folder: str | Path | None = None,
    max_history: int | None = 20,
    batch_size: int = 64,
) -> ZeroShotModel:
    """A ranker as something to judge without training.

    Args:
        ranker (`Ranker` or `TitleLikelihood`): a [`GenerativeRanker`], which gets every score of `level_scores`; any
            [`ScoringRanker`], as [`NearestItems`]; [`Popularity`], which then counts the training interactions of all
            users but the row's own; or a [`TitleLikelihood`].
        interactions (`Interactions`): of the domain.
        arguments (`ZeroShotArguments`): see [`ZeroShotArguments`].
        folder (`str` or `Path`, *optional*): where the ranker came from: its card tells what it was trained on, and
            the seed.
        max_history (`int`, *optional*, defaults to 20): last items of a history that it gets; its own limit holds
            where that is smaller.
        batch_size (`int`, *optional*, defaults to 64): histories at a time.

    Raises:
        ValueError: a ranker that gives no scores for candidates.
    """
    own_limit = getattr(ranker, "max_history", None)
    limit = min((each for each in (max_history, own_limit) if each is not None), default=None)
    if isinstance(ranker, Popularity):
        return ZeroShotModel(ranker.name, partial(_popularity_of_others, interactions), ranker, uses_domain=True)
    if isinstance(ranker, TitleLikelihood):

        def likelihoods(rows: CandidateRows) -> dict[str, np.ndarray]:
            scores = score_in_batches(ranker.score, rows, limit, batch_size).T
            return dict(zip(title_likelihood.SCORES, scores, strict=True))

        return ZeroShotModel(ranker.name, likelihoods, max_history=limit)
    trained_on, seed = training_of(folder, arguments.pretrained_on)
    if isinstance(ranker, GenerativeRanker):

        def by_level(rows: CandidateRows) -> dict[str, np.ndarray]:
            levels = score_in_batches(ranker.score, rows, limit, batch_size)
            prior = None
            if arguments.prior_histories:
                prior = context_free(ranker.score, rows, arguments.prior_histories, limit, batch_size)
            scores = named_scores(levels, rows.users, prior)
            return {arguments.score: scores.pop(arguments.score), **scores}

        return ZeroShotModel(
            ranker.name,
            by_level,
            ranker,
            pretrained_on=trained_on,
            seed=seed,
            max_history=limit,
            prior_histories=arguments.prior_histories,
        )
    if isinstance(ranker, ScoringRanker) and hasattr(ranker.scorer, "candidate_scores"):
        kind = "cosine" if isinstance(ranker, NearestItems) else "score"
        return ZeroShotModel(
            ranker.name,
            lambda rows: {kind: score_in_batches(ranker.score, rows, limit, batch_size)},
            ranker,
            pretrained_on=() if folder is None else trained_on,
            seed=seed,
            max_history=limit,
        )
    name = getattr(ranker, "name", type(ranker).__name__)
    raise ValueError(f"{name} gives no scores for candidates: zero-shot evaluation cannot judge it.")


def evaluate_zero_shot(
    model: ZeroShotModel,
    domain: str,
    interactions: Interactions,
    rows: CandidateRows,
    max_history: int | None = 20,
    mask_seen: bool = False,
    ks: Sequence[int] = (10,),
    batch_size: int = 64,
    intervals: int = BOOTSTRAP_SAMPLES,
    full_ranking: bool = True,
    per_user: bool = False,
) -> dict[str, Any]:
    """Judges a model on a domain.

    Args:
        model (`ZeroShotModel`): see [`zero_shot_model`].
        domain (`str`): its name.
        interactions (`Interactions`): all of the domain's.
        rows (`CandidateRows`): of [`trainers.evaluation.candidate_rows.draw_rows`], the same for all models to
            compare.
        max_history, mask_seen, ks, batch_size: of the full ranking, see [`trainers.evaluation.protocol.evaluate`].
        intervals (`int`, *optional*, defaults to `BOOTSTRAP_SAMPLES`): bootstrap samples over users of the 95 %
            intervals; 0: none.
        full_ranking (`bool`, *optional*, defaults to `True`): whether to rank the whole catalogue too, for the test
            items.
        per_user (`bool`, *optional*, defaults to `False`): also give each user's AUC, for
            [`trainers.evaluation.significance.paired_test`].

    Returns:
        `dict` of plain values: `"domain"`, `"model"`, `"seed"`, `"gauc"` by the score that `"score"` names and by each
        one (`"gauc_by_score"`), `"recall@k"`, `"ndcg@k"`, ... (None where a model does not rank the catalogue),
        `"intervals"`, what it was trained on (`"pretrained_on"`, None where a model does not say;
        `"seen_in_pretraining"`: `"seen"`, `"unseen"` or `"unknown"`; `"uses_domain"`), all choices and counts of the
        rows and, under `"full_ranking"`, the protocol of the latter.
    """
    scores = model.score(rows)
    users, auc = auc_by_user(rows.users, next(iter(scores.values())), rows.labels)
    by_score = {name: float(auc_by_user(rows.users, each, rows.labels)[1].mean()) for name, each in scores.items()}
    result: dict[str, Any] = {"domain": domain, "model": model.name, "seed": model.seed, "gauc": float(auc.mean())}
    bounds = dict(bootstrap_intervals({"gauc": auc}, users, intervals)) if intervals else {}
    protocol = None
    if full_ranking and model.ranker is not None:
        found = evaluate(
            model.ranker,
            interactions,
            mask_seen=mask_seen,
            max_history=max_history,
            ks=ks,
            batch_size=batch_size,
            long_tail=False,
            intervals=intervals,
        )
        result |= {name: value for name, value in found.items() if "@" in name}
        bounds |= found.get("intervals", {})
        protocol = {name: found[name] for name in (*RANKING_FACTS, "num_users")}
    else:
        result |= dict.fromkeys(metric_names(ks))
    trained_on, seen = model.pretrained_on, "unknown"
    if trained_on is not None:
        seen = "seen" if domain in trained_on else "unseen"
    result |= {
        "intervals": {name: list(pair) for name, pair in bounds.items()},
        "num_bootstrap": intervals,
        "score": next(iter(scores)),
        "gauc_by_score": by_score,
        "pretrained_on": None if trained_on is None else list(trained_on),
        "seen_in_pretraining": seen,
        "uses_domain": model.uses_domain,
        "max_history": model.max_history,
        "prior_histories": model.prior_histories,
        **rows.facts(),
        "full_ranking": protocol,
    }
    if per_user:
        result["per_user"] = {"users": users, "targets": rows.user_digests(), "gauc": auc}
    return result


def training_of(folder: str | Path | None, given: Sequence[str] | None = None) -> tuple[list[str] | None, int | None]:
    """Domains whose interactions a model was trained on, as given (`["none"]`: on none) or as the card's values in
    its folder say, None if they do not; and the seed that they tell."""
    values = None if folder is None else load_values(folder)
    seed = None if values is None else dict(getattr(values, "hyperparameters", {})).get("seed")
    if given is not None:
        return [name for name in given if name != "none"], seed
    rows = () if values is None else getattr(values, "training_data", ())
    return [row["Domain"] for row in rows if "Domain" in row and row.get("Interactions") != 0] or None, seed


def items_folder(folder: str | Path, domain: str, given: str | Path | None = None) -> Path | None:
    """Folder with the index of a domain's items for a recommender: the one given, None for the recommender's own, or
    what `utgrec pretrain` wrote for a domain of the pre-training, `items/<domain>` beside the recommender.

    Raises:
        FileNotFoundError: there is none.
    """
    if given is not None:
        return Path(given)
    if (Path(folder) / CODES_NAME).exists():
        return None
    beside = Path(folder).absolute().parent / "items" / domain
    if (beside / CODES_NAME).exists():
        return beside
    raise FileNotFoundError(
        f"{folder} has no semantic IDs of the items of {domain}: make them with `utgrec tokenize` and the "
        "item tokenizer that the recommender was trained with, and give that folder as --items."
    )


def render_zero_shot(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: of every domain the results of models that have not seen it apart from those of models that have.
    Several seeds of a model share a line: means, and the interval over the users of the first."""
    blocks = []
    for domain in dict.fromkeys(result["domain"] for result in results):
        for seen, title in SEEN.items():
            found = [r for r in results if (r["domain"], r["seen_in_pretraining"]) == (domain, seen)]
            lines = dict.fromkeys(tuple(result.get(name) for name in LINE) for result in found)
            rows = [
                _table_row([result for result in found if tuple(result.get(name) for name in LINE) == line])
                for line in lines
            ]
            if rows:
                blocks.append(f"### {domain}, {title}\n\n{markdown_table(rows)}")
    return "\n\n".join(blocks)


def _table_row(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = seeds[0]
    low, high = first["intervals"].get("gauc", (None, None))
    row = {name: first[name] for name in LINE if name in first} | {"seeds": len(seeds)}
    row |= {"gauc": _mean(seeds, "gauc"), "gauc, 95 %": None if low is None else f"{low:.4f}–{high:.4f}"}
    row |= {name: _mean(seeds, name) for name in ("recall@10", "ndcg@10") if name in first}
    others = [name for name in first["gauc_by_score"] if name != first["score"]]
    row |= {f"gauc {name}": float(np.mean([each["gauc_by_score"][name] for each in seeds])) for name in others}
    return row | {"rows": first["num_rows"], "users": first["num_users"]}


def _mean(seeds: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return None if any(seed[name] is None for seed in seeds) else float(np.mean([seed[name] for seed in seeds]))


def _popularity_of_others(interactions: Interactions, rows: CandidateRows) -> dict[str, np.ndarray]:
    """Training interactions of each row's item, without those of its own user: they would tell the label."""
    training = interactions.training_part()
    place = {user: row for row, user in enumerate(training.user_ids)}
    own = np.array([place.get(interactions.user_ids[user], -1) for user in rows.users])
    owners = np.repeat(np.arange(training.num_users), training.lengths)
    keys, counts = np.unique(owners * training.num_items + training.items, return_counts=True)
    wanted = own * training.num_items + rows.items
    found = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    mine = np.where((own >= 0) & (keys[found] == wanted), counts[found], 0) if len(keys) else 0
    return {"count": (training.popularity[rows.items] - mine).astype(np.float64)}
