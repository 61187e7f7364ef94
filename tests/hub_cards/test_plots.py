"""The training log as rows and as pictures."""

import builtins

from PIL import Image

from hub_cards import TokenizerCardValues, save_card
from hub_cards.plots import write_plots
from hub_cards.training_log import log_rows, series

LOGS = [
    {"step": 10, "epoch": 0.5, "loss": 8.0, "loss/co_text": 4.0, "codes/used_0": 0.5, "codes/perplexity_0": 3.0},
    {"step": 10, "epoch": 0.5, "eval_ndcg@10": 0.1, "eval_runtime": 3.0, "eval_ndcg@5": 0.05},
    {"step": 20, "epoch": 1.0, "loss": 6.0, "loss/co_text": 3.0, "codes/used_0": 0.75, "codes/perplexity_0": 4.0},
    {"step": 20, "epoch": 1.0, "eval_ndcg@10": 0.2, "eval_loss": 5.5},
    {"step": 20, "epoch": 1.0, "train_runtime": 9.0, "train_loss": 7.0},
]


def test_rows_join_what_was_logged_at_one_step():
    assert log_rows(LOGS) == [
        {"Step": 10, "Epoch": 0.5, "Training loss": 8.0, "co text": 4.0, "Validation NDCG@10": 0.1},
        {
            "Step": 20,
            "Epoch": 1.0,
            "Training loss": 6.0,
            "co text": 3.0,
            "Validation NDCG@10": 0.2,
            "Validation loss": 5.5,
        },
    ]
    assert log_rows([]) == log_rows([{"step": 1, "train_runtime": 3.0}]) == []


def test_a_long_log_is_thinned_and_keeps_its_ends():
    rows = log_rows([{"step": step, "loss": 1.0} for step in range(1, 1001)])
    steps = [row["Step"] for row in rows]
    assert len(steps) == 20 and steps[0] == 1 and steps[-1] == 1000 and steps == sorted(set(steps))


def test_series():
    assert series(LOGS, "codes/used_") == {"0": ([10, 20], [0.5, 0.75])}
    assert series([{"step": 1, "a": float("nan")}, {"step": 2, "a": "x"}, {"step": 3, "a": True}], "a") == {}


def test_pictures_are_drawn_and_shown(tmp_path):
    card = save_card(tmp_path, TokenizerCardValues(name="t", codebooks=[{"level": 0}], logs=LOGS)).read_text()
    for name in ("losses", "codes", "validation"):
        assert f"(plots/{name}.png)" in card
        with Image.open(tmp_path / "plots" / f"{name}.png") as image:
            assert image.width > 300 and len(image.convert("L").getcolors()) > 10, "an empty picture"
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "codes.png",
        "losses.png",
        "validation.png",
    ]
    first = (tmp_path / "plots" / "losses.png").read_bytes()
    write_plots(tmp_path, LOGS)
    assert (tmp_path / "plots" / "losses.png").read_bytes() == first


def test_a_log_of_one_entry_has_no_curve(tmp_path):
    assert write_plots(tmp_path, LOGS[:1]) == {} and not (tmp_path / "plots").exists()


def test_without_matplotlib_a_card_has_no_pictures(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    card = save_card(tmp_path, TokenizerCardValues(name="t", logs=LOGS)).read_text()
    assert "![" not in card and "| 10 | 0.5000 |" in card and not (tmp_path / "plots").exists()
