"""The card's YAML metadata: what the Hub shows, filters by and loads by."""

import re
from collections.abc import Iterable
from typing import Any

from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData

from longattn_hf.pages.text import plain
from longattn_hf.report.facts import Report
from longattn_hf.report.parts import ConfigurationFacts

# the identifiers of https://huggingface.co/docs/hub/repositories-licenses; the Hub refuses a card with another one
_HUB_LICENSES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
    lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib
    pddl lgpl-lr deepfloyd-if-license llama2 gemma unknown other
    """.split()
)
_SIZES = {
    10**3: "n<1K",
    10**4: "1K<n<10K",
    10**5: "10K<n<100K",
    10**6: "100K<n<1M",
    10**7: "1M<n<10M",
    10**8: "10M<n<100M",
    10**9: "100M<n<1B",
    10**10: "1B<n<10B",
    10**11: "10B<n<100B",
    10**12: "100B<n<1T",
}


def front_matter(report: Report) -> str:
    """Returns the YAML between the card's `---` lines.

    Raises:
        ValueError: The default configuration is none of the configurations, or not the one called `default`.
    """
    configs, default = report.configs, report.default_config
    if default not in configs:
        raise ValueError(f"default_config={default!r} is none of the configurations {', '.join(map(repr, configs))}.")
    if "default" in configs and default != "default":
        raise ValueError(
            f"default_config={default!r} is given, but datasets takes the configuration 'default' for the default: "
            "give that one, or call the category otherwise."
        )
    data = DatasetCardData(
        pretty_name=plain(report.pretty_name),
        language=list(report.language),
        annotations_creators=["machine-generated"],
        language_creators=["found"],
        source_datasets=_source_datasets(row.source for row in report.sources),
        task_categories=["text-generation"],
        tags=list(report.tags),
        **_license(row.license for row in report.sources),
    )
    if not report.not_run:
        data.size_categories = [_size_category(sum(facts.kept_windows for facts in report.run_categories.values()))]
    MetadataConfigs(
        {
            name: {"data_files": [{"split": "train", "path": facts.data_files}]}
            | ({"default": True} if name == default else {})
            for name, facts in configs.items()
        }
    ).to_dataset_card_data(data)
    infos = DatasetCardData(dataset_info=[_dataset_info(name, facts) for name, facts in configs.items()])
    # reading the infos back and writing them is datasets' own check of the features
    DatasetInfosDict.from_dataset_card_data(infos).to_dataset_card_data(data)
    return data.to_yaml()


def _dataset_info(name: str, facts: ConfigurationFacts) -> dict[str, Any]:
    info: dict[str, Any] = {"config_name": name, "features": facts.features}
    # the numbers of a configuration that was never built are null
    if facts.num_rows is not None:
        info["splits"] = [{"name": "train", "num_bytes": facts.num_bytes, "num_examples": facts.num_rows}]
        info |= {"download_size": facts.download_size, "dataset_size": facts.num_bytes}
    return info


def _license(stated: Iterable[str | None]) -> dict[str, Any]:
    """The Hub's identifiers for SPDX expressions: one alone, or a list with `other` and `unknown` last."""
    names = {name.lower() for expression in stated for name in _licenses_in(expression)}
    known = {re.sub(r"-(only|or-later)$", "", name) for name in names}
    # the Hub names some licences without their version, as odc-by
    known = {name if name in _HUB_LICENSES else _unversioned(name) for name in known}
    strange = known - _HUB_LICENSES
    listed = sorted(known & _HUB_LICENSES - {"other", "unknown"})
    listed += ["other"] * bool(strange or "other" in known) + ["unknown"] * ("unknown" in known)
    if listed == ["other"] and len(strange) == 1:
        return {"license": "other", "license_name": re.sub(r"[^a-z0-9.-]+", "-", strange.pop())}
    return {"license": listed[0] if len(listed) == 1 else listed}


def _unversioned(name: str) -> str:
    without = re.sub(r"-[0-9.]+$", "", name)
    return without if without in _HUB_LICENSES else name


def _licenses_in(expression: str | None) -> list[str]:
    if expression is None:
        return ["unknown"]
    return [name for name in re.split(r"\s+(?:AND|OR)\s+|[()]", expression) if name.strip()]


def _source_datasets(sources: Iterable[str]) -> list[str]:
    """The sources that are datasets of the Hub, after `original` if there are others."""
    unique = dict.fromkeys(sources)
    on_the_hub = [source for source in unique if re.fullmatch(r"[\w.-]+/[\w.-]+", source)]
    return ["original"] * (len(on_the_hub) < len(unique)) + on_the_hub


def _size_category(rows: int) -> str:
    return next((name for limit, name in _SIZES.items() if rows < limit), "n>1T")
