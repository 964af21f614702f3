"""List every string that users of panformer can see, or the words that its texts avoid, each with file and line.

python tools/user_strings.py [--out FILE]            help texts, messages, and the texts of the HTML pages
python tools/user_strings.py --words [--out FILE]    occurrences of `WORDS` in strings, comments and documentation
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import click

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "panformer_cli"
TEMPLATES = PACKAGE / "pages" / "templates"
VISIBLE_ATTRIBUTES = {"alt", "aria-label", "placeholder", "title"}

KINDS = {
    "message": "message",
    "warn": "warning",
    "progress": "progress",
    "megabyte_bar": "progress",
    "echo": "output",
    "print_table": "table",
    "print_error": "error",
    "UsageError": "error",
    "BadParameter": "error",
}
"""Functions whose arguments are shown, with the name of what they show; so is what is raised."""

WORDS = {
    r"told|tell(?:s|ing)?|said|says?|saying": "reported, printed, shows",
    r"mend(?:s|ed|ing)?": "fix, repair",
    r"go(?:es|ing)? on|went on": "resumes, continues",
    r"beg(?:in|an|un|ins|inning) anew|anew|afresh": "newly initialized, again",
    r"pictures?": "image",
    r"lettering": "text rendering",
    r"tally|tallies": "evaluator",
    r"spool(?:s|ed)?": "disk list, temporary database",
    r"figures": "metrics, results, scores",
    r"damage[ds]?": "corrupt",
    r"cut short": "truncated",
    r"by heart": "overfit",
    r"in turns?|takes? turns": "interleaved",
    r"lies?|lying|lay": "is, are",
    r"stands?|stood": "is, can be used",
    r"whoever|nobody|somebody|whatever": "the person or thing itself",
    r"(?:for )?want of|(?:is|are) wanted": "lack of, expected",
    r"com(?:es?|ing) about|came about|befell|befalls?": "is created, happens",
    r"the authors'?|the release(?:'s)?": "the reference implementation, official",
    r"(?:told )?kinds of categories": "things and stuff, classes",
    r"no good|is good at": "does not support, supports",
    r"so many": "number of",
    r"at hand": "available",
    r"helper process(?:es)?|team": "worker, rank, process group",
    r"image lines": "result log",
    r"(?:a line|one) an image|ms an image|an image each": "per image",
    r"(?:normal|initial|optim|synchron|recogn|serial|organ|minim|maxim)is(?!m)(?:e\w*|ing|ation)": "-ize",
    r"\w*colour\w*|behaviour\w*|centre[ds]?|neighbour\w*|grey|labelled|labelling|catalogue": "American spelling",
    r"alike|thereof|therein|hence|thus|hitherto|wherever": "a plain word",
}
"""Words to avoid (regular expressions between word boundaries), and what to write instead."""


class Entry(NamedTuple):
    """A text and where it is: `kind` says what shows it."""

    path: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.kind}: {' '.join(self.text.split())}"


def python_entries(path: Path) -> Iterator[Entry]:
    """Yield what a module may show: arguments of raised errors and of `KINDS`, and all other text of two words."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds: dict[ast.AST, str] = {}
    for node in ast.walk(tree):
        call = node.exc if isinstance(node, ast.Raise) else node
        if isinstance(call, ast.Call):
            kind = "error" if isinstance(node, ast.Raise) else KINDS.get(_name(call.func))
            arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
            kinds.update({part: kind for argument in arguments for part in ast.walk(argument)} if kind else {})
    not_shown = {part for node in ast.walk(tree) for part in _not_shown(node)}
    for node in ast.walk(tree):
        text = _text(node)
        if text and node not in not_shown and (node in kinds or re.search(r"[A-Za-z]\S* \S", text)):
            yield Entry(path, getattr(node, "lineno", 0), kinds.get(node, "text"), text)


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "" for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return f"{{{ast.unparse(node.value)}{'!r' if node.conversion == ord('r') else ''}}}"
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _not_shown(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes in `node` that are documentation or pieces of a longer text."""
    if isinstance(node, ast.Expr):  # docstrings, also those of fields
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield from (part for child in node.values for part in ast.walk(child))


def help_entries(command: click.Command, name: str = "panformer") -> Iterator[Entry]:
    """Yield the help of a command, of its options and of its subcommands."""
    function = inspect.unwrap(command.callback) if command.callback else help_entries
    path, line = Path(function.__code__.co_filename), function.__code__.co_firstlineno
    yield Entry(path, line, f"help of {name}", command.help or "")
    for option in command.params:
        if isinstance(option, click.Option) and option.help:
            yield Entry(path, line, f"help of {name} {option.opts[0]}", option.help)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            found = command.get_command(context, word)
            yield from help_entries(found, f"{name} {word}") if found else ()


class _Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.entries = path, list[Entry]()
        source = path.read_text(encoding="utf-8")
        blank = re.sub(r"\{[{%#].*?[}%#]\}", lambda jinja: "\n" * jinja[0].count("\n"), source, flags=re.DOTALL)
        self.feed(blank)
        for tag in re.finditer(r"\{[{%].*?[}%]\}", source, re.DOTALL):
            self._add(source.count("\n", 0, tag.start()) + 1, "page", *_sentences(tag[0]))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._add(self.getpos()[0], "tooltip", *(value or "" for name, value in attrs if name in VISIBLE_ATTRIBUTES))

    def handle_data(self, data: str) -> None:
        self._add(self.getpos()[0], "page", data)

    def _add(self, line: int, kind: str, *texts: str) -> None:
        self.entries += [Entry(self.path, line, kind, text) for text in texts if re.search("[A-Za-z]", text)]


def template_entries(path: Path) -> Iterator[Entry]:
    """Yield the visible texts of a template, or the strings of a script that look like text."""
    if path.suffix in (".html", ".svg"):
        yield from _Page(path).entries
    elif path.suffix == ".js":
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            yield from (Entry(path, number, "script", text) for text in _sentences(line.split("// ")[0]))


def _sentences(code: str) -> list[str]:
    """Return the double-quoted strings in `code` that begin with a capital letter or have a space beside a letter."""
    strings: list[str] = re.findall(r'"((?:[^"\\]|\\.)*)"', code)
    return [text for text in strings if re.search(r"^[A-Z][a-z]|[A-Za-z(] | [A-Za-z]", text)]


def all_entries() -> Iterator[Entry]:
    """Yield everything that a user can see."""
    sys.path.insert(0, str(ROOT))
    from panformer_cli.cli.main import program

    helps = list(help_entries(program))
    shown = {entry.text for entry in helps}
    yield from helps
    for path in sorted(PACKAGE.rglob("*.py")):
        yield from (entry for entry in python_entries(path) if entry.text not in shown)
    for path in sorted(TEMPLATES.iterdir()):
        yield from template_entries(path)


def word_entries() -> Iterator[Entry]:
    """Yield the occurrences of `WORDS`; in Python files only those in strings and comments."""
    patterns = {re.compile(rf"\b(?:{words})\b", re.IGNORECASE): better for words, better in WORDS.items()}
    paths = [path for suffix in ("py", "md", "yaml", "html", "js", "svg") for path in ROOT.rglob(f"*.{suffix}")]
    for path in sorted(paths):
        if path == Path(__file__).resolve() or any(part.startswith(".") for part in path.relative_to(ROOT).parts):
            continue
        for number, line in _prose(path):
            for pattern, better in patterns.items():
                for found in pattern.findall(line):
                    yield Entry(path, number, f"{found.lower()} -> {better}", line)


def _prose(path: Path) -> Iterator[tuple[int, str]]:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), start=1)
        return
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in kinds:
            yield from enumerate(token.string.splitlines(), start=token.start[0])


def main() -> None:
    """Print the list, or write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE", help="Write the list to FILE. [default: stdout]")
    parser.add_argument(
        "--words", action="store_true", help="List the occurrences of words to avoid, and their counts."
    )
    options = parser.parse_args()
    entries = list(word_entries() if options.words else all_entries())
    lines = [str(entry) for entry in entries]
    if options.words:
        lines += [f"{count:5} {word}" for word, count in Counter(entry.kind for entry in entries).most_common()]
    text = "\n".join(lines) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
