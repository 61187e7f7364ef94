"""The wheel and the source distribution: whole, and enough to work with outside of the repository."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from trainers.data.synthetic import DOWNSTREAM_DOMAIN, write_all

ROOT = Path(__file__).parents[1]
PACKAGES = ("modeling_utgrec", "tokenization_items", "trainers", "hub_cards")
DATA = {path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()}
DATA = {name for name in DATA if not name.endswith((".py", ".pyc"))}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder of a wheel and a source distribution of a copy of the tree: a build leaves folders in its source."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if name.startswith(PACKAGES) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    # without isolation: with the setuptools that is installed, without a network
    for kind in ("sdist", "wheel"):
        code = f"from setuptools import build_meta; build_meta.build_{kind}({str(output)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    return output


@pytest.mark.slow
def test_both_hold_every_file(built):
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    assert {"hub_cards/templates/model_card.md", "trainers/py.typed", "trainers/commands/configs/small.yaml"} <= DATA
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    modules = {path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert DATA | modules <= in_wheel and DATA | modules | {"pyproject.toml", "README.md", "LICENSE"} <= in_sdist
    assert {name.partition("/")[0] for name in in_wheel if ".dist-info/" not in name} == set(PACKAGES)


@pytest.mark.slow
def test_the_wheel_works_outside_of_the_repository(built, tmp_path):
    """Installed where nothing of the repository can be seen; what it depends on is that of this environment."""
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "venv", symlinks=True)
    here = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")})
    # no .pth of that folder is read, so an editable installation of this repository is not seen
    (Path(here) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    binaries = tmp_path / "venv" / "bin"
    install = [sys.executable, "-m", "pip", "--python", binaries / "python", "install", "--no-deps", "--no-index"]
    subprocess.run([*install, "--ignore-installed", wheel], check=True, capture_output=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*command):
        process = subprocess.run(
            [binaries / command[0], *map(str, command[1:])],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr[-3000:]
        return process.stdout

    code = f"import {', '.join(PACKAGES)}; print({', '.join(f'{name}.__file__' for name in PACKAGES)}, sep='\\n')"
    files = run("python", "-c", code).splitlines()
    assert len(files) == len(PACKAGES) and all(file.startswith(here) for file in files), files
    assert "train" in run("utgrec", "--help") and "(required)" in run("utgrec", "prepare", "--help")
    assert "--seeds" in run("python", "-m", "trainers", "demo", "--help")

    # a first result of one's own tables
    orders = [f"c{user},p{(user + 3 * step) % 20},{step}" for user in range(30) for step in range(5)]
    (tmp_path / "orders.csv").write_text("\n".join(["customer,product,time", *orders]) + "\n")
    (tmp_path / "products.csv").write_text(
        "\n".join(["id;name", *(f"p{row};pen {row % 4}" for row in range(20))]) + "\n"
    )
    last = run("utgrec", "quickstart", "orders.csv", "products.csv").splitlines()[-2:]
    assert "[{'item_id'" in run("python", "-c", "\n".join([last[0].strip(), f"print({last[1].strip()})"]))

    write_all(tmp_path / "data", num_items=64, num_users=40)
    tiny = ["--tokenizer.autoencoder", "none", "--tokenizer.num_train_epochs", 1, "--tokenizer.use_cpu"]
    tiny += ["--tokenizer.codebook_warmup_steps", 0]
    tiny += ["--tokenizer.root_codebook_size", 16, "--tokenizer.leaf_codebook_size", 16]
    tiny += ["--recommender.d_model", 16, "--recommender.num_train_epochs", 1, "--recommender.use_cpu"]
    data = ["--data", tmp_path / "data" / DOWNSTREAM_DOMAIN]
    run("utgrec", "finetune", "--config", "small", *data, "--output_dir", tmp_path / "run", *tiny)
    assert (tmp_path / "run" / "recommender" / "README.md").is_file()
    assert "History: " in run("utgrec", "recommend", "--recommender", tmp_path / "run" / "recommender", *data)
