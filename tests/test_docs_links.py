"""Every relative link of the documentation leads to a file, and to a heading where it names one."""

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
CODE = re.compile(r"^( *)(```|~~~).*?^\1\2|`[^`\n]+`", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def documents() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:  # not a checkout: an unpacked archive
        return sorted(REPOSITORY.glob("*.md")) + sorted(REPOSITORY.glob("[a-z]*/**/*.md"))
    return sorted({REPOSITORY / line for line in done.stdout.splitlines() if (REPOSITORY / line).is_file()})


def anchors(text: str) -> set[str]:
    """Return the anchors that the headings of a document get."""
    found: dict[str, int] = {}
    result = set()
    for heading in HEADING.findall(re.sub(r"^( *)(```|~~~).*?^\1\2", "", text, flags=re.MULTILINE | re.DOTALL)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        result.add(f"{slug}-{count}" if count else slug)
    return result


def broken(path: Path) -> list[str]:
    """Return the relative links of a document that lead nowhere."""
    root = REPOSITORY if path.is_relative_to(REPOSITORY) else path.parent
    wrong = []
    for target in LINK.findall(CODE.sub("", path.read_text())):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        known = not anchor or there.suffix != ".md" or (there.is_file() and anchor in anchors(there.read_text()))
        if not (there.is_relative_to(root) and there.exists() and known):
            wrong.append(target)
    return wrong


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("path", documents(), ids=name_of)
def test_links_lead_somewhere(path):
    assert broken(path) == []


def test_the_map_has_every_document():
    """docs/README.md links each document: one that it leaves out is one that nobody finds."""
    home = REPOSITORY / "docs"
    linked = {(home / target.partition("#")[0]).resolve() for target in LINK.findall((home / "README.md").read_text())}
    lost = [name_of(path) for path in sorted(home.glob("**/*.md")) if path.name != "README.md" and path not in linked]
    assert lost == []


def test_a_broken_link_is_seen(tmp_path):
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# One `thing`, two\n\n# Same\n\n# Same\n")
    page.write_text(
        "[a](other.md) [b](other.md#one-thing-two) [c](other.md#same-1) [d](https://example.org/x) `[code](none.md)`\n"
        "```\n[code](none.md)\n```\n[x](none.md) [y](other.md#three) ![z](none.png)\n"
    )
    assert broken(page) == ["none.md", "other.md#three", "none.png"]
