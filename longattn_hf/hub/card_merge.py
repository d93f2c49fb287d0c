"""Renews this package's parts of a dataset card that people may have edited, and nothing else of it."""

import json
import re
import textwrap
from collections.abc import Collection, Mapping
from typing import Any

import yaml

from longattn_hf.files import load_yaml
from longattn_hf.hub.patterns import has_our_layout
from longattn_hf.pages.text import code

BEGIN = "<!-- longattn_hf:begin -->"
END = "<!-- longattn_hf:end -->"

# as the Hub's own readers have it: a byte-order mark, blank lines and spaces may stand before it
_FRONT_MATTER = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
# keys that are text, `<<` among them
_TEXTS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
# the code of a card that loads the dataset, and the name in each of its calls
_USE = re.compile(r"^## Use\n\n```python\n.*?^```$", re.MULTILINE | re.DOTALL)
_LOADS = re.compile(r'(= load_dataset\()"(?:[^"\\]|\\.)*"')
# the sentence of a card that says what is loaded by default
_DEFAULT = re.compile(r"^(without their text\. The default is ).*\.$", re.MULTILINE)
# other people's configurations whose files lie as ours do, noted behind the first marker
_OTHERS = re.compile(rf"{BEGIN}\r?\n<!-- longattn_hf:others (\[.*\]) -->\r?\n")
# one entry a configuration; those of other configurations stay
_PER_CONFIGURATION = ("configs", "dataset_info")
# facts of the data, which only a new build knows
_FACTS = ("license", "license_name", "license_link", "size_categories", "source_datasets")


def merge_cards(theirs: str | None, ours: str) -> str:
    """Puts our part into a card: the text between our markers, and our keys of its front matter.

    Of the front matter, the entries of our configurations and the facts of the data are renewed, lists such as `tags`
    keep what stands there and gain what is missing, other values that stand there stay. A default of other people's
    stays the default, one of an earlier release's gives way to this one's, and our part says which one it is. The text
    of every key whose value does not change stays byte for byte, as does all text outside the markers. A card without
    markers gets our part at its end.

    Args:
        theirs: The card as it stands, with its own line ends; None where there is none.
        ours: The card as a build rendered it, with front matter and both markers.

    Returns:
        The merged card. Merging the same card again changes nothing.

    Raises:
        ValueError: A card's front matter is not a YAML mapping, or its markers are not one pair in order.
    """
    where = "the README.md on the Hub"
    _, our_yaml, our_body = _split(ours, "the rendered card")
    our_part = _marked(our_body, "the rendered card")
    if our_part is None:
        raise ValueError(f"the rendered card must hold its part between {BEGIN} and {END}")
    if theirs is None or not theirs.strip():
        return ours
    opening, front_matter, body = _split(theirs, where)
    marked = _marked(body, where)
    newline = "\r\n" if "\n" in theirs and "\n" not in theirs.replace("\r\n", "") else "\n"
    old, new = _parse(front_matter, where), _parse(our_yaml, "the rendered card")
    before, now = (_by_name("configs", values.get("configs")) for values in (old, new))
    ours_there = own_configurations(theirs, before)
    others = [name for name in before if name not in now and name not in ours_there]
    values = old | {
        key: _merge_value(key, old[key], value, others) if key in old else value for key, value in new.items()
    }
    part = _name_default(our_body[slice(*our_part)], _by_name("configs", values.get("configs")))
    if alike := [name for name in others if has_our_layout(name, before[name])]:
        # a name must not end the comment
        note = json.dumps(alike).replace(">", "\\u003e")
        part = part.replace(BEGIN, f"{BEGIN}\n<!-- longattn_hf:others {note} -->", 1)
    part = part.replace("\n", newline)
    if marked:
        body = body[: marked[0]] + part + body[marked[1] :]
    else:
        body += newline * (2 - min(2, len(body) - len(body.rstrip("\r\n")))) + part + newline
    merged = _write_front_matter(front_matter, old, values, newline)
    # without front matter, body is all there is
    return f"{opening}{merged}{body}" if opening else f"---{newline}{merged}---{newline}{body}"


def has_markers(card: str) -> bool:
    """Whether a card holds this package's part: the repository is one that it published to."""
    return BEGIN in card


def name_repository(card: str, repo_id: str) -> str:
    """Puts a repository's full name into the code of a card that loads the dataset, in each of its calls.

    A build does not know where it will be published; the code of its card names the folder where builds go.

    Args:
        card: The card as a build rendered it.
        repo_id: The repository, "owner/name".
    """
    before, begin, ours = card.partition(BEGIN)
    ours, end, after = ours.partition(END)
    # a description may show such code too, and stands before ours
    if not (found := [*_USE.finditer(ours)]):
        return card
    start, stop = found[-1].span()
    calls = _LOADS.sub(lambda call: call[1] + json.dumps(repo_id), ours[start:stop])
    return before + begin + ours[:start] + calls + ours[stop:] + end + after


def read_configurations(card: str) -> dict[str, dict[str, Any]]:
    """Reads the `configs` of a card's front matter, by name, in order."""
    return _read_by_name(card, "configs")


def own_configurations(card: str, configurations: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Returns the names of those of a card's configurations that releases of this package have put there."""
    if not has_markers(card):
        return set()
    noted = _OTHERS.search(card)
    others = json.loads(noted[1]) if noted else []
    return {name for name, entry in configurations.items() if has_our_layout(name, entry) and name not in others}


def read_row_counts(card: str) -> dict[str, int]:
    """Reads from a card's `dataset_info` how many rows each configuration has, over all of its splits."""
    try:
        return {
            name: sum(split["num_examples"] for split in info.get("splits", ()))
            for name, info in _read_by_name(card, "dataset_info").items()
        }
    except (KeyError, TypeError) as error:
        raise ValueError("the card's dataset_info must give the num_examples of each of its splits") from error


def _split(card: str, where: str) -> tuple[str, str, str]:
    """Cuts a card into its first fence, its front matter, and the rest from the second fence on."""
    markers = _FRONT_MATTER.match(card)
    if markers is None and re.match(r"---[ \t]*(?:[\r\n]|\Z)", card.lstrip("\ufeff \t\r\n")):
        raise ValueError(f"{where} starts with --- but its front matter does not end with ---: correct it by hand")
    if markers is None:
        return "", "", card
    # not every reader passes over blanks behind a fence
    opening, rest = card[: markers.start(1)], card[markers.end(1) :]
    return re.sub(r"---[ \t]+", "---", opening), markers[1], re.sub(r"\A---[ \t]+(?=[\r\n]|\Z)", "---", rest)


def _marked(body: str, where: str) -> tuple[int, int] | None:
    counts, start, stop = (body.count(BEGIN), body.count(END)), body.find(BEGIN), body.find(END)
    if counts == (0, 0):
        return None
    if counts != (1, 1) or stop < start:
        raise ValueError(
            f"{where} must hold {BEGIN} and, after it, {END}, once each; it holds them {counts[0]} and {counts[1]} "
            "times: correct it by hand"
        )
    return start, stop + len(END)


def _parse(front_matter: str, where: str) -> dict[str, Any]:
    try:
        values = load_yaml(front_matter) or {}
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"the front matter of {where} is not valid YAML: correct it by hand ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"the front matter of {where} must be a YAML mapping, it is a {type(values).__name__}")
    return values


def _read_by_name(card: str, key: str) -> dict[str, dict[str, Any]]:
    _, front_matter, _ = _split(card, "the card")
    return _by_name(key, _parse(front_matter, "the card").get(key))


def _by_name(key: str, entries: Any) -> dict[str, dict[str, Any]]:
    listed = [entries] if isinstance(entries, Mapping) else entries or []
    # a configuration may be given by its name alone
    if not isinstance(listed, list) or not all(isinstance(entry, Mapping | str) for entry in listed):
        raise ValueError(f"the card's {key} must be a list of mappings, not {str(entries)[:100]}: correct it by hand")
    named = [entry if isinstance(entry, Mapping) else {"config_name": entry} for entry in listed]
    return {str(entry.get("config_name", "default")): dict(entry) for entry in named}


def _write_front_matter(theirs: str, old: dict[str, Any], merged: dict[str, Any], newline: str) -> str:
    lead, column, texts = _key_texts(theirs) if old else (theirs, 0, {})
    for key, value in merged.items():
        if key not in old or old[key] != value:
            dumped = textwrap.indent(_dump({key: value}), " " * column)
            # comments and blank lines between this key and the next one are not ours
            tail = re.search(r"(?:^[ \t]*(?:#.*)?\r?\n)*\Z", texts.get(key, ""), re.MULTILINE)
            texts[key] = dumped.replace("\n", newline) + (tail[0] if tail else "")
    text = lead + "".join(texts.values())
    try:
        if _parse(text, "the merged card") == merged:
            return text
    except ValueError:
        pass
    # an anchor that is used further on, merged keys, a document's end: all is written anew
    return _dump(merged).replace("\n", newline)


def _dump(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10_000)


def _key_texts(front_matter: str) -> tuple[str, int, dict[str, str]]:
    """Cuts a block mapping into what stands before it, its indentation, and the text of each top-level key."""
    node = yaml.compose(front_matter, Loader=yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        raise ValueError(
            "the front matter of the README.md on the Hub must be one block mapping: write each of its keys on a line"
        )
    marks = [key.start_mark for key, _ in node.value]
    starts = [mark.index - mark.column for mark in marks]
    stops = [*starts[1:], len(front_matter)]
    texts = {
        key.value if key.tag in _TEXTS else yaml.safe_load(key.value): front_matter[start:stop]
        for (key, _), start, stop in zip(node.value, starts, stops, strict=True)
    }
    return front_matter[: starts[0]], marks[0].column, texts


def _merge_value(key: str, old: Any, new: Any, others: Collection[str]) -> Any:
    if key in _PER_CONFIGURATION:
        before, now = _by_name(key, old), _by_name(key, new)
        return _merge_configurations(before, now, others) if before != now else old
    if key in _FACTS:
        return new
    if isinstance(old, list) and isinstance(new, list):
        return old + [item for item in new if item not in old]
    return old


def _is_default(name: str, configuration: Mapping[str, Any]) -> bool:
    """Whether `datasets` loads a configuration by itself: that of this name, said or not."""
    return name == "default" or bool(configuration.get("default"))


def _merge_configurations(old: dict[str, dict], new: dict[str, dict], others: Collection[str]) -> list[dict[str, Any]]:
    # there may be one default, and other people's is not ours to move; nor can that of this name be another
    settled = any(_is_default(name, entry) for name, entry in old.items() if name in others)
    settled = settled or ("default" in old and "default" not in new)
    renewed = any(_is_default(name, entry) for name, entry in new.items())
    merged = []
    for name, entry in (old | new).items():
        if name not in others and (settled or (renewed and name not in new)):
            entry = {key: value for key, value in entry.items() if key != "default"}
        merged.append({"config_name": name} | entry)
    return merged


def _name_default(part: str, configurations: Mapping[str, Mapping[str, Any]]) -> str:
    default = next((name for name, entry in configurations.items() if _is_default(name, entry)), None)
    # a description may hold such a sentence too, and stands before ours
    if default is None or not (found := [*_DEFAULT.finditer(part)]):
        return part
    return f"{part[: found[-1].start()]}{found[-1][1]}{code(default)}.{part[found[-1].end() :]}"
