"""The public names of `trainers`: all are there, and none costs anything before it is used."""

import importlib
import inspect
import subprocess
import sys

import pytest

import trainers


@pytest.mark.parametrize("name", trainers.__all__)
def test_public_name(name):
    value = getattr(trainers, name)
    assert inspect.getdoc(value) and value.__name__ == name
    assert value is getattr(importlib.import_module(value.__module__), name) and name in dir(trainers)
    assert value.__module__.startswith("trainers.")


def test_every_trainer_is_public_with_its_arguments():
    trainer_names = {name for name in trainers.__all__ if name.endswith("Trainer")}
    assert {f"{name.removesuffix('er')}ingArguments" for name in trainer_names} <= set(trainers.__all__)
    assert len(trainer_names) == 4 and trainers.__all__ == sorted(trainers.__all__)


def test_unknown_names():
    with pytest.raises(AttributeError, match="module 'trainers' has no attribute 'Trainer'"):
        trainers.Trainer  # noqa: B018
    with pytest.raises(ImportError):
        from trainers import nothing  # noqa: F401


def test_importing_trainers_is_light():
    code = "import trainers, sys; print(sorted({'torch', 'transformers', 'numpy', 'polars'} & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"
    code = "from trainers import Interactions, Popularity; print(Popularity.__name__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "Popularity\n"
