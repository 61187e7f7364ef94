"""The demo around its trainings: every flag is known, and the table is of what the trainings returned."""

import json
import statistics
from functools import partial

from trainers.commands import demo
from trainers.evaluation.metrics import TABLE_METRICS


def test_table_over_seeds_is_of_the_results(monkeypatch, tmp_path, capsys):
    calls = []

    def pretrain(arguments, network, tokenizer, architecture, training):
        calls.append((arguments, tokenizer, training))

    def finetune(arguments, network, tokenizer, architecture, training):
        calls.append((arguments, tokenizer, training))
        row = {"domain": "office", "model": arguments.name, "seed": arguments.seed}
        return row | dict.fromkeys(TABLE_METRICS, len(calls) / 100)

    monkeypatch.setattr(demo.pretrain, "run", pretrain)
    monkeypatch.setattr(demo.finetune, "run", finetune)

    def train_baseline(arguments, *sections):
        calls.append((arguments, None, sections[-1]))
        names = (arguments.name, f"{arguments.name} with memory", "linear")
        return [
            {
                "domain": "office",
                "model": name,
                "seed": arguments.seed,
                **dict.fromkeys(TABLE_METRICS, len(calls) / 50),
            }
            for name in names
        ]

    monkeypatch.setattr(demo.train_baseline, "run", train_baseline)
    monkeypatch.setattr(demo.recommend, "run", lambda arguments: print("recommender:", arguments.recommender))
    monkeypatch.setattr(demo, "write_all", partial(demo.write_all, num_items=64, num_users=60))
    demo.run(demo.DemoArguments(str(tmp_path), seeds=2))

    before, scratch, finetuned, item_level = calls[:4]
    assert [arguments.seed for arguments, *_ in calls] == [0] * 4 + [1] * 4
    assert item_level[0].semantic_ids == str(tmp_path / "seed-0" / "pretrained-finetuned" / "tokenizer")
    assert item_level[0].memory and item_level[2].load_best_model_at_end
    assert len(before[0].data) == 3 and scratch[0].pretrained is None
    assert finetuned[0].pretrained == str(tmp_path / "seed-0" / "pretrained") == before[0].output_dir
    # each way keeps its best epoch, as the validation items say
    assert scratch[2].load_best_model_at_end and finetuned[2].load_best_model_at_end
    assert (scratch[1].num_train_epochs, finetuned[1].num_train_epochs) == (12, 4)
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [row["model"] for row in rows[:7]] == [
        "popularity",
        "item-transitions",
        "linear",
        "from scratch",
        "with pre-training",
        "item-level",
        "item-level with memory",
    ]
    assert [row["seed"] for row in rows] == [0] * 7 + [1] * 7
    printed = capsys.readouterr().out
    mean, deviation = statistics.mean([0.02, 0.06]), statistics.stdev([0.02, 0.06])
    assert f"| from scratch | {mean:.4f} ± {deviation:.4f} |" in printed.partition("Mean over 2 seeds")[2]
    assert f"recommender: {tmp_path / 'seed-0' / 'pretrained-finetuned' / 'recommender'}" in printed
