import pytest
from markdown_it import MarkdownIt

from longattn_hf.pages import text as markdown

HOSTILE = [
    "a | b",
    "```\n# out of the fence\n```",
    "````` five",
    "`",
    "<script>alert(1)</script> <!-- longattn_hf:end --> </pre>",
    "**bold** _it_ [link](http://x) ![p](y) $x$ ~~s~~ \\",
    "line\u2028break\x00\x1b[31m \u202e reversed",
    "---\nkey: value\n---",
    "\N{FAMILY}\u200d\N{BOY} naïve 日本語",
]


def tokens(text: str) -> list:
    return MarkdownIt("gfm-like", {"linkify": False}).enable("table").parse(text)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("escape", [markdown.prose, markdown.code])
def test_hostile_text_stays_one_cell_of_plain_text(text, escape):
    table = tokens(f"| head | next |\n|---|---|\n| {escape(text)} | last |\n")
    cells = [token for token in table if token.type == "inline"]
    assert [cell.content for cell in cells[:2] + cells[-1:]] == ["head", "next", "last"]
    assert len(cells) == 4
    kinds = {child.type for child in cells[2].children}
    assert kinds <= ({"text", "text_special"} if escape is markdown.prose else {"code_inline"})
    shown = "".join(child.content for child in cells[2].children)
    assert shown == markdown.plain(text)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("block", [markdown.fence, markdown.excerpt])
def test_hostile_text_stays_inside_its_fence(text, block):
    (fence,) = tokens(block(text))
    assert fence.type == "fence" and fence.info == "text"
    assert "<!--" not in fence.content


def test_an_excerpt_keeps_its_lines_but_not_its_blank_ones_and_wraps_long_ones():
    text = "    def f():\n\n        return 1\n" + "    " + "word " * 40
    lines = markdown.excerpt(text).splitlines()
    assert lines[:3] == ["```text", "def f():", "    return 1"]
    assert max(map(len, lines)) <= 100 and len(lines) == 6


def test_a_fence_keeps_the_spaces_within_a_line():
    assert markdown.fence("a   b \n\tc\u00a0 d").splitlines() == ["```text", "a   b", "    c  d", "```"]


def test_characters_that_do_not_print_are_shown_and_joiners_stay():
    assert markdown.plain("a\x00b\u202ec\u200dd") == "a\ufffdb\ufffdc\u200dd"


def test_values_that_are_not_text_are_json_and_null_is_none():
    assert markdown.code(None) == "`none`"
    assert markdown.code(True) == "`true`"
    assert markdown.code({"é": [1, 2.5]}) == '`{"é": [1, 2.5]}`'
