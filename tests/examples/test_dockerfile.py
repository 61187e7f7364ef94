"""`examples/Dockerfile`: instructions that Docker knows, files that exist, and a command that takes its flags."""

import json
import re
from pathlib import Path

import pytest

from trainers.commands import run_command

ROOT = Path(__file__).parents[2]
KNOWN = {"FROM", "RUN", "COPY", "USER", "WORKDIR", "ENV", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "examples" / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def test_instructions_are_known_and_in_order(instructions):
    names = [name for name, _ in instructions]
    assert set(names) <= KNOWN and names[0] == "FROM" and names[-2:] == ["ENTRYPOINT", "CMD"]
    assert names.index("USER") < names.index("ENTRYPOINT")  # not as root
    for name, rest in instructions:
        if name in ("RUN", "HEALTHCHECK"):
            assert rest.count('"') % 2 == 0 and rest.count("'") % 2 == 0 and not rest.endswith("&&")


def test_what_is_copied_exists_and_is_all_that_is_built(instructions):
    copied = [word for name, rest in instructions if name == "COPY" for word in rest.split()[:-1]]
    assert [each for each in copied if not (ROOT / each).exists()] == []
    assert {"modeling_utgrec", "tokenization_items", "trainers", "hub_cards", "pyproject.toml"} <= {*copied}
    extra = next(rest for name, rest in instructions if '"/source[serve]"' in rest)
    assert "-c /source/constraints.txt" in extra


def test_the_program_itself_gets_the_signal(instructions, capsys):
    entry, command = (json.loads(rest) for name, rest in instructions if name in ("ENTRYPOINT", "CMD"))
    assert entry == ["utgrec", "serve"]
    with pytest.raises(SystemExit):
        run_command("serve", ["--help"])
    known = capsys.readouterr().out
    flags = [each for each in command if each.startswith("--")]
    assert flags and all(f"{flag} " in known for flag in flags) and not command[0].startswith("--")
    exposed = next(rest for name, rest in instructions if name == "EXPOSE")
    assert command[command.index("--port") + 1] == exposed
    check = next(rest for name, rest in instructions if name == "HEALTHCHECK")
    assert f":{exposed}/health" in json.loads(check[check.index("[") :])[-1]
