"""Recall, NDCG, MRR, coverage, Gini and novelty of ranked items as an `evaluate` module, loaded by its path:

    item_ranking = evaluate.load("trainers/evaluation/item_ranking")
    item_ranking.compute(predictions=[[3, 1, 2], [0, 5, -1]], references=[1, 4], ks=[1, 3])

The numbers are those of `trainers.evaluation.metrics`; this file only translates.
"""

import datasets
import evaluate
import numpy as np

# indented, so that `evaluate` does not take the packages of this repository for something to install from PyPI
try:
    from trainers.evaluation.metrics import catalogue_metrics, check_cutoffs, ranking_metrics, recommendation_counts
except ImportError as error:
    raise ImportError(
        "The item_ranking metric needs the package that it comes with, and that is not installed here: run "
        f"`pip install -e .` in a clone of its repository ({error})."
    ) from error

_DESCRIPTION = """\
Ranking metrics of recommendations with one relevant item per case, counted on items. Recall@k is 1 when the target is
among the first k items, NDCG@k is 1 / log2(place + 2) and MRR@k 1 / (place + 1) with the best place 0; means over the
cases. Coverage@k is the share of the catalogue that is recommended at all, Gini@k how unevenly, and novelty@k the
mean self-information (bits) of a recommended item's share of the training interactions."""

_INPUTS = """
Args:
    predictions (list of list of int): ranked item rows, best first, each item once; -1 for nothing; at least max(ks)
        of them for every case.
    references (list of int): the item row that is relevant in each case.
    ks (list of int, optional, defaults to [5, 10]): cut-offs.
    popularity (list of int, optional): training interactions of every item of the catalogue; with it coverage, Gini
        and novelty are given too.

Returns:
    dict: "recall@k", "ndcg@k" and "mrr@k", and "coverage@k", "gini@k" and "novelty@k", for every k.

Example:

    >>> metric = evaluate.load("trainers/evaluation/item_ranking")
    >>> metric.compute(predictions=[[3, 1], [0, 5]], references=[1, 4], ks=[2])
    {'recall@2': 0.5, 'ndcg@2': 0.31546487678572877, 'mrr@2': 0.25}
"""


class ItemRanking(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("int64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, ks=(5, 10), popularity=None) -> dict[str, float | None]:
        check_cutoffs(ks)
        lengths = {len(row) for row in predictions}
        if min(lengths) < max(ks):
            raise ValueError(
                f"Cut-offs {list(ks)} need lists of {max(ks)} items, one has {min(lengths)}: pad with -1."
            )
        ranked = np.array([row[: max(ks)] for row in predictions], np.int64)
        result: dict[str, float | None] = dict(ranking_metrics(ranked, np.asarray(references), ks))
        if popularity is not None:
            popularity = np.asarray(popularity)
            for k in ks:
                counts = recommendation_counts(ranked[:, :k], len(popularity))
                result |= {f"{name}@{k}": value for name, value in catalogue_metrics(counts, popularity).items()}
        return result
