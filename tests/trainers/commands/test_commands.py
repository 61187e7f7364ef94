"""Commands: their names, their short help, and which method a command line means."""

import importlib
import json
import linecache
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from modeling_utgrec import UTGRecTokenizerConfig
from tokenization_items import Catalogue
from tokenization_items.catalogue import TEXT_FIELDS
from tokenization_items.item_files import CatalogueError
from tokenization_items.item_index import UnknownItemError
from tokenization_items.text_template import TextTemplate
from tokenization_items.tokenization_items import TOKENIZER_FILE
from trainers.commands import COMMANDS, HELP, METHODS, TRACEBACK, choose_method, run_command
from trainers.commands.help_texts import command_modules, help_text

MODULES = list(command_modules())


@pytest.mark.parametrize("module", MODULES)
def test_short_help_is_of_the_flags(module):
    """Names and defaults are those of the classes, in at most 60 lines; flags to show do exist."""
    text = help_text(module)
    assert (HELP / f"{module}.txt").read_text(encoding="utf-8") == text, (
        "Write it anew: python -m trainers.commands.help_texts"
    )
    assert text.count("\n") <= 60 and max(map(len, text.splitlines())) < 120
    loaded = importlib.import_module(f"trainers.commands.{module}")
    for flag in getattr(loaded, "SHOWN", ()):
        assert f"\n  --{flag} " in text or f"\n  --{flag}\n" in text
    assert text.startswith(loaded.__doc__)


def test_every_help_text_has_its_command():
    assert {path.stem for path in HELP.iterdir()} == set(MODULES)


@pytest.mark.parametrize("argv", [["--help"], *([command, "--help"] for command in COMMANDS)], ids=" ".join)
def test_help_imports_nothing_heavy(argv):
    code = f"""
import sys
from trainers.__main__ import main
try:
    main({argv!r})
finally:
    print(sorted({{"torch", "transformers", "datasets", "numpy"}} & set(sys.modules)), file=sys.stderr)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0 and process.stderr == "[]\n", process.stderr
    assert "utgrec" in process.stdout


def fails(monkeypatch, check):
    """Makes `recommend` do nothing but call a function."""
    monkeypatch.setitem(sys.modules, "trainers.commands.recommend", types.SimpleNamespace(main=lambda argv: check()))


def does(statement, module="tokenization_items.catalogue", **names):
    """A function of a module, with one statement."""
    scope = {"__name__": module, **names}
    source, name = f"def check():\n    {statement}\n", f"<{statement}>"
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    exec(compile(source, name, "exec"), scope)
    return scope["check"]


def raising(error, module="tokenization_items.catalogue"):
    return does("raise error", module, error=error)


@pytest.mark.parametrize(
    "error",
    [CatalogueError("item 'a' is broken"), UnknownItemError("item 'a' is broken"), ImportError("pip install x")],
)
def test_an_error_in_what_was_given_is_its_message(monkeypatch, error):
    monkeypatch.delenv(TRACEBACK, raising=False)
    fails(monkeypatch, check=raising(error))
    with pytest.raises(SystemExit) as ended:
        run_command("recommend", [])
    assert ended.value.code == str(error)
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(type(error)) as shown:
        run_command("recommend", [])
    assert shown.value is error


def test_an_error_of_a_configuration_is_its_message(monkeypatch):
    monkeypatch.delenv(TRACEBACK, raising=False)
    fails(monkeypatch, check=lambda: UTGRecTokenizerConfig(adapter_init="zeros"))
    with pytest.raises(SystemExit) as ended:
        run_command("recommend", [])
    assert ended.value.code == "adapter_init must be 'normal' or 'principal', got 'zeros'"


def test_an_error_of_files_is_its_message(monkeypatch):
    monkeypatch.delenv(TRACEBACK, raising=False)
    fails(monkeypatch, check=Path("/nowhere/items.csv").read_text)
    with pytest.raises(SystemExit, match="No such file or directory: '/nowhere/items.csv'"):
        run_command("recommend", [])
    fails(monkeypatch, check=raising(TimeoutError()))
    with pytest.raises(SystemExit, match=r"TimeoutError\(\)"):
        run_command("recommend", [])


@pytest.mark.parametrize(
    ("mistake", "kind"),
    [
        (does("return {}['a']"), KeyError),
        (does("return list(zip([1], [], strict=True))"), ValueError),
        (does("return loads('{')", loads=json.loads), ValueError),
        (lambda: TextTemplate.render(None), TypeError),
        (raising(TypeError("ours")), TypeError),
        (raising(AssertionError("ours")), AssertionError),
        (raising(ValueError("theirs"), "torch.nn"), ValueError),
    ],
)
def test_a_mistake_in_the_program_keeps_its_traceback(monkeypatch, mistake, kind):
    monkeypatch.delenv(TRACEBACK, raising=False)
    fails(monkeypatch, check=mistake)
    with pytest.raises(kind):
        run_command("recommend", [])


@pytest.mark.parametrize(
    "script", [["examples/finetune.py"], pytest.param(["-m", "trainers", "finetune"], marks=pytest.mark.slow)]
)
def test_a_broken_item_ends_a_command_with_a_line(tmp_path, script):
    (tmp_path / "items.jsonl").write_text('{"item_id": "a", "title": "pen"}\n{"item_id": "b"}\n')
    (tmp_path / "sequences.jsonl").write_text('{"user_id": "u", "items": ["a", "c", "a"]}\n')
    process = subprocess.run(
        [sys.executable, *script, "--data", str(tmp_path), "--output_dir", str(tmp_path / "run")],
        cwd=Path(__file__).parents[3],
        env={name: value for name, value in os.environ.items() if name != TRACEBACK},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1 and "Traceback" not in process.stderr, process.stderr
    assert "'b'" in process.stderr or "item 'c'" in process.stderr


@pytest.mark.parametrize("command", METHODS)
def test_the_method_of_a_command_line(command, tmp_path):
    (tmp_path / "c.yaml").write_text("model: recbase\n")
    config = ["--config", str(tmp_path / "c.yaml")]
    assert choose_method(command, []) == choose_method(command, ["--data", "recbase"]) == "utgrec"
    assert choose_method(command, ["--model", "recbase"]) == choose_method(command, config) == "recbase"
    assert choose_method(command, ["--config", "recbase_small"]) == "recbase"
    assert choose_method(command, [*config, "--model=utgrec"]) == "utgrec"
    assert choose_method(command, ["--data", "x"], "recbase") == "recbase"
    with pytest.raises(SystemExit, match=f"--model unirec: {command} knows utgrec, recbase"):
        choose_method(command, ["--model", "unirec"])


def test_the_method_of_a_pretrained_folder(tmp_path):
    pretrained = ["--pretrained", str(tmp_path)]
    with pytest.raises(SystemExit, match="no output folder of pretrain"):
        choose_method("finetune", pretrained)
    file = tmp_path / "recommender" / "config.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(SystemExit, match="of the type 't5', none of utgrec, recbase"):
        choose_method("finetune", pretrained)
    file.write_text(json.dumps({"model_type": "recbase"}))
    assert choose_method("finetune", pretrained) == "recbase"
    assert choose_method("finetune", [*pretrained, "--model", "recbase"]) == "recbase"
    assert choose_method("pretrain", pretrained) == "utgrec", "it has no such flag"
    for more, method in ((["--model", "utgrec"], None), ([], "utgrec")):
        with pytest.raises(SystemExit, match="holds recbase, and utgrec was asked for .* give --model recbase"):
            choose_method("finetune", [*pretrained, *more], method)


def test_a_script_of_one_method_trains_no_other(capsys):
    with pytest.raises(SystemExit) as error:
        run_command("pretrain", ["--data", "x", "--output_dir", "y", "--model", "utgrec"], "recbase")
    assert error.value.code == 2 and "--model: invalid choice: 'utgrec'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["pretrain", "pretrain_recbase", "finetune", "finetune_recbase", "tokenize"])
def test_text_fields_reach_the_texts(command, tmp_path, monkeypatch):
    """The catalogue is asked for them, by whichever command, before any other work."""

    class Read(Exception):
        pass

    def from_folder(path, text_fields=(), **_):
        raise Read(*text_fields)

    module = importlib.import_module(f"trainers.commands.{command}")
    (tmp_path / "items.csv").write_text("item_id,title\n")
    monkeypatch.setattr(Catalogue, "from_folder", from_folder)
    argv = ["--data", str(tmp_path), "--output_dir", str(tmp_path / "run"), "--text_fields", "categories", "title"]
    if command == "tokenize":
        argv += ["--tokenizer", str(Path(__file__).parents[2] / "checkpoints/version_0_1/utgrec_tokenizer_text")]
        monkeypatch.chdir(Path(__file__).parents[2] / "checkpoints/version_0_1")
    with pytest.raises(Read) as read:
        module.main(argv)
    assert read.value.args == ("categories", "title")


@pytest.mark.parametrize("command", ["finetune", "finetune_recbase", "tokenize"])
def test_text_fields_are_those_of_the_training_before(command, tmp_path, monkeypatch):
    class Read(Exception):
        pass

    def from_folder(path, text_fields=(), **_):
        raise Read(*text_fields)

    kind = "recbase_tokenizer" if command == "finetune_recbase" else "utgrec_tokenizer_text"
    checkpoints = Path(__file__).parents[2] / "checkpoints/version_0_1"
    shutil.copytree(checkpoints / kind, tmp_path / "tokenizer")
    settings = json.loads((tmp_path / "tokenizer" / TOKENIZER_FILE).read_text())
    (tmp_path / "tokenizer" / TOKENIZER_FILE).write_text(json.dumps(settings | {"text_fields": ["title", "brand"]}))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "items.csv").write_text("item_id,title\n")
    monkeypatch.setattr(Catalogue, "from_folder", from_folder)
    monkeypatch.chdir(checkpoints)
    argv = ["--data", str(tmp_path / "data"), "--output_dir", str(tmp_path / "run")]
    before = ["--tokenizer", str(tmp_path / "tokenizer")] if command == "tokenize" else ["--pretrained", str(tmp_path)]
    module = importlib.import_module(f"trainers.commands.{command}")
    with pytest.raises(Read) as read:
        module.main([*argv, *before])
    assert read.value.args == ("title", "brand")
    if command != "tokenize":
        with pytest.raises(Read) as read:
            module.main(argv)
        assert read.value.args == TEXT_FIELDS
