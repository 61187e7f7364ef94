"""Files of a Space beside its card: the program and what it needs."""

import json

from .values import SpaceCardValues

APP_FILE, REQUIREMENTS_FILE = "app.py", "requirements.txt"

_APP = '''"""The page of this Space: what {model} recommends, and its semantic IDs."""

import os

from trainers.commands.space import SpaceArguments, run

host = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"  # on the Hub others ask, elsewhere this machine alone
run(SpaceArguments({arguments}, host=host))
'''


def space_files(values: SpaceCardValues) -> dict[str, str]:
    """
    Names and texts of the files.

    Args:
        values ([`SpaceCardValues`]): what its card says; the page shows the first of its models, with pictures of the
            first of its data sets.
    """
    model, data = values.models[0], values.datasets[0] if values.datasets else None
    arguments = f"model={json.dumps(model)}" + (f", data={json.dumps(data)}" if data else "")
    return {
        APP_FILE: _APP.format(model=model, arguments=arguments),
        REQUIREMENTS_FILE: "".join(f"{line}\n" for line in values.requirements),
    }
