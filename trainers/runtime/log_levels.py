"""Which messages of this program and its libraries are shown: `--log_level`."""

import logging
import os

LEVELS = ("debug", "info", "warning", "error", "critical")
OURS = ("modeling_utgrec", "tokenization_items", "trainers", "hub_cards")
# Libraries with the variable that says the level of one that is imported later.
LIBRARIES = {
    "transformers": "TRANSFORMERS_VERBOSITY",
    "datasets": "DATASETS_VERBOSITY",
    "diffusers": "DIFFUSERS_VERBOSITY",
    "huggingface_hub": "HF_HUB_VERBOSITY",
}


def set_log_level(level: str) -> None:
    """
    Shows messages of this level and above, on stderr; by default those of the level warning.

    Args:
        level (`str`): one of [`LEVELS`].

    Raises:
        ValueError: there is no such level.
    """
    if level not in LEVELS:
        raise ValueError(f"log level {level}: there are {', '.join(LEVELS)}.")
    number = getattr(logging, level.upper())
    for library, variable in LIBRARIES.items():
        os.environ[variable] = level
        logging.getLogger(library).setLevel(number)
    for name in OURS:
        logger = logging.getLogger(name)
        logger.setLevel(number)
        # Without a handler Python shows warnings alone.
        if not any(isinstance(each, _Stderr) for each in logger.handlers):
            logger.addHandler(_Stderr())


class _Stderr(logging.StreamHandler):
    """A handler that this file has added."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
