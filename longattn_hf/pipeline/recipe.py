"""The YAML that selects what the explorer shows."""

import yaml

from longattn_hf.explore.scored_corpus import LIMITS, Choice, ScoredCorpus

# settings of a build, and what its report calls them
_CARD = {"pretty_name": "pretty_name", "description": "description", "data_version": "version", "language": "language"}


def write_recipe(corpus: ScoredCorpus, choice: Choice) -> str:
    """Returns YAML that `longattn_hf.pipeline.config.load_config` reads and that selects what `choice` selects.

    Where the data set does not say what it was built from, the YAML holds the selection alone, and says so.

    Raises:
        ValueError: The choice is of another convention: its numbers would need another scoring run.
    """
    if choice.convention != corpus.convention:
        raise ValueError(f"The windows were scored as {corpus.convention!r}; {choice.convention!r} is a comparison.")
    head = f"# What the explorer showed of {corpus.name}: {len(corpus):,} windows.\n"
    selection = {"alpha": choice.alpha, "convention": corpus.convention, "refuse_overlap": choice.refuse_overlap}
    known, sources = {}, corpus.settings.get("sources")
    if sources:
        known = {name: value for name, value in corpus.settings.items() if name not in (*LIMITS, "sources")}
        known |= {name: corpus.report[key] for name, key in _CARD.items() if key in corpus.report}
    else:
        head += "# The data set does not say what it was built from; add these settings to its recipe.\n"
    values = {name: value for name, value in (known | selection | choice.limit).items() if value is not None}
    if sources:
        values["sources"] = [{n: v for n, v in it.items() if v is not None and v is not False} for it in sources]
    return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
