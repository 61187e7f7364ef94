"""`utgrec serve`: its flags, and what it says before it loads a model."""

import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainers.commands import run_command, serve
from trainers.commands.serve import model_named
from trainers.serving import server

ROOT = Path(__file__).parents[3]


def test_the_model_by_place_or_flag():
    assert model_named(["runs/shop", "--port", "1"]) == ["--model", "runs/shop", "--port", "1"]
    assert model_named(["--port", "1"]) == ["--port", "1"] and model_named([]) == []


def test_what_is_missing_is_said_before_work(monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "fastapi" else object())
    with pytest.raises(SystemExit, match=r"needs FastAPI: pip install 'utgrec\[serve\]'"):
        run_command("serve", ["nothing"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["no-such-folder", "--save_changes"], "--save_changes writes to a folder"),
        (["no-such-folder", "--max_batch_size", "0"], "max_batch_size must be above 0"),
        (["no-such-folder", "--max_waiting", "5"], "only 5 may wait"),
        (["no-such-folder", "--port", "0"], "no-such-folder is no folder here"),
        (["{empty}", "--port", "0"], "holds no recommender"),
        (["{empty}", "--revision", "v1"], "folders have no --revision"),
        (["no-such-folder", "--api_key_variable", "UTGREC_WEAK"], "The key in UTGREC_WEAK"),
    ],
)
def test_errors_say_what_and_how(flags, message, tmp_path, monkeypatch):
    monkeypatch.setenv("UTGREC_WEAK", "weak")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        run_command("serve", [flag.replace("{empty}", str(tmp_path)) for flag in flags])
    assert message in str(error.value)


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(SystemExit, match="in use. Give another --port"):
            run_command("serve", ["no-such-folder", "--port", str(other.getsockname()[1])])


@pytest.mark.parametrize(
    ("flags", "key", "is_loopback", "may_change"),
    [
        ([], None, True, True),
        ([], None, False, False),
        ([], "k" * 32, False, True),
        (["--read_only"], "k" * 32, True, False),
    ],
)
def test_who_may_change_the_catalogue(flags, key, is_loopback, may_change, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr("trainers.serving.state.load", lambda *_, **__: FakeServed())
    monkeypatch.setattr(server, "key_of", lambda name: key)
    monkeypatch.setattr(server, "is_loopback", lambda bound: is_loopback)
    monkeypatch.setattr("trainers.serving.application.build_application", lambda *given: given)
    monkeypatch.setattr(server, "run", lambda *given: ran.append(given))
    run_command("serve", ["anything", "--port", "0", "--timeout_s", "5", *flags])
    (((service, given, changes), bound, timeout),) = ran
    service.batcher.close()
    bound.close()
    assert (given, changes, timeout) == (key, may_change, 5.0)
    shown = capsys.readouterr().out
    assert ("taken" if may_change else "refused") in shown and (key is None or key not in shown)


class FakeServed:
    recommender, version = SimpleNamespace(tokenizer=[]), 1


def test_other_commands_do_not_import_it():
    code = """
import sys, trainers, trainers.commands.serve
print(sorted({"fastapi", "uvicorn", "starlette", "prometheus_client", "torch"} & {*sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
