"""Format of the checkpoints, which every load checks: the kind of model, the version, and that no weight is missing.

The format has a version. A release reads the checkpoints of its own version and refuses others by name; within a
version files may gain entries that older releases may ignore, never change the meaning of one. A release that raises
the version reads the versions before it too, or says how to convert them.
"""

from collections.abc import Callable

from safetensors import SafetensorError
from transformers.utils import PushToHubMixin

from .checkpoint_safety import check_sizes, errors_that_say_why, only_safetensors

FORMAT_VERSION = 1


class CheckedConfig:
    """For configurations: loading one of another kind or format version is an error, where transformers would go on
    with default values."""

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """As [`~transformers.PreTrainedConfig.from_dict`].

        Raises:
            ValueError: if the dictionary is of another kind of model or of a format version that can't be read.
        """
        kind, own = config_dict.get("model_type"), getattr(cls, "model_type", None)  # of the class it is mixed into
        if kind is None:  # transformers takes a file that is not there for an empty one
            raise ValueError(f"Expected a configuration of model type {own!r}: there is no config.json.")
        if kind != own:
            raise ValueError(
                f"Expected a configuration of model type {own!r}, found {kind!r}: load it with the class "
                "of that model, or with an Auto class."
            )
        check_format_version(config_dict.get("format_version", FORMAT_VERSION), "The configuration")
        check_sizes(config_dict)
        with errors_that_say_why("The configuration"):
            return super().from_dict(config_dict, **kwargs)  # type: ignore[misc]

    def to_dict(self) -> dict:
        values: dict = super().to_dict()  # type: ignore[misc]
        # transformers takes a class with "Tokenizer" in its name for a text tokenizer and lists a slow and a fast one
        for auto_class, reference in values.get("auto_map", {}).items():
            if not isinstance(reference, str):
                values["auto_map"][auto_class] = reference[0]
        return values


class CheckedLoading:
    """For models: loading files that lack weights is an error, where transformers would make them up."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """As [`~transformers.PreTrainedModel.from_pretrained`].

        Raises:
            ValueError: if the weights are pickles or truncated, some are missing or of another shape, or the
                configuration has values that no model can be built from.
        """
        wants_report = kwargs.pop("output_loading_info", False)
        only_safetensors(pretrained_model_name_or_path, kwargs)
        try:
            with errors_that_say_why(f"{pretrained_model_name_or_path}"):
                model, report = super().from_pretrained(
                    pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
                )
        except SafetensorError as error:
            raise ValueError(
                f"{pretrained_model_name_or_path}: the weights are truncated or not a safetensors file: {error}"
            ) from error
        lacking = sorted(report["missing_keys"])
        if lacking:
            raise ValueError(
                f"{pretrained_model_name_or_path}: {len(lacking)} weights of {cls.__name__} are missing: "
                f"{lacking[:5]}. Its files are incomplete or do not belong to its config.json."
            )
        return (model, report) if wants_report else model


class Upload(PushToHubMixin):
    """`push_to_hub` of what `save` writes to a folder: the way to push with choices that `save_pretrained` has and
    [`~transformers.utils.PushToHubMixin.push_to_hub`] does not pass on."""

    def __init__(self, save: Callable[[str], None]):
        self.save = save

    def save_pretrained(self, save_directory: str, **_) -> None:
        self.save(save_directory)


def check_format_version(found: object, what: str) -> None:
    """Raises ValueError unless this release reads checkpoints of the format version `found`."""
    if found != FORMAT_VERSION:
        newer = isinstance(found, int) and found > FORMAT_VERSION
        raise ValueError(
            f"{what} has format version {found}, expected {FORMAT_VERSION}: "
            + ("install a newer release of utgrec to read it." if newer else "save it anew with this release.")
        )


__all__ = ["FORMAT_VERSION", "CheckedConfig", "CheckedLoading", "Upload", "check_format_version"]
