"""Training data of item tokenizers: every item once an epoch, paired with a sampled co-occurring item."""

from collections.abc import Mapping

import numpy as np
import torch
from torch.utils.data import Dataset

from tokenization_items.catalogue import Catalogue
from tokenization_items.domain_mean import domain_mean
from tokenization_items.processing_items import ItemProcessor
from trainers.data.co_occurrence import CoOccurrenceGraph
from trainers.training_data.image_latents import ImageLatents

# Patches of this many bytes of images are kept after their first use, then images are opened anew each time.
IMAGE_CACHE_BYTES = 2 * 2**30


class ItemPairs(Dataset):
    """
    Pairs of items that follow each other in training sequences (UTGRec, section 2.3.2). An element is an item's row
    and its positive's; an item without neighbour is its own positive.

    Args:
        catalogue ([`Catalogue`]): the items of all domains.
        graph ([`CoOccurrenceGraph`]): neighbours in the *training* part of the sequences, rows as in `catalogue`.
        processor ([`ItemProcessor`]): the network's.
        latents ([`ImageLatents`], *optional*): targets of the image reconstruction.
        seed (`int`, *optional*, defaults to 0): of the positives, and of latents that are drawn; they depend on it, on
            the epoch and on a batch's items alone, so that a resumed training sees the same ones.
        domains (`Mapping[str, int]`, *optional*): items of each domain, in the catalogue's order; by default one.

    Raises:
        ValueError: catalogue, graph and domains have not the same items.
        CatalogueError: an item has nothing that the network reads, see [`~ItemProcessor.check_catalogue`].

    Attributes:
        code_states (`torch.Tensor`, *optional*): what a backbone that does not learn gives of every item, see
            [`~UTGRecTokenizerModel.code_states`]; batches have it in place of prompts then.
        domain_means (`torch.Tensor`, *optional*): its mean over each domain, for a network with `centre_domains`;
            batches have that of each item then.
    """

    code_states: torch.Tensor | None = None
    domain_means: torch.Tensor | None = None

    def __init__(
        self,
        catalogue: Catalogue,
        graph: CoOccurrenceGraph,
        processor: ItemProcessor,
        latents: ImageLatents | None = None,
        seed: int = 0,
        domains: Mapping[str, int] | None = None,
    ):
        if len(catalogue) != graph.num_items:
            raise ValueError(f"The catalogue has {len(catalogue)} items, the co-occurrence graph {graph.num_items}.")
        self.domains = {catalogue.name: len(catalogue)} if domains is None else dict(domains)
        if sum(self.domains.values()) != len(catalogue):
            raise ValueError(f"The catalogue has {len(catalogue)} items, the domains {self.domains}.")
        processor.check_catalogue(catalogue)
        self.catalogue = catalogue
        self.graph = graph
        self.processor = processor
        self.latents = latents
        self.seed = seed
        self.texts = processor.encode_texts(catalogue.texts)
        self._images: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._image_bytes = 0
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Samples the positives of an epoch."""
        self.epoch = epoch
        generator = np.random.default_rng([self.seed, epoch])
        self.positives = self.graph.sample(np.arange(len(self)), generator)

    def set_code_states(self, states: torch.Tensor, centre_domains: bool = False) -> None:
        """Keeps what a backbone that does not learn gives of every item, `[items, levels, width]`, and with
        `centre_domains` its mean over each domain.

        Raises:
            ValueError: with `centre_domains`, if one item is all of a domain.
        """
        self.code_states = states
        if centre_domains:
            parts = zip(self.domains, states.flatten(1).split([*self.domains.values()]), strict=True)
            means = [domain_mean(part.numpy(), name) for name, part in parts]
            self.domain_means = torch.from_numpy(np.stack(means)).view(-1, *states.shape[1:])

    def forget_code_states(self) -> None:
        """Batches have prompts again."""
        self.code_states = self.domain_means = None

    def __len__(self) -> int:
        return len(self.catalogue)

    def __getitem__(self, row: int) -> tuple[int, int]:
        return row, int(self.positives[row])

    def image(self, row: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Patches and grid of an item's image, `None` for an item without."""
        if row in self._images:
            return self._images[row]
        image = self.catalogue.image(row)
        if image is None:
            return None
        patches, grid = self.processor.encode_image(image)
        patches = patches.half()
        if self._image_bytes + patches.nbytes <= IMAGE_CACHE_BYTES:
            self._images[row] = (patches, grid)
            self._image_bytes += patches.nbytes
        return patches, grid

    def encoder_inputs(self, items: np.ndarray) -> dict[str, torch.Tensor]:
        """The backbone's inputs for items, given by row, or what it has made of them."""
        if self.code_states is not None:
            inputs = {"code_states": self.code_states[torch.from_numpy(items)]}
            if self.domain_means is not None:
                domains = np.searchsorted(np.cumsum([*self.domains.values()]), items, side="right")
                inputs["domain_means"] = self.domain_means[torch.from_numpy(domains)]
            return inputs
        images = None
        if self.processor.image_processor is not None:
            images = [self.image(int(row)) for row in items]
        return self.processor.collate([self.texts[row] for row in items], images)

    def collate(self, pairs: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """A batch of pairs as inputs of [`UTGRecTokenizerModel`]; an item that occurs twice is there once.

        Besides, `anchor_items` and `positive_items` `[batch]` name the pairs' items by row of the catalogue.
        """
        anchors, positives = np.asarray(pairs, dtype=np.int64).T
        items, places = np.unique(np.concatenate([anchors, positives]), return_inverse=True)
        batch = self.encoder_inputs(items)
        batch["text_labels"] = self.processor.text_labels([self.texts[row] for row in items])
        if self.latents is not None:
            seed = [self.seed, self.epoch, *items.tolist()]
            generator = np.random.default_rng(seed) if self.latents.is_random else None
            batch["image_latents"], batch["has_image"] = self.latents.batch(items, generator)
        batch["anchor_rows"], batch["positive_rows"] = torch.from_numpy(places).view(2, -1)
        batch["anchor_items"], batch["positive_items"] = torch.from_numpy(anchors), torch.from_numpy(positives)
        return batch
