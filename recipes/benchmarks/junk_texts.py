"""Makers of junk, each a few templates with fields that change, the words taken from real documents."""

import json
import random
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count


@dataclass(frozen=True, kw_only=True)
class Words:
    """What junk is made of.

    Attributes:
        words: Words of real documents, in their order.
        sentences: Sentences of them.
        passage: A passage of them.
    """

    words: Sequence[str]
    sentences: Sequence[str]
    passage: str


def _fill(lines: Iterator[str], characters: int, end: str = "\n") -> str:
    """Joins lines until there are so many characters."""
    parts, size = [], 0
    while size < characters:
        parts.append(next(lines))
        size += len(parts[-1]) + len(end)
    return end.join(parts)


def _some(words: Words, rng: random.Random, least: int, most: int) -> str:
    start = rng.randrange(max(len(words.words) - most, 1))
    return " ".join(words.words[start : start + rng.randint(least, most)])


def _logs(words: Words, characters: int, rng: random.Random) -> str:
    time = datetime(2024, 3, 1)
    style = rng.randrange(3)
    names = [rng.choice(words.words).lower() for _ in range(8)]
    messages = [_some(words, rng, 3, 8) for _ in range(rng.randint(6, 14))]

    def lines() -> Iterator[str]:
        nonlocal time
        for number in count(rng.randrange(10**5)):
            time += timedelta(milliseconds=rng.randrange(20, 9000))
            name, message, value = rng.choice(names), rng.choice(messages), rng.randrange(10**4)
            level = rng.choice(["INFO", "INFO", "INFO", "DEBUG", "WARN", "ERROR"])
            address = ".".join(str(rng.randrange(256)) for _ in range(4))
            if style == 0:
                yield f"{time.isoformat(timespec='milliseconds')} {level:5} [{name}-{value % 8}] {message} id={value}"
            elif style == 1:
                yield (
                    f'{address} - - [{time:%d/%b/%Y:%H:%M:%S} +0000] "GET /{name}/{value} HTTP/1.1" '
                    f'{rng.choice([200, 200, 304, 404])} {value * 7} "-" "{message}"'
                )
            else:
                yield f"{time:%b %d %H:%M:%S} {name} {rng.choice(names)}[{value}]: {message} ({number}, {value} ms)"

    return _fill(lines(), characters)


def _chat(words: Words, characters: int, rng: random.Random) -> str:
    people = [rng.choice(words.words).capitalize() for _ in range(rng.randint(3, 6))]
    short = ["ok", "yes", "no", "lol", "thanks!", "see you", "?", "haha", "+1", "brb", "good night"]
    style, time = rng.randrange(2), datetime(2023, 6, 1, 9)

    def lines() -> Iterator[str]:
        nonlocal time
        while True:
            time += timedelta(seconds=rng.randrange(5, 600))
            saying = rng.choice(short) if rng.random() < 0.4 else _some(words, rng, 2, 10).lower()
            person = rng.choice(people)
            yield f"[{time:%H:%M}] <{person}> {saying}" if style else f"{person} ({time:%d.%m.%y, %H:%M}): {saying}"

    return _fill(lines(), characters)


def _csv(words: Words, characters: int, rng: random.Random) -> str:
    names = [rng.choice(words.words) for _ in range(40)]
    columns = [rng.choice(["int", "float", "name", "date", "flag"]) for _ in range(rng.randint(5, 12))]
    separator = rng.choice([",", ";", "\t"])

    def field(kind: str) -> str:
        return {
            "int": str(rng.randrange(10 ** rng.randint(1, 6))),
            "float": f"{rng.gauss(50, 20):.{rng.randint(1, 4)}f}",
            "name": rng.choice(names),
            "date": f"20{rng.randint(10, 24)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
            "flag": rng.choice(["true", "false", ""]),
        }[kind]

    def lines() -> Iterator[str]:
        yield separator.join(f"{rng.choice(names)}_{i}" for i in range(len(columns)))
        for number in count(1):
            yield separator.join([str(number), *map(field, columns)])

    return _fill(lines(), characters)


def _json(words: Words, characters: int, rng: random.Random) -> str:
    keys = [rng.choice(words.words).lower() for _ in range(rng.randint(5, 10))]
    indent = rng.choice([None, 2, 4])

    def lines() -> Iterator[str]:
        for number in count(1):
            record: dict[str, object] = {"id": number}
            for place, key in enumerate(keys):
                record[key] = [
                    rng.randrange(10**6),
                    _some(words, rng, 1, 6),
                    rng.random() < 0.5,
                    [rng.choice(words.words) for _ in range(3)],
                    {"value": round(rng.random(), 4), "unit": rng.choice(keys)},
                ][place % 5]
            yield json.dumps(record, indent=indent, ensure_ascii=False)

    return "[" + _fill(lines(), characters, ",\n")


def _templates(words: Words, characters: int, rng: random.Random) -> str:
    """Pages of a catalogue or a profile, the fields of which change."""
    labels = [_some(words, rng, 1, 3).capitalize() for _ in range(rng.randint(6, 12))]
    frame = [rng.choice(words.sentences) for _ in range(4)]

    def lines() -> Iterator[str]:
        for number in count(rng.randrange(10**4)):
            fields = [f"{label}: {_some(words, rng, 1, 4)}" for label in labels]
            yield f"{labels[0]} {number}\n\n{frame[0]}\n" + "\n".join(fields) + f"\n{frame[1]}\n{frame[number % 4]}\n"

    return _fill(lines(), characters)


def _form_letters(words: Words, characters: int, rng: random.Random) -> str:
    body = rng.sample(list(words.sentences), min(rng.randint(5, 9), len(words.sentences)))

    def lines() -> Iterator[str]:
        for number in count(rng.randrange(10**4)):
            name, place = rng.choice(words.words).capitalize(), rng.choice(words.words).capitalize()
            sentences = [s if rng.random() < 0.8 else f"{s} ({rng.randrange(1000)} {place})" for s in body]
            yield (
                f"No. {number}\n{name}, {place}\n\n{name}!\n\n"
                + " ".join(sentences)
                + f"\n\n{place}, {number % 28 + 1}"
            )

    return _fill(lines(), characters, "\n\n\n")


def _indexes(words: Words, characters: int, rng: random.Random) -> str:
    def pages() -> str:
        return ", ".join(str(n) for n in sorted(rng.sample(range(1, 700), rng.randint(1, 6))))

    entries = sorted({_some(words, rng, 1, 3) for _ in range(characters // 12)}, key=str.lower)

    def lines() -> Iterator[str]:
        while True:
            for entry in entries:
                yield f"{entry}, {pages()}"
                if rng.random() < 0.2:
                    yield f"  {_some(words, rng, 1, 3)}, {pages()}"

    return _fill(lines(), characters)


def _licences(words: Words, characters: int, rng: random.Random) -> str:
    """Notices, as a program prints them: one short licence for every part of it."""
    notice = (
        "Permission is hereby granted, free of charge, to any person obtaining a copy of {part} and associated "
        'documentation files (the "{part}"), to deal in the {part} without restriction, including without limitation '
        "the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the {part}, "
        "and to permit persons to whom the {part} is furnished to do so, subject to the following conditions:\n\nThe "
        "above copyright notice and this permission notice shall be included in all copies or substantial portions of "
        'the {part}.\n\nTHE {part} IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED.'
    )
    clause = (
        "Redistribution and use in source and binary forms of {part}, with or without modification, are permitted "
        "provided that the following conditions are met:\n  * Redistributions of source code must retain the above "
        "copyright notice, this list of conditions and the following disclaimer.\n  * Neither the name of {owner} nor "
        "the names of its contributors may be used to endorse or promote products derived from this software."
    )

    def lines() -> Iterator[str]:
        while True:
            part, owner = _some(words, rng, 1, 2), _some(words, rng, 1, 2).title()
            text = rng.choice([notice, clause]).format(part=part, owner=owner)
            yield f"{part}\nCopyright (c) {rng.randint(1990, 2024)} {owner}\n\n{text}\n" + "-" * 60

    return _fill(lines(), characters)


def _generated_code(words: Words, characters: int, rng: random.Random) -> str:
    types = ["int32", "int64", "string", "bool", "double", "bytes"]
    style = rng.randrange(2)

    def lines() -> Iterator[str]:
        for number in count(1):
            name, kind = rng.choice(words.words).capitalize(), rng.choice(types)
            if style:
                yield (
                    f"  public {kind} get{name}{number}() {{\n    return this.{name.lower()}_{number}_;\n  }}\n"
                    f"  public Builder set{name}{number}({kind} value) {{\n"
                    f"    this.{name.lower()}_{number}_ = value;\n"
                    f"    bitField_ |= 0x{number % 2**16:08x};\n    onChanged();\n    return this;\n  }}\n"
                )
            else:
                yield (
                    f"class {name}{number}(metaclass=DummyObject):\n    _backends = ['{kind}']\n\n"
                    f"    def __init__(self, *args, **kwargs):\n        requires_backends(self, ['{kind}'])\n\n"
                )

    return _fill(lines(), characters)


def _bibliographies(words: Words, characters: int, rng: random.Random) -> str:
    style = rng.randrange(3)
    journals = [_some(words, rng, 1, 3).title() for _ in range(12)]

    def author() -> str:
        return f"{rng.choice(string.ascii_uppercase)}. {rng.choice(words.words).capitalize()}"

    def lines() -> Iterator[str]:
        for number in count(1):
            authors = ", ".join(author() for _ in range(rng.randint(1, 4)))
            title, journal = _some(words, rng, 4, 10).capitalize(), rng.choice(journals)
            year, volume, page = rng.randint(1960, 2024), rng.randint(1, 90), rng.randint(1, 900)
            if style == 0:
                yield f"[{number}] {authors}. {title}. {journal}, {volume}:{page}-{page + rng.randint(3, 30)}, {year}."
            elif style == 1:
                key = authors.split()[1].lower().strip(",")
                yield (
                    f"\\bibitem{{{key}{year}}} {authors}, \\emph{{{title}}}, {journal} \\textbf{{{volume}}} "
                    f"({year}), {page}--{page + 9}."
                )
            else:
                yield f"{authors} ({year}). {title}. {journal} {volume}({rng.randint(1, 12)}), {page}-{page + 12}."

    return _fill(lines(), characters)


def _dictionaries(words: Words, characters: int, rng: random.Random) -> str:
    heads = sorted({w.lower() for w in rng.choices(words.words, k=characters // 30)})

    def lines() -> Iterator[str]:
        while True:
            for head in heads:
                part = rng.choice(["n.", "v.", "adj.", "adv."])
                senses = "; ".join(f"{i}. {_some(words, rng, 2, 7).lower()}" for i in range(1, rng.randint(2, 4)))
                yield f"{head} /{head[::-1]}/ {part} {senses}."

    return _fill(lines(), characters)


def _ocr_noise(words: Words, characters: int, rng: random.Random) -> str:
    """A real passage, badly read: letters replaced, split and lost, lines broken, a running head on each page."""
    alike = {"e": "c", "l": "1", "o": "0", "i": "j", "n": "ii", "m": "rn", "h": "b", "s": "5", "t": "f", "u": "ii"}
    rate, head, parts = rng.uniform(0.08, 0.2), _some(words, rng, 2, 4).upper(), []
    start = rng.randrange(max(len(words.passage) - characters, 1))
    for place, letter in enumerate(words.passage[start : start + characters]):
        chance = rng.random()
        if chance < rate:
            parts.append(alike.get(letter, rng.choice(["", ".", " ", "'", "~", "^", letter.upper()])))
        else:
            parts.append("\n" if letter == " " and chance > 0.93 else letter)
        if place % 1800 == 1799:
            parts.append(f"\n\n{place // 1800 + 100} {head} .\n\n")
    return "".join(parts)


MAKERS: dict[str, Callable[[Words, int, random.Random], str]] = {
    "logs": _logs,
    "chat": _chat,
    "csv": _csv,
    "json": _json,
    "templates": _templates,
    "form_letters": _form_letters,
    "indexes": _indexes,
    "licences": _licences,
    "generated_code": _generated_code,
    "bibliographies": _bibliographies,
    "dictionaries": _dictionaries,
    "ocr_noise": _ocr_noise,
}
