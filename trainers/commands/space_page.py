"""The page of `utgrec space` in gradio: which component shows which view."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

from hub_cards.fragments import fragment, style_sheet
from trainers.commands import space_views as views
from trainers.methods.explorer import MOST_CHARACTERS, MOST_RECOMMENDED, Explorer

FONTS = ("Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")  # of the reader's machine: none is fetched
MONOSPACE = ("Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
EXAMPLES = 10_000  # seeds of example histories
WAITING = 64  # questions that may wait for an answer


def launch_settings() -> dict[str, Any]:
    """Arguments of `launch` that the page needs: its looks, and that nothing leaves this machine."""
    import gradio as gr

    theme = gr.themes.Default(primary_hue="indigo", secondary_hue="indigo", font=FONTS, font_mono=MONOSPACE)
    settings = {
        "theme": theme,
        "head": f"<style>{style_sheet()}</style>",  # as `css` it would lose what is for phones
        "footer_links": [],
        "ssr_mode": False,
        "mcp_server": False,
        "run_history": False,
        "enable_monitoring": False,
        "show_error": False,
        "max_file_size": "10mb",
        "quiet": True,
    }
    known = inspect.signature(gr.Blocks.launch).parameters  # earlier releases lack some, and what they switch off
    return {name: value for name, value in settings.items() if name in known}


def build_page(explorer: Explorer, name: str) -> Any:
    """
    The page.

    Args:
        explorer ([`Explorer`]): what answers.
        name (`str`): what stands at the top.

    Returns:
        `gradio.Blocks`, to be launched with [`launch_settings`].
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    import gradio as gr

    # One question at a time asks the network, and none is part of an interface for programs.
    event: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "recommender", "concurrency_limit": 1}
    with gr.Blocks(title=name, analytics_enabled=False, fill_width=True) as page:
        gr.HTML(views.introduction(explorer, name))
        with gr.Tabs():
            with gr.Tab("Recommend"):
                _recommendations(explorer, event)
            with gr.Tab("Semantic IDs"):
                _tree(explorer, event, page)
            with gr.Tab("New product"):
                _new_product(explorer, event)
            with gr.Tab("Health") as tab:
                shown = gr.HTML(fragment("note", text="Counting …"))
                tab.select(cache(partial(views.health, explorer)), None, shown, **event)
    return page.queue(max_size=WAITING)


def _recommendations(explorer: Explorer, event: dict[str, Any]) -> None:
    import gradio as gr

    short = {"max_length": MOST_CHARACTERS}
    rules = explorer.recommender.rules
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            query = gr.Textbox("", label="Find items", placeholder="words of a title, or an id", max_length=200)
            hits = gr.Radio([], label="Add to the history", visible=False, elem_classes="u-rows")
            history = gr.Textbox(
                "",
                label="History: item ids, the oldest first",
                lines=4,
                max_lines=12,
                placeholder="one in a line",
                **short,
            )
            with gr.Row():
                clear = gr.Button("Clear", min_width=80)
                example = gr.Button("Example", min_width=80)
                ask = gr.Button("Recommend", variant="primary", min_width=120)
            with gr.Accordion("Rules", open=False):
                number = gr.Slider(1, MOST_RECOMMENDED, value=10, step=1, label="Items")
                exclude = gr.Checkbox(rules.exclude_seen, label="Never items of the history")
                allow = gr.Textbox("", label="Only these items (ids; empty: all)", lines=2, max_lines=6, **short)
                deny = gr.Textbox("", label="Never these items (ids)", lines=2, max_lines=6, **short)
        with gr.Column(scale=3, min_width=300):
            shown = gr.HTML(fragment("note", text="Find items or paste their ids, then ask for recommendations."))

    def search(text: str) -> Any:
        choices = views.found(explorer, text)
        label = "Add to the history" if choices else "Nothing found"
        return gr.Radio(choices=choices, value=None, label=label, visible=bool(text.strip()))

    def add(item_id: str | None, text: str) -> tuple[str, Any]:
        lines = [*text.splitlines(), item_id] if item_id else text.splitlines()
        return "\n".join(lines), gr.Radio(value=None)

    def recommend(text: str, items: int, seen: bool, only: str, never: str) -> str:
        return views.recommendations(explorer, text, items, seen, only, never)

    def draw(seed: int, items: int, seen: bool, only: str, never: str) -> tuple[str, str, int]:
        text = "\n".join(explorer.example_history(seed))
        return text, recommend(text, items, seen, only, never), (seed + 1) % EXAMPLES

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    asked = [number, exclude, allow, deny]
    query.change(search, query, hits, trigger_mode="always_last", **quiet)
    hits.input(add, [hits, history], [history, hits], **quiet)
    clear.click(lambda: ("", fragment("note", text="")), None, [history, shown], **quiet)
    ask.click(recommend, [history, *asked], shown, **event)
    seed = gr.State(0)
    example.click(draw, [seed, *asked], [history, shown, seed], **event)


def _tree(explorer: Explorer, event: dict[str, Any], page: Any) -> None:
    import gradio as gr

    with gr.Row(equal_height=True):
        place = gr.Textbox(
            "",
            label="Go to",
            placeholder="codes such as 3 17, or an item's id",
            max_length=200,
            scale=4,
            min_width=260,
        )
        up = gr.Button("Up", min_width=90, elem_classes="u-beside")
        top = gr.Button("Whole tree", min_width=120, elem_classes="u-beside")
    path = gr.HTML()
    with gr.Row():
        with gr.Column(min_width=300):
            branches = gr.Radio([], label="Branches", elem_classes="u-rows")
            with gr.Row():
                before = gr.Button("Larger branches", size="sm", min_width=110, visible=False)
                after = gr.Button("Smaller branches", size="sm", min_width=110, visible=False)
        with gr.Column(min_width=300):
            items = gr.HTML()
    state = gr.State(((), 0))
    outputs = [state, branches, path, items, before, after]

    def show(view: views.TreeView) -> list[Any]:
        last = view.start + len(view.choices)
        label = f"Branches {view.start + 1:,} to {last:,} of {view.total:,}" if view.total else "No branches"
        return [
            (view.prefix, view.start),
            gr.Radio(choices=view.choices, value=None, label=label),
            view.path,
            view.items,
            gr.Button(visible=view.start > 0),
            gr.Button(visible=last < view.total),
        ]

    def go(text: str | None) -> list[Any]:
        return show(views.located(explorer, text or ""))

    def enter(codes: str | None) -> list[Any]:
        return show(views.tree_view(explorer, [int(code) for code in (codes or "").split()]))

    def rise(at: tuple[Sequence[int], int]) -> list[Any]:
        return show(views.tree_view(explorer, at[0][:-1]))

    def turn(step: int, at: tuple[Sequence[int], int]) -> list[Any]:
        return show(views.tree_view(explorer, at[0], max(0, at[1] + step)))

    place.submit(go, place, outputs, **event)
    branches.input(enter, branches, outputs, **event)
    up.click(rise, state, outputs, **event)
    top.click(lambda: enter(""), None, outputs, **event)
    before.click(partial(turn, -views.BRANCHES), state, outputs, **event)
    after.click(partial(turn, views.BRANCHES), state, outputs, **event)
    page.load(lambda: enter(""), None, outputs, **event)


def _new_product(explorer: Explorer, event: dict[str, Any]) -> None:
    import gradio as gr

    names = explorer.recommender.tokenizer.text_fields
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            fields = [
                gr.Textbox(
                    "", label=each.replace("_", " ").capitalize(), lines=2, max_lines=8, max_length=MOST_CHARACTERS
                )
                for each in names
            ]
            picture = gr.Image(label="Picture", type="pil", sources=["upload"], visible=explorer.reads_images)
            ask = gr.Button("Show its codes", variant="primary")
        with gr.Column(scale=3, min_width=300):
            shown = gr.HTML(fragment("note", text="Describe a product that the recommender does not know."))

    def tokenize(image: Any, *texts: str) -> str:
        return views.new_product(explorer, dict(zip(names, texts, strict=True)), image)

    ask.click(tokenize, [picture, *fields], shown, **event)


__all__ = ["build_page", "launch_settings"]
