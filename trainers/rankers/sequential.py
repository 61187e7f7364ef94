"""Sequential models as rankers: from histories of item rows to the best item rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from modeling_utgrec import MISSRecForNextItem, SequentialForNextItem
from modeling_utgrec.checkpoint_safety import SAFELY
from tokenization_items.hub_folders import model_folder
from tokenization_items.item_index_files import IDS_NAME
from trainers.rankers.item_rows import check_catalogue, load_item_ids
from trainers.rankers.scoring import CandidateScorer, DotProductScorer, ScoringRanker
from trainers.training_data.sequence_windows import encode_left_padded


@contextmanager
def _without_dropout(model: torch.nn.Module) -> Iterator[None]:
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


class FusedScorer:
    """
    MISSRec's scores, of text and image together, for a range of items at a time.

    Args:
        user_states (`Callable`): B histories of item rows → float `[B, d]`, see [`DotProductScorer`].
        model ([`MISSRecForNextItem`]): whose items are scored, as they are now.

    Attributes:
        item_embeddings (`torch.Tensor`): `[n, modalities, d]`, where scores are computed.
    """

    def __init__(self, user_states: Callable[[Sequence[np.ndarray]], torch.Tensor], model: MISSRecForNextItem):
        self.encode = user_states
        self.model = model
        self.candidates = model.candidates()
        self.item_embeddings = self.candidates.vectors
        self.num_items = len(self.item_embeddings)

    def scores(self, users: torch.Tensor, items: slice) -> torch.Tensor:
        return self.model.scores(users, self.candidates.rows(items)).float()

    def candidate_scores(self, users: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Scores `[B, C]` of a few items of each user, int64 `[B, C]`."""
        return self.model.scores(users, self.candidates.rows(candidates)).float()


class SequentialRanker(ScoringRanker):
    """Ranks items with a sequential model: what [`trainers.evaluation.protocol.evaluate`] asks of any ranker.

    Item embeddings are taken when it is made: make another one after further training.

    Args:
        model (`SequentialForNextItem`): the model, whose catalogue is the one to rank; stays where it is.
        batch_size (`int`, *optional*, defaults to 256): users at a time.
        name (`str`, *optional*): name in result tables, by default the model type.
        item_ids (`Sequence[str]`, *optional*): ids of the items in the order of their rows.

    Example:

    ```python
    >>> ranker = SequentialRanker.from_pretrained("beauty-sasrec")
    >>> rows = ranker.rank([np.array([ranker.item_ids.index("B0000YUXI0")])], k=10)
    >>> [ranker.item_ids[row] for row in rows[0]]
    ```
    """

    def __init__(
        self,
        model: SequentialForNextItem,
        batch_size: int = 256,
        name: str | None = None,
        item_ids: Sequence[str] | None = None,
    ):
        self.model = model
        self.item_ids = item_ids
        with torch.no_grad(), _without_dropout(model):
            vectors = model.item_vectors()  # once for all users
            self._given = {} if vectors is None else {"item_vectors": vectors}
            scorer: CandidateScorer
            if isinstance(model, MISSRecForNextItem):
                scorer = FusedScorer(self._user_states, model)
            else:
                scorer = DotProductScorer(self._user_states, model.candidate_embeddings(vectors), model.item_bias)
        super().__init__(scorer, name or model.config.model_type, model.config.max_history, batch_size)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        item_ids: Sequence[str] | None = None,
        batch_size: int = 256,
        device: str | torch.device | None = None,
        revision: str | None = None,
    ) -> SequentialRanker:
        """Loads a model for the catalogue that it was trained on.

        Args:
            folder (`str` or `Path`): folder or Hub id of a model, as [`SequentialTrainer`] saves it.
            item_ids (`Sequence[str]`, *optional*): the catalogue, in the order of the training; by default as it was
                saved beside the model.
            batch_size (`int`, *optional*, defaults to 256): users at a time.
            device (`str` or `torch.device`, *optional*): where to run; by default the GPU if there is one.
            revision (`str`, *optional*): branch, tag or commit of a model on the Hub.

        Raises:
            ValueError: catalogue and model differ, or no ids are given nor beside the model, as an earlier release
                saved it.
        """
        model = cast(SequentialForNextItem, AutoModelForCausalLM.from_pretrained(folder, revision=revision, **SAFELY))
        known = load_item_ids(model_folder(folder, [IDS_NAME], revision), model.config)
        if item_ids is None and known is None:
            raise ValueError(f"{folder} has no {IDS_NAME}: give item_ids, in the order of the training.")
        item_ids = known if item_ids is None else item_ids
        assert item_ids is not None
        check_catalogue(model.config, len(item_ids), item_ids, known)
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
        return cls(model, batch_size, Path(folder).name, item_ids)

    def _user_states(self, histories: Sequence[np.ndarray]) -> torch.Tensor:
        config = self.model.config
        batch = encode_left_padded(histories, config.num_items, config.max_history)
        inputs = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
        with _without_dropout(self.model):  # whatever the model's mode
            return self.model.user_states(**inputs, **self._given)
