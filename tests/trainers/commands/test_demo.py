"""The demo around its trainings: every flag is known, and the table is of what the trainings returned."""

import json
import statistics
from functools import partial

from trainers.commands import demo


def test_table_over_seeds_is_of_the_results(monkeypatch, tmp_path, capsys):
    calls = []

    def pretrain(arguments, network, tokenizer, architecture, training):
        calls.append((arguments, tokenizer, training))

    def finetune(arguments, network, tokenizer, architecture, training):
        calls.append((arguments, tokenizer, training))
        row = {"domain": "office", "model": arguments.name, "seed": arguments.seed}
        return row | dict.fromkeys(demo.METRICS, len(calls) / 100)

    monkeypatch.setattr(demo.pretrain, "run", pretrain)
    monkeypatch.setattr(demo.finetune, "run", finetune)
    monkeypatch.setattr(demo.recommend, "run", lambda arguments: print("recommender:", arguments.recommender))
    monkeypatch.setattr(demo, "write_all", partial(demo.write_all, num_items=64, num_users=60))
    demo.run(demo.DemoArguments(str(tmp_path), seeds=2))

    before, scratch, finetuned = calls[:3]
    assert [arguments.seed for arguments, *_ in calls] == [0] * 3 + [1] * 3
    assert len(before[0].data) == 3 and scratch[0].pretrained is None
    assert finetuned[0].pretrained == str(tmp_path / "seed-0" / "pretrained") == before[0].output_dir
    # each way keeps its best epoch, as the validation items say
    assert scratch[2].load_best_model_at_end and finetuned[2].load_best_model_at_end
    assert (scratch[1].num_train_epochs, finetuned[1].num_train_epochs) == (12, 4)
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [row["model"] for row in rows[:5]] == [
        "popularity",
        "item-transitions",
        "linear",
        "from scratch",
        "with pre-training",
    ]
    assert [row["seed"] for row in rows] == [0] * 5 + [1] * 5
    printed = capsys.readouterr().out
    mean, deviation = statistics.mean([0.02, 0.05]), statistics.stdev([0.02, 0.05])
    assert f"| from scratch | {mean:.4f} ± {deviation:.4f} |" in printed.partition("Mean over 2 seeds")[2]
    assert f"recommender: {tmp_path / 'seed-0' / 'pretrained-finetuned' / 'recommender'}" in printed
