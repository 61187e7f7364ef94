"""Commands in small, each with what it needs: those that the harness kills and whose disk it breaks."""

import csv
import json
from pathlib import Path

from trainers import Recommender
from trainers.data.synthetic import PRETRAINING_DOMAINS

from .killer import Command, Killer

SAVING = (
    "max_steps: 6, save_strategy: steps, save_steps: 2, save_total_limit: 2, logging_steps: 1, use_cpu: true, "
    "disable_tqdm: true, report_to: none"
)
JUDGED = f"eval_strategy: steps, eval_steps: 2, load_best_model_at_end: true, {SAVING}"
TINY = f"""
sequential: {{hidden_size: 8, max_history: 5, per_device_train_batch_size: 16, {JUDGED}}}
tokenizer: {{codebook_size: 8, {SAVING}}}
recommender: {{d_model: 8, d_ff: 8, d_kv: 4, num_heads: 2, num_layers: 1, max_history: 5, num_beams: 10,
              per_device_train_batch_size: 32, {JUDGED}}}
item_level: {{hidden_size: 8, num_layers: 1, max_history: 5, num_beams: 10, {JUDGED}}}
"""
PRETRAINING = {
    "utgrec": f"""
tokenizer: {{image_size: 16, root_codebook_size: 16, leaf_codebook_size: 24, codebook_dim: 8,
            adapter_hidden_size: 16, max_text_tokens: 12, denoiser_width: 16, codebook_warmup_steps: 1,
            per_device_train_batch_size: 16, {SAVING}}}
recommender: {{d_model: 16, d_ff: 16, d_kv: 8, num_heads: 2, num_layers: 1, num_beams: 10, max_history: 5,
              per_device_train_batch_size: 128, {SAVING}}}
""",
    "recbase": f"""
model: recbase
tokenizer: {{text_encoder: tiny, num_levels: 3, codebook_size: 8, codebook_dim: 8, hidden_sizes: [16],
            curriculum_epochs: 0, {SAVING}}}
recommender: {{size: tiny, warm_start: true, hidden_size: 16, intermediate_size: 16, head_dim: 8, num_beams: 10,
              num_attention_heads: 2, max_history: 5, per_device_train_batch_size: 32, {SAVING}}}
""",
}
QUALITY = Path(__file__).parents[2] / "examples" / "benchmarks" / "quality.py"
CHECKPOINTS = Path(__file__).parents[1] / "checkpoints" / "version_0_1"


def training(killer: Killer, data: Path, model: str, *flags: str) -> Command:
    argv = ["train-baseline", "--model", model, "--config", str(killer.folder / "tiny.yaml"), "--data", str(data)]
    return Command(f"train-baseline --model {model}", [*argv, "--output_dir", "{out}", *flags], again=["--resume"])


def pretraining(killer: Killer, data: Path, model: str) -> Command:
    config = killer.folder / f"{model}.yaml"
    config.write_text(PRETRAINING[model])
    argv = ["pretrain", "--config", str(config), "--output_dir", "{out}", "--data"]
    argv += [str(data.parent / name) for name in PRETRAINING_DOMAINS]
    return Command(f"pretrain --model {model}", argv, again=["--resume"])


def judging(killer: Killer, data: Path) -> Command:
    """The quality table of two models, whose lines are appended to one file; what has lines is not made again."""
    argv = [str(QUALITY), "--domains", str(data), "--models", "popularity", "linear", "s3-rec-scratch"]
    argv += ["--text_encoder", "tf-idf", "--no_memory", "--max_history", "5", "--patience", "1"]
    return Command("quality", [*argv, "--results", "{out}/quality.jsonl", "--work_dir", "{out}/work"])


def preparing(killer: Killer) -> Command:
    source = killer.folder / "recbole"
    source.mkdir(exist_ok=True)
    rows = [
        f"u{user}\ti{item}\t{1_600_000_000 + 1000 * user + item}"
        for user in range(40)
        for item in range(user % 3, 30, 2)
    ]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (source / "x.inter").write_text("\n".join([header, *rows]) + "\n")
    items = [f"i{item}\tItem {item}" for item in range(30)]
    (source / "x.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *items]) + "\n")
    argv = ["prepare", "--format", "recbole", "--input", str(source), "--co_occurrence", "--output_dir", "{out}"]
    return Command("prepare", argv)


def embedding(data: Path) -> Command:
    return Command("embed", ["embed", "--data", str(data), "--encoder", "tf-idf", "--output_dir", "{out}"])


def remembering(data: Path, recommender: Path) -> Command:
    """A memory for a recommender, whose folder is changed."""
    argv = ["memory", "--recommender", "{out}", "--data", str(data), "--num_beams", "10"]
    return Command("memory", argv, given=recommender)


def daily_update(killer: Killer) -> Command:
    """Of a quick start's folder, whose index, memory and journal change together."""
    words = ["red", "blue", "steel", "oak", "glass", "paper", "soft", "large"]
    goods = [{"sku": f"s{row}", "name": f"{words[row % 8]} {words[row // 8 % 8]} thing"} for row in range(48)]
    bought = [{"who": f"c{user}", "sku": f"s{(user + 3 * step) % 40}", "when": step} for user in range(40)
              for step in range(5)]  # fmt: skip
    shop = killer.folder / "shop"
    if not shop.is_dir():
        Recommender.from_interactions(bought, goods[:40]).save_pretrained(shop)
    (killer.folder / "products.jsonl").write_text("".join(json.dumps(row) + "\n" for row in goods[4:]))
    argv = ["tokenize", "--tokenizer", "{out}", "--data", str(killer.folder / "products.jsonl"), "--remove_missing"]
    return Command("tokenize, in place", argv, given=shop)


def tokenizing(processes: int) -> Command:
    argv = ["tokenize", "--use_cpu", "--tokenizer", str(CHECKPOINTS / "utgrec_tokenizer_text")]
    argv += ["--output_dir", "{out}", "--data", str(CHECKPOINTS / "items"), "--batch_tokens", "64"]
    name = "tokenize" if processes == 1 else f"tokenize, {processes} processes"
    return Command(name, [*argv, "--allow_collapsed_codes"], again=["--overwrite"], processes=processes)


def quick_start(killer: Killer) -> Command:
    """Of orders and products as a shop has them."""
    rows = [[f"K{user}", f"A-{(user + 4 * step) % 20}", f"{1 + step:02}.02.2024 10:00"] for user in range(60)
            for step in range(3 + user % 4)]  # fmt: skip
    goods = [[f"A-{row}", f"Pen {row % 4} green {row}", f"{row},50"] for row in range(22)]
    for name, head, values in (("orders", ["who", "sku", "when"], rows), ("goods", ["sku", "name", "price"], goods)):
        with open(killer.folder / f"{name}.csv", "w", newline="") as file:
            csv.writer(file, delimiter=";").writerows([head, *values])
    files = [str(killer.folder / "orders.csv"), str(killer.folder / "goods.csv")]
    return Command("quickstart", ["quickstart", *files, "--output_dir", "{out}"], again=["--overwrite"])
