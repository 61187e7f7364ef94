"""Folders with their cards, and the repositories that they go to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from huggingface_hub import DatasetInfo, HfApi, ModelInfo, SpaceInfo
from huggingface_hub.errors import EntryNotFoundError

from hub_cards import (
    CARD_FILE,
    EVAL_RESULTS_FILE,
    VALUES_FILE,
    Card,
    eval_results_text,
    is_edited,
    render_card,
    values_text,
    write_eval_results,
    write_text,
)
from hub_cards.named import named
from hub_cards.plots import FOLDER as PLOTS
from hub_cards.plots import TITLES as PLOT_TITLES
from tokenization_items.hub_folders import HTTP_ERROR
from trainers.hub.endpoint import endpoint_files, write_endpoint
from trainers.hub.upload import Plan, PublishingError, format_bytes, plan_folder, send_folder


@dataclass
class Publication:
    """
    A folder and the repository that it goes to.

    Args:
        folder (`str`): the folder.
        repo_id (`str`): the repository.
        values ([`~hub_cards.Card`]): what the card says.
        plan ([`Plan`]): what would be sent, the card among it.
        card (`str`): the card as it would be sent now.
    """

    folder: str
    repo_id: str
    values: Card
    plan: Plan = field(init=False)
    card: str = field(init=False)

    def __post_init__(self):
        self.plan = plan_folder(self.folder)
        path = Path(self.folder) / CARD_FILE
        self.card = self.render(path.read_text(encoding="utf-8") if path.is_file() else None)
        texts = {CARD_FILE: self.card, VALUES_FILE: values_text(self.values), **endpoint_files(self.folder)}
        if results := eval_results_text(self.values):
            texts[EVAL_RESULTS_FILE] = results
        sizes = dict(self.plan.files) | {name: len(text.encode()) for name, text in texts.items()}
        self.plan.files = sorted(sizes.items())

    def render(self, old: str | None) -> str:
        """The card, with what people changed in `old`. Raises [`CardError`] if the Hub would not take it."""
        plots = {title: f"{PLOTS}/{name}" for name, title in PLOT_TITLES.items()}
        plots = {title: path for title, path in plots.items() if (Path(self.folder) / path).is_file()}
        return render_card(self.values, plots, old)

    def __str__(self) -> str:
        return f"{self.folder} -> {self.values.repo_type} {self.repo_id}\n{self.plan}"


def publish(
    publication: Publication, public: bool, message: str, network: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """
    Sends a folder; run again after an interruption, it goes on with what is not there yet.

    Args:
        publication (`Publication`): what and where.
        public (`bool`): whether the world may see the repository. A private repository that is there stays private.
        message (`str`): of the commit.
        network (`Mapping[str, str]`, *optional*): see [`send_folder`].

    Returns:
        What happened, in a line, and the commit.

    Raises:
        PublishingError: if no user is logged in, or the repository cannot be created or written, or is public and
            should not be.
    """
    api, repo_id, kind = HfApi(), publication.repo_id, publication.values.repo_type
    try:
        sdk = "gradio" if kind == "space" else None
        url = api.create_repo(repo_id, repo_type=kind, private=not public, exist_ok=True, space_sdk=sdk)
        private = api.repo_info(repo_id, repo_type=kind).private
        if not private and not public:
            raise PublishingError(f"{repo_id} is there and public: give --public, or another name.")
        text = publication.render(_card_to_keep(api, publication))
        write_text(Path(publication.folder) / CARD_FILE, text)
        write_text(Path(publication.folder) / VALUES_FILE, values_text(publication.values))
        write_endpoint(publication.folder)
        write_eval_results(publication.folder, publication.values)
        plan = plan_folder(publication.folder)
        send_folder(publication.folder, repo_id, message, kind, network=network)
        info = cast(ModelInfo | DatasetInfo | SpaceInfo, api.repo_info(repo_id, repo_type=kind))
        missing = {name for name, _ in plan.files} - {file.rfilename for file in info.siblings or ()}
    except HTTP_ERROR as error:
        raise PublishingError(
            f"{repo_id} could not be written: {error}. Try again, or log in with `hf auth login` as a user with write "
            "access."
        ) from error
    if missing:
        raise PublishingError(f"{repo_id} lacks {named(sorted(missing))} after the push: push again.")
    assert info.sha is not None
    seen_by = "private" if private else "public"
    return f"{url} ({seen_by}): {len(plan.files)} files, {format_bytes(plan.num_bytes)}", info.sha


def _card_to_keep(api: HfApi, publication: Publication) -> str | None:
    """The card whose changes are kept: the folder's if it has any, else the repository's."""
    path = Path(publication.folder) / CARD_FILE
    local = path.read_text(encoding="utf-8") if path.is_file() else None
    if local is not None and is_edited(local):
        return local
    try:
        file = api.hf_hub_download(publication.repo_id, CARD_FILE, repo_type=publication.values.repo_type)
        return Path(file).read_text(encoding="utf-8")
    except EntryNotFoundError:
        return local
