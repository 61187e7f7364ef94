"""Command lines with sections: what wins, what is named when it is wrong."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from trainers.arguments import CONFIGS, find_config, first_words, format_help, parse_sections, take_flag
from trainers.item_tokenizer_trainer import ItemTokenizerTrainingArguments
from trainers.recommender_trainer import RecommenderTrainingArguments


@dataclass
class Main:
    data: list[str] = field(metadata={"help": "Folders of data."})
    mode: Literal["fast", "slow"] = field(default="fast", metadata={"help": "How."})
    resume: bool = field(default=False, metadata={"help": "Whether to go on."})
    seed: int = field(default=0, metadata={"help": "Seed."})


@dataclass
class Network:
    width: int = field(default=8, metadata={"help": "Width of it."})
    decoder: str | None = field(default="tiny", metadata={"help": "The decoder."})
    scale: float | None = field(default=None, metadata={"help": "A factor."})


@dataclass
class Extra:
    rate: float = field(default=0.5, metadata={"help": "Another rate."})
    shuffle: bool = field(default=True, metadata={"help": "Whether to shuffle."})
    names: list[str] | None = field(default=None, metadata={"help": "Names."})


SECTIONS = {"tokenizer": (Network, Extra), "recommender": (Network,)}


def parse(*argv, sections=None):
    return parse_sections(Main, sections or SECTIONS, "What it does.", argv)


@pytest.fixture
def config(tmp_path):
    def write(text):
        (tmp_path / "config.yaml").write_text(text)
        return str(tmp_path / "config.yaml")

    return write


def test_flags_go_to_their_section():
    main, tokenizer, extra, recommender = parse(
        "--data",
        "a",
        "b",
        "--tokenizer.width",
        "3",
        "--tokenizer.rate",
        "1e-4",
        "--seed",
        "7",
        "--recommender.width",
        "5",
    )
    assert (main.data, main.seed, main.mode, main.resume) == (["a", "b"], 7, "fast", False)
    assert (tokenizer.width, extra.rate, recommender.width) == (3, 1e-4, 5)


def test_flags_with_equals_sign():
    main, tokenizer, extra, recommender = parse(
        "--data=a", "--tokenizer.rate=1e-4", "--seed=4", "--recommender.width=5", "--recommender.decoder=x.y=z"
    )
    assert (main.data, main.seed, extra.rate) == (["a"], 4, 1e-4)
    assert (tokenizer.width, recommender.width, recommender.decoder) == (8, 5, "x.y=z")


def test_a_list_ends_where_another_sections_flag_begins():
    main, _, extra, _ = parse("--tokenizer.names", "x", "y", "--data", "a", "b", "--tokenizer.width", "3")
    assert (main.data, extra.names) == (["a", "b"], ["x", "y"])


@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"]])
def test_the_command_line_wins_over_the_file(config, form):
    file = config("data: [a]\nseed: 3\ntokenizer:\n  width: 30\n  rate: 3e-4\nrecommender:\n  width: 40\n")
    argv = [part.format(file) for part in form]
    main, tokenizer, extra, recommender = parse("--tokenizer.width", "31", *argv, "--data", "b", "c")
    assert (main.data, main.seed) == (["b", "c"], 3)
    assert (tokenizer.width, recommender.width) == (31, 40)
    assert extra.rate == 3e-4 and isinstance(extra.rate, float), "YAML reads 3e-4 as text"


def test_values_of_the_file_keep_their_meaning(config):
    file = config(
        "data: [a, b]\nmode: slow\nresume: true\n"
        "tokenizer:\n  shuffle: false\n  scale: -2.5\n  decoder: 'no'\n  names: [1, x]\nrecommender:\n  scale:\n"
    )
    main, tokenizer, extra, recommender = parse("--config", file)
    assert (main.data, main.mode, main.resume) == (["a", "b"], "slow", True)
    assert (extra.shuffle, tokenizer.scale, tokenizer.decoder, extra.names) == (False, -2.5, "no", ["1", "x"])
    assert recommender.scale is None


def test_an_empty_list_of_the_file(config, capsys):
    assert parse("--data", "a", "--config", config("tokenizer:\n  names: []\n"))[2].names == []
    assert parse("--data", "a")[2].names is None
    with pytest.raises(SystemExit):
        parse("--config", config("data: []\n"))
    assert "argument --data: expected at least one argument" in capsys.readouterr().err


def test_booleans_on_the_command_line():
    assert parse("--data", "a", "--resume")[0].resume is True
    assert parse("--data", "a", "--resume", "false")[0].resume is False
    assert parse("--data", "a", "--tokenizer.shuffle", "no")[2].shuffle is False
    assert parse("--data", "a", "--tokenizer.shuffle=false")[2].shuffle is False


@pytest.mark.parametrize(
    "text, named",
    [
        ("data: [a]\nsede: 1", "sede"),
        ("data: [a]\ntokenizer:\n  widht: 1\n  rate: 1", "tokenizer.widht"),
        ("data: [a]\ntokeniser:\n  width: 1", "tokeniser"),
        ("data: [a]\ntokenizer:\n  decoder:", "tokenizer.decoder .* is empty"),
        ("data: [a]\ntokenizer: 3", "tokenizer in the configuration file"),
        ("- a\n- b", "expected keys"),
        ("data: [a\n", "cannot be read"),
    ],
)
def test_wrong_files_name_the_key(config, text, named):
    with pytest.raises(SystemExit, match=named):
        parse("--config", config(text))


def test_a_config_runs_no_code(config, tmp_path):
    mark = tmp_path / "ran"
    for tag in (f"!!python/object/apply:os.mkdir ['{mark}']", f"!!python/object/new:os.mkdir ['{mark}']", "!!x y"):
        with pytest.raises(SystemExit, match="config.yaml cannot be read: could not determine a constructor"):
            parse("--config", config(f"seed: {tag}"), "--data", "a")
    assert not mark.exists()


def test_missing_file(capsys):
    with pytest.raises(
        SystemExit,
        match="nowhere.yaml: no such file, and none of the packaged .*: .*paper, .*small",
    ):
        parse("--config", "nowhere.yaml", "--data", "a")
    with pytest.raises(SystemExit):
        parse("--data", "a", "--config")
    assert "argument --config: expected one argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    ["small", "small.yaml", "examples/configs/small.yaml", "../examples/configs/small.yaml"],
)
def test_packaged_configurations_are_found_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == CONFIGS / "small.yaml"
    (tmp_path / "small.yaml").write_text("seed: 5")
    assert find_config("small.yaml") == Path("small.yaml"), "a file that is there wins"
    assert find_config("small") == CONFIGS / "small.yaml"


@pytest.mark.parametrize("name", ["configs/small.yaml", "/small.yaml", "nothing", "examples/configs/nothing.yaml"])
def test_other_names_are_no_packaged_configuration(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"--config {name}: no such file"):
        find_config(name)


@pytest.mark.parametrize(
    "argv, named",
    [
        (["--sede", "1"], "--sede 1"),
        (["--tokenizer.widht", "1"], "--tokenizer.widht 1"),
        (["--tokenizer.widht=1"], "--tokenizer.widht=1"),
        (["--tokeniser.width", "1"], "--tokeniser.width"),
        (["--width", "1"], "--width 1"),
    ],
)
def test_unknown_flags_are_named(argv, named):
    with pytest.raises(SystemExit, match=f"Unknown flag: {named}"):
        parse("--data", "a", *argv)


@pytest.mark.parametrize(
    "argv, named",
    [
        ([], "--data"),
        (["--data", "a", "--seed", "x"], "--seed"),
        (["--data", "a", "--mode", "medium"], "medium"),
        (["--data", "a", "--tokenizer.rate", "x"], r"section --tokenizer.*--rate"),
    ],
)
def test_wrong_values_are_named(argv, named, capsys):
    with pytest.raises(SystemExit) as error:
        parse(*argv)
    assert error.value.code == 2
    output = capsys.readouterr().err.replace("\n", " ")
    assert re.search(named, output), output


def test_wrong_value_in_the_file_is_named(config, capsys):
    with pytest.raises(SystemExit):
        parse("--config", config("data: [a]\ntokenizer:\n  width: wide"))
    assert "--width" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, suggestion",
    [
        (["--rate", "1"], "--tokenizer.rate"),
        (["--width", "1"], "--tokenizer.width or --recommender.width"),
        (["--recommender.rate=1"], "--tokenizer.rate"),
        (["--tokenizer.widht", "1"], "--tokenizer.width"),
        (["--tokeniser.scale", "1"], "--tokenizer.scale or --recommender.scale"),
        (["--sede", "1"], "--seed"),
        (["--reserve-none"], None),
    ],
)
def test_the_nearest_flag_is_named(argv, suggestion):
    with pytest.raises(SystemExit) as error:
        parse("--data", "a", *argv)
    said = f". Did you mean {suggestion}? See --help-all." if suggestion else ". See --help-all."
    assert str(error.value) == f"Unknown flag: {' '.join(argv)}{said}"


def test_the_nearest_key_is_named(config):
    with pytest.raises(SystemExit, match="file: width. Did you mean tokenizer.width or recommender.width?"):
        parse("--config", config("data: [a]\nwidth: 3"))


@dataclass
class Shown:
    data: list[str] = field(metadata={"help": "Folders, of\ndata at 95 %%."})
    many: int = field(default=0, metadata={"help": "How many. " + 30 * "word "})
    shuffle: bool = field(default=True, metadata={"help": "Whether to shuffle."})
    mode: Literal["fast", "slow"] | None = field(default=None, metadata={"help": "How."})
    rates: list[float] = field(default_factory=lambda: [0.5, 1.0], metadata={"help": "Rates."})
    names: list[str] = field(default_factory=list, metadata={"help": "Names."})


def test_help_text():
    """Line breaks stay, required flags are marked, defaults are said, also those that are 0."""
    indent = " " * 38
    lines = format_help(
        {"": (Shown,), "net": (Network, Extra)}, "What it does:\n\n    a b \\\n        c\n"
    ).splitlines()
    assert lines[:5] == ["What it does:", "", "    a b \\", "        c", ""]
    assert lines[5:7] == [f"{'  --data TEXT ...':38}(required) Folders, of", f"{indent}data at 95 %."]
    assert lines[7].startswith("  --many N") and lines[9].endswith("word (default: 0)") and len(lines[7]) <= 112
    assert lines[10] == f"{'  --shuffle':38}Whether to shuffle. (default: true; --no_shuffle)"
    assert lines[11] == f"{'  --mode {fast,slow}':38}How."
    assert lines[12] == f"{'  --rates X ...':38}Rates. (default: 0.5 1.0)"
    assert lines[13] == f"{'  --names TEXT ...':38}Names."
    assert lines[15] == f"{'  --net.width N':38}Width of it. (default: 8)"
    assert f"{'  --net.shuffle':38}Whether to shuffle. (default: true; --net.no_shuffle)" in lines
    assert parse("--data", "a", "--tokenizer.no_shuffle")[2].shuffle is False, "the flag that is named"
    assert not any("--help-all" in line for line in lines)
    assert "text_encoder." in lines[-2] and "--log_level" in lines[-1]
    short = format_help({"": (Shown,), "net": (Network,)}, "What.", ("data", "net.scale"))
    flags = [line.split()[0] for line in short.splitlines() if line.startswith("  --")]
    assert flags == ["--data", "--net.scale", "--config", "--log_level", "--help-all"]


@pytest.mark.parametrize("flag, everything", [("--help", False), ("-h", False), ("--help-all", True)])
def test_help(capsys, flag, everything):
    with pytest.raises(SystemExit) as error:
        parse_sections(Main, SECTIONS, "What it does.", ["--data", "a", flag], ("seed", "tokenizer.rate"))
    assert error.value.code == 0
    output = capsys.readouterr().out
    assert output.startswith("What it does.\n\n") and "--seed N" in output and "--tokenizer.rate X" in output
    assert ("--data" in output) == ("--recommender.width N" in output) == everything


def test_a_flag_is_taken_from_a_command_line():
    assert take_flag("--model", ["--data", "--model", "x", "y", "--model=z"]) == ("z", ["--data", "y"])
    assert take_flag("--model", ["--models", "x", "--mode", "y"]) == (None, ["--models", "x", "--mode", "y"])


def test_training_arguments_of_both_trainers(config):
    file = config(
        "data: [a]\n"
        "tokenizer:\n  learning_rate: 1e-4\n  bf16: false\n  save_strategy: 'no'\n"
        "  gradient_checkpointing_kwargs: {use_reentrant: false}\n"
        "recommender:\n  eval_strategy: epoch\n  num_train_epochs: 2\n"
    )
    sections = {"tokenizer": (ItemTokenizerTrainingArguments,), "recommender": (RecommenderTrainingArguments,)}
    _, tokenizer, recommender = parse(
        "--config", file, "--tokenizer.per_device_train_batch_size=4", "--recommender.use_cpu", sections=sections
    )
    assert (tokenizer.learning_rate, tokenizer.save_strategy) == (1e-4, "no")
    assert tokenizer.gradient_checkpointing_kwargs == {"use_reentrant": False}
    assert (tokenizer.per_device_train_batch_size, recommender.per_device_train_batch_size) == (4, 1024)
    assert (recommender.eval_strategy, recommender.num_train_epochs, recommender.learning_rate) == ("epoch", 2, 5e-3)
    assert recommender.use_cpu and not tokenizer.use_cpu


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--recommender.num_beams", "0"), "num_beams must be at least 1, got 0"),
        (
            ("--recommender.load_best_model_at_end", "true", "--recommender.eval_strategy", "epoch"),
            "requires the save and eval strategy to match",
        ),
    ],
)
def test_what_a_class_refuses_names_the_section(flags, said):
    with pytest.raises(ValueError, match=rf"^Flags --recommender\.\*: .*{said}"):
        parse("--data", "a", *flags, sections={"recommender": (RecommenderTrainingArguments,)})


def test_a_default_configuration_gives_way_to_another(config):
    read = config("seed: 3\n")
    main, *_ = parse_sections(Main, SECTIONS, "", ["--data", "a"], default_config=read)
    assert main.seed == 3
    main, *_ = parse_sections(Main, SECTIONS, "", ["--data", "a", "--seed", "4"], default_config=read)
    assert main.seed == 4
    given = ["--data", "a", f"--config={Path(read).with_name('other.yaml')}"]
    Path(read).with_name("other.yaml").write_text("resume: true\n")
    main, *_ = parse_sections(Main, SECTIONS, "", given, default_config=read)
    assert (main.seed, main.resume) == (0, True)


def test_first_words_by_place_or_flag():
    flags = ["--orders", "--products"]
    assert first_words(["a", "b", "--seed", "1"], flags) == ["--orders", "a", "--products", "b", "--seed", "1"]
    assert first_words(["a", "--seed", "1"], flags) == ["--orders", "a", "--seed", "1"]
    assert first_words(["--orders", "a"], flags) == ["--orders", "a"]
    assert first_words(["a", "b", "c"], flags) == ["--orders", "a", "--products", "b", "c"]
