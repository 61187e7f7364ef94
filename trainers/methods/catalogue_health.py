"""Health of an item tokenizer on the catalogues at hand, and its place in the tokenizer's card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hub_cards import ModelCardValues, load_values, save_card
from tokenization_items.catalogue import Catalogue
from tokenization_items.collision_report import AssignmentReport
from tokenization_items.network_reference import Network
from trainers.data.domains import Domain
from trainers.data.interactions import Interactions
from trainers.data.item_attributes import read_attributes
from trainers.evaluation.tokenizer_health import tokenizer_health, vectors_of_items
from trainers.hub.model_facts import health_facts


def catalogue_health(
    network: Network,
    report: AssignmentReport,
    catalogue: Catalogue,
    interactions: Interactions | None = None,
    folder: str | Path | None = None,
) -> dict[str, Any]:
    """
    [`tokenizer_health`] of a catalogue that was just given its codes, by all that is known of its items.

    Args:
        network: the item tokenizer's.
        report ([`AssignmentReport`]): of the whole catalogue, in its order, with `residuals`.
        catalogue ([`Catalogue`]): the items.
        interactions ([`Interactions`], *optional*): of users with them, in their order.
        folder (`str` or `Path`, *optional*): data folder with the items' attributes.
    """
    attributes = None
    if folder is not None and Path(folder).is_dir():
        try:
            attributes = read_attributes(folder, catalogue.item_ids).rows
        except ValueError:  # no item has any
            pass
    assert report.residuals is not None
    return tokenizer_health(
        report.given_codes,
        network.config.level_sizes,
        catalogue.texts,
        attributes,
        vectors_of_items(network, report.given_codes, report.residuals),
        interactions,
    )


def health_of_domains(
    network: Network,
    reports: Mapping[str, AssignmentReport],
    catalogues: Sequence[Catalogue],
    domains: Sequence[Domain] = (),
) -> dict[str, dict[str, Any]]:
    """[`catalogue_health`] of several catalogues by their names; `domains` are those of which more is known."""
    known = {domain.name: (domain.interactions, domain.folder) for domain in domains}
    return {
        each.name: catalogue_health(network, reports[each.name], each, *known.get(each.name, ()))
        for each in catalogues
    }


def tell_health(folder: str | Path, health: Mapping[str, Mapping[str, Any]], keep_others: bool = False) -> None:
    """Writes the health on each catalogue, by its name, into the card of an item tokenizer, if it has one; beside that
    on other catalogues that the card tells of, or in its place."""
    values = load_values(folder)
    if isinstance(values, ModelCardValues):
        facts = health_facts(health)
        if keep_others:
            for name, rows in facts.items():
                facts[name] = [row for row in getattr(values, name) or [] if row["Catalogue"] not in health] + rows
        save_card(folder, replace(values, **facts))
