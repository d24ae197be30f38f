"""Documents stay true: the files, commands, modules, names and headings that they mention exist; the glossary names every room."""

import importlib
import json
import re
import subprocess
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import typer
import yaml

from sbh_pipelines.api.schema.openapi import document_of
from sbh_pipelines.cli.app import app
from sbh_pipelines.errors.page import page as errors_page
from sbh_pipelines.settings import Settings
from sbh_pipelines_tests.support.command_lines import CommandLine, misread, of_document, of_source

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sbh_pipelines"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
ROOMS = sorted(folder.parent for folder in PACKAGE.rglob("__init__.py"))
GLOSSARY = ROOT / "docs" / "glossary.md"

# Documents that speak of the code as it was when they were written.
HISTORY = {ROOT / "CHANGELOG.md", *ROOT.glob("docs/decisions/*.md")}
# In these every name in backticks is a word of the code: they tell people where to write.
SIGNPOSTS = sorted([*ROOT.glob("ARCHITECTURE.md"), *ROOT.glob("CONTRIBUTING.md"), *ROOT.glob("docs/guides/*.md")])
_SUFFIXES = r"py|md|toml|yaml|yml|json|conf|cfg|txt"
_FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.M | re.S)
_LOGGERS = {"sbh_pipelines.api", "sbh_pipelines.api.access"}


def prose(text: str) -> str:
    """A document without its blocks of code."""
    return _FENCE.sub("", text)


def in_backticks(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def project_paths(text: str) -> Iterator[str]:
    """Names in backticks that can only be files or folders of this project."""
    folders = {folder.name for base in (ROOT, PACKAGE) for folder in base.iterdir() if folder.is_dir()} - {"files"}
    for name in in_backticks(text):
        if not re.fullmatch(r"[\w.\-/]+", name) or name.startswith("/"):
            continue
        first = name.split("/")[0]
        source = re.fullmatch(r"[\w\-/]+\.py", name)
        inside = "/" in name and first in folders and (name.endswith("/") or re.search(rf"\.({_SUFFIXES})$", name))
        if source or inside:
            yield name


def missing(paths: Iterator[str], *bases: Path) -> list[str]:
    return [path for path in paths if not any((base / path).exists() for base in bases)]


@cache
def words_of_the_code() -> frozenset[str]:
    sources = [*ROOT.glob("*.toml"), ROOT / "Makefile", *ROOT.glob("bench/*.py")]
    for package in (PACKAGE, ROOT / "sbh_pipelines_tests"):
        sources += package.rglob("*.py")
    names = {part for file in sources for part in (file.stem, *file.relative_to(ROOT).parts)}
    own = Path(__file__)
    return frozenset(names.union(*(re.findall(r"\w+", f.read_text("utf-8")) for f in sources if f != own)))


def ids(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("document", sorted(set(DOCUMENTS) - HISTORY), ids=ids)
def test_files_that_a_document_names_exist(document: Path) -> None:
    """Paths are from the root of the repository, or from the package; beside the document also plain names."""
    text = document.read_text("utf-8")
    assert missing(project_paths(prose(text)), ROOT, PACKAGE, document.parent) == []
    drawn = (path for block in _FENCE.findall(text) for path in re.findall(r"\w+(?:/\w+)+\.(?:py|md|yaml)\b", block))
    assert missing(drawn, ROOT, PACKAGE) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_command_lines_that_a_document_shows_are_taken(document: Path) -> None:
    """Commands, options, choices and arguments of `sbh`; in blocks also what may not be left out."""
    lines = [] if document.name == "format.md" else of_document(document)  # `sbh seal` there is the label of a key
    assert {line.text: said for line in lines if (said := misread(line))} == {}


def test_command_lines_that_the_program_shows_are_taken() -> None:
    """A remedy is a command that exists."""
    lines = (line for file in sorted(PACKAGE.rglob("*.py")) for line in of_source(file))
    assert {line.text: said for line in lines if (said := misread(line))} == {}


def _shell(text: str) -> None:
    subprocess.run(["bash", "-n"], input=text, text=True, check=True, capture_output=True)


# What reads a block as whoever pastes it has it read.
READERS: dict[str, Callable[[str], object]] = {
    "toml": lambda text: Settings.model_validate(tomllib.loads(text)),
    "json": json.loads,
    "yaml": yaml.safe_load,
    "sh": _shell,
    "bash": _shell,
}


def test_blocks_to_paste_are_taken() -> None:
    """Settings by the settings, shell by bash, each by what it is pasted into."""
    read = []
    for document in DOCUMENTS:
        for _, language, text in _BLOCK.findall(document.read_text("utf-8")):
            if language in READERS:
                READERS[language](textwrap.dedent(text))
                read.append(language)
    assert set(read) == READERS.keys()


def test_every_code_of_an_error_is_explained() -> None:
    committed = (ROOT / "docs" / "errors.md").read_text("utf-8")
    assert committed == errors_page(), "run: python -m sbh_pipelines.errors.page > docs/errors.md"


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_targets_that_a_document_names_exist(document: Path) -> None:
    """`make NAME`, in text and in blocks."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    named = re.findall(r"(?:`|^)make ([a-z]+)", document.read_text("utf-8"), re.M)
    assert set(named) - set(targets) == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_links_of_a_document_lead_somewhere(document: Path) -> None:
    """Files and headings; addresses of other hosts are not asked."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document.read_text("utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("document", sorted(set(DOCUMENTS) - HISTORY), ids=ids)
def test_modules_that_a_document_names_exist(document: Path) -> None:
    """Dotted names below `sbh_pipelines`, in blocks of code as well."""
    for name in set(re.findall(r"\bsbh_pipelines(?:\.\w+)+", document.read_text("utf-8"))) - _LOGGERS:
        parts = name.split(".")
        while not ((file := ROOT.joinpath(*parts)).is_dir() or file.with_suffix(".py").exists()):
            parts.pop()
        module, rest = importlib.import_module(".".join(parts)), name.split(".")[len(parts) :]
        assert len(rest) <= 1, f"{name}: there is no module {'.'.join([*parts, rest[0]])}"
        assert not rest or hasattr(module, rest[0]), name


@pytest.mark.parametrize("document", SIGNPOSTS, ids=ids)
def test_names_that_a_signpost_gives_are_in_the_code(document: Path) -> None:
    """Functions, classes, constants and settings in backticks. Names that a reader is to invent stand in blocks."""
    names = [n for n in in_backticks(prose(document.read_text("utf-8"))) if re.fullmatch(r"[A-Za-z_][\w.]*(\(\))?", n)]
    names = [n for n in names if not re.search(rf"\.({_SUFFIXES})$", n)]  # files are tested above
    unknown = {n for n in names if not {*n.removesuffix("()").split(".")} <= words_of_the_code()}
    assert unknown == set()


@pytest.mark.parametrize("room", ROOMS, ids=ids)
def test_a_package_says_what_it_holds(room: Path) -> None:
    """Each package has a docstring; files and names that it mentions exist.

    Its tables list files. Where one of them is indented, the others list words.
    """
    text = (room / "__init__.py").read_text("utf-8")
    found = re.match(r'"""(.*?)"""', text, re.S)
    assert found, "no docstring"
    assert missing(project_paths(found[1]), ROOT, PACKAGE, room) == []
    inside = {file.stem for file in room.rglob("*.py")} | {folder.name for folder in room.rglob("*")}
    names = [n for n in in_backticks(found[1]) if re.fullmatch(r"[a-z_]\w*", n)]
    assert [n for n in names if n not in inside and n not in words_of_the_code()] == []
    indented = re.findall(r"^    (\w+(?:, \w+)*)  +\S", found[1], re.M)
    tables = indented or re.findall(r"^(\w+(?:, \w+)*)  +\S", found[1], re.M)
    listed = [name for line in tables for name in line.split(", ")]
    assert [n for n in listed if n not in {child.stem for child in room.iterdir()}] == []


def anchors(file: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_layers_are_those_that_are_linted() -> None:
    """ARCHITECTURE.md draws the contracts of pyproject.toml, layer by layer."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    linted = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    drawn = _FENCE.findall((ROOT / "ARCHITECTURE.md").read_text("utf-8"))[: len(linted)]
    for layers, block in zip(linted, drawn, strict=True):
        lines = [re.split(r"  +", line)[0] for line in block.splitlines()[1:-1]]
        assert lines == [layer.replace("sbh_pipelines.", "") for layer in layers]


# The glossary


def rows(heading: str | None = None) -> list[list[str]]:
    """Cells of the glossary's tables, below one heading or all; without the tables' own headings."""
    text = GLOSSARY.read_text("utf-8")
    if heading is not None:
        text = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    tables = re.findall(r"^\|[^\n]+\n\|[-|]+\n((?:\|.*\n?)+)", text, re.M)
    return [[cell.strip() for cell in line.strip("|").split("|")] for table in tables for line in table.splitlines()]


def test_every_folder_is_in_the_glossary() -> None:
    """A folder is the room of a word, or is listed with its reason. Every room exists."""
    named = {name.strip("/") for row in rows() for cell in row for name in in_backticks(cell)}
    folders = {str(room.relative_to(PACKAGE)) for room in ROOMS if room != PACKAGE}
    # A package's own folder is at home where the folders in it are.
    parents = {name.rpartition("/")[0] for name in named}
    assert folders - named - parents == set()
    assert [
        cell for row in rows() for cell in in_backticks(row[-1]) if cell.endswith("/") and not (PACKAGE / cell).exists()
    ] == []


def test_a_word_has_one_meaning() -> None:
    terms = [row[0] for row in rows() if len(row) == 3]
    assert sorted({term for term in terms if terms.count(term) > 1}) == []


def test_a_noun_has_one_name_in_all_faces() -> None:
    """Engine, command line, API and Dagster. Where a name differs the glossary says why; nothing is left out."""
    commands, tags, engine, dagster = set(), set(), set(), set()
    for noun, rooms, groups, tag, folder, why in rows("One noun, several faces"):
        names = [Path(room).stem for room in (*in_backticks(rooms), *in_backticks(folder))]
        names += [*in_backticks(groups), *([tag.lower()] if tag else [])]
        differs = [name for name in names if name not in (noun, noun + "s", noun.removesuffix("s"))]
        assert why or not differs, (noun, differs)
        commands |= {*in_backticks(groups)}
        tags |= {tag} - {""}
        engine |= {*in_backticks(rooms)}
        dagster |= {*in_backticks(folder)}
    assert commands == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert tags == api_tags()
    assert [room for room in engine | dagster if not (PACKAGE / room).exists()] == []
    verbs = {f"backup/{room.name}/" for room in ROOMS if room.parent == PACKAGE / "backup"}
    assert verbs - engine == {"backup/service/", "backup/site/"}
    jobs = {f"orchestration/{room.name}/" for room in ROOMS if room.parent == PACKAGE / "orchestration"}
    assert jobs - dagster == set()


def api_tags() -> set[str]:
    from fastapi import FastAPI

    api = FastAPI()
    document_of(api)
    return {tag["name"] for tag in api.openapi()["tags"]}


# The checks can fail


def test_wrong_names_are_found(tmp_path: Path) -> None:
    text = "`backup/restore/nowhere.py`, `nowhere.py`, `docs/nowhere.md`, `database/nowhere/`, `model.py`, `holds/`, `sbh.toml`"
    wrong = ["backup/restore/nowhere.py", "nowhere.py", "docs/nowhere.md", "database/nowhere/"]
    assert missing(project_paths(text), ROOT, PACKAGE) == wrong
    (tmp_path / "page.md").write_text("# One heading\n## And: a second, `quoted`\n")
    assert anchors(tmp_path / "page.md") == {"one-heading", "and-a-second-quoted"}


def test_wrong_command_lines_are_found(tmp_path: Path) -> None:
    shown = {
        "sbh restore run BACKUP -t T --row 'x y' --confirm": "No such option: --row",
        "sbh restore explode latest": "No such command 'explode'",
        "sbh restore diff|explode latest -t T": "No such command 'explode'",
        "sbh restore run BACKUP -t T --mode sideways": "Invalid value for '--mode'",
        "sbh drill run TENANT": "unexpected extra argument",
        "sbh restore run": "Missing argument",
    }
    for text, said in shown.items():
        assert said in misread(CommandLine(text, whole=True)), text
    right = 'sbh restore run "$BACKUP" --rows "projects where id in (1)" -t T --mode exact'
    assert misread(CommandLine(right, whole=True)) == ""
    assert misread(CommandLine("sbh restore run", whole=False)) == ""
    page = tmp_path / "page.md"
    page.write_text(
        '`sbh health`\n\n```sh\nX=1 sbh doctor && sbh backup list "$(sbh token issue -q | head)"  # why\n```\n'
    )
    assert [line.text for line in of_document(page)] == [
        "sbh doctor",
        "sbh backup list X",
        "sbh token issue -q",
        "sbh health",
    ]
