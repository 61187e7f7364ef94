"""The Hub's rules for the metadata of cards, checked offline: what a push would be refused or warned for.

Sources: hub-docs `modelcard.md` and `datasetcard.md` (specifications of the metadata), and "Licenses" of the Hub's
documentation.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .edits import CardError, split_metadata

LICENSES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
    other
    """.split()
)
SIZE_CATEGORIES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
    (10**10, "1B<n<10B"),
    (10**11, "10B<n<100B"),
    (10**12, "100B<n<1T"),
    (math.inf, "n>1T"),
)

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_REPOSITORY = re.compile(rf"{_NAME}(?:/{_NAME})?")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8})*|code|multilingual")


def size_category(num_rows: int) -> str:
    """The Hub's size category of a data set."""
    return next(name for limit, name in SIZE_CATEGORIES if num_rows < limit)


def check_card(text: str, repo_type: str = "model") -> None:
    """
    Checks a card's metadata.

    Args:
        text (`str`): the card.
        repo_type (`str`, *optional*, defaults to `"model"`): `"model"`, `"dataset"` or `"space"`.

    Raises:
        CardError: names every field that the Hub would not take.
    """
    metadata, body = split_metadata(text)
    problems = list(_problems(metadata, repo_type))
    if not body.strip():
        problems.append("the card has no text")
    if problems:
        raise CardError("The card would not be taken: " + "; ".join(problems) + ".")


def _problems(metadata: Mapping[str, Any], repo_type: str) -> Iterator[str]:
    yield from _check_license(metadata)
    for key in ("tags", "datasets", "models", "size_categories", "task_categories"):
        if key in metadata and not _texts(metadata[key]):
            yield f"{key} must be a list of texts, is {metadata[key]!r}"
    for language in _listed(metadata.get("language", [])):
        if not isinstance(language, str) or not _LANGUAGE.fullmatch(language):
            yield f"language {language!r} is no ISO 639 code such as en"
    for key in ("base_model", "datasets", "models"):
        for name in _listed(metadata.get(key, [])):
            if isinstance(name, str) and not is_repository(name):
                yield f"{key} {name!r} is no name on the Hub such as org/name"
            elif not isinstance(name, str):
                yield f"{key} must be a name on the Hub, is {name!r}"
    for key in ("library_name", "pipeline_tag", "pretty_name", "license_name", "license_link", "model_name", "title"):
        if key in metadata and not isinstance(metadata[key], str):
            yield f"{key} must be a text, is {metadata[key]!r}"
    if repo_type == "model":
        yield from _check_model_index(metadata.get("model-index"))
    elif repo_type == "space":
        yield from _check_space(metadata)
    else:
        yield from _check_configs(metadata.get("configs"))
        known, names = {name for _, name in SIZE_CATEGORIES}, metadata.get("size_categories")
        for name in _listed(names) if _texts(names) else []:
            if name not in known:
                yield f"size_categories {name!r} is none of {', '.join(sorted(known))}"


def is_repository(name: str) -> bool:
    """Whether the Hub could have a repository of this name."""
    return bool(_REPOSITORY.fullmatch(name)) and "--" not in name and ".." not in name and not name.endswith(".git")


def _check_license(metadata: Mapping[str, Any]) -> Iterator[str]:
    if "license" not in metadata:
        return
    names = _listed(metadata["license"])
    for name in names:
        if not isinstance(name, str) or name not in LICENSES:
            yield f"license {name!r} is no identifier that the Hub knows, such as apache-2.0 or other"
    if "other" in names and "license_name" not in metadata:
        yield "license 'other' needs license_name and license_link"


def _check_model_index(index: Any) -> Iterator[str]:
    if index is None:
        return
    if not isinstance(index, list) or not index or not all(isinstance(entry, Mapping) for entry in index):
        yield "model-index must be a list of models"
        return
    for entry in index:
        if not isinstance(entry.get("name"), str) or not entry["name"]:
            yield "model-index: a model has no name"
        results = entry.get("results")
        if not isinstance(results, list) or not results:
            yield "model-index: a model has no results"
            continue
        for result in results:
            yield from _check_result(result)


def _check_result(result: Any) -> Iterator[str]:
    if not isinstance(result, Mapping):
        yield f"model-index: a result must have task, dataset and metrics, is {result!r}"
        return
    for part, keys in (("task", ("type",)), ("dataset", ("type", "name"))):
        value = result.get(part)
        if not isinstance(value, Mapping) or not all(isinstance(value.get(key), str) for key in keys):
            yield f"model-index: {part} of a result needs {' and '.join(keys)}, is {value!r}"
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        yield "model-index: a result has no metrics"
        return
    for metric in metrics:
        if not isinstance(metric, Mapping) or not isinstance(metric.get("type"), str):
            yield f"model-index: a metric needs a type, is {metric!r}"
        elif not isinstance(metric.get("value"), str | int | float) or metric["value"] != metric["value"]:
            yield f"model-index: {metric['type']} needs a value, has {metric.get('value')!r}"


def _check_space(metadata: Mapping[str, Any]) -> Iterator[str]:
    if metadata.get("sdk") != "gradio":
        yield f"sdk must be gradio, is {metadata.get('sdk')!r}"
    version = metadata.get("sdk_version")
    if not isinstance(version, str) or not re.fullmatch(r"\d+(\.\w+)+", version):
        yield f"sdk_version must be a version of gradio in quotes, such as '6.0.0', is {version!r}"


def _check_configs(configs: Any) -> Iterator[str]:
    if configs is None:
        return
    if not isinstance(configs, list):
        yield "configs must be a list"
        return
    names = []
    for config in configs:
        if not isinstance(config, Mapping) or not isinstance(config.get("config_name"), str):
            yield f"configs: {config!r} has no config_name"
            continue
        names.append(config["config_name"])
        files = config.get("data_files")
        paths = [files] if isinstance(files, str) else files if isinstance(files, list) else []
        paths = [entry.get("path") if isinstance(entry, Mapping) else entry for entry in paths]
        if not paths or not all(isinstance(path, str) and path for path in paths):
            yield f"configs: {config['config_name']} has no data_files"
        elif any(path.startswith("/") or ".." in path.split("/") for path in paths):
            yield f"configs: data_files of {config['config_name']} leave the repository"
    if len(set(names)) != len(names):
        yield "configs: two have one config_name"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) and entry for entry in value)
