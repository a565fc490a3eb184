"""Pairs and running text out of Python docstrings and manual pages, cleaned, deduplicated and split by package.

    bash research/fetch_man_pages.sh MAN
    python research/collect_text.py DEBIAN OUT --packages SITE-PACKAGES... --man MAN

DEBIAN  folder with Debian's {valid,test}.{src,tgt} and text.txt.gz: nothing that stands there in the valid or test part is
        collected
OUT     gets docstrings/ and manuals/ with {train,valid,test,outside}.{src,tgt,origin}, text.train and text.valid (running text,
        documents separated by blank lines, Debian's included) and packages.md, which also goes to stdout

A docstring's pair: what it says below its first sentence -> that sentence. A manual page's: prose of DESCRIPTION -> the line in
NAME. Sources are parsed, never imported. Python packages are taken where their metadata names a permissive licence.
"""

import argparse
import ast
import gzip
import hashlib
import re
import subprocess
import sys
import sysconfig
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from email.parser import Parser
from pathlib import Path

from clean_text import BLOCK, MARKS, UNFINISHED, clean_target, cut, is_prose, plain, prose, says, split_sentence, words

# Whole packages that no training part sees. outside: other code and other programs than any part has.
PARTS = {
    "docstrings": {
        "valid": "networkx celery kombu marshmallow sqlparse pendulum geopandas shapely parso luigi",
        "test": "flask requests werkzeug jinja2 click scrapy xarray pygments rich pillow simpy traitlets docker",
        "outside": "pandas scipy scikit-learn",
    },
    "manuals": {
        "valid": "nmh libpcap0.8-dev tk8.6-doc x11-apps libxext-dev cups-client libarchive-dev",
        "test": "postgresql-client-15 postgresql-doc-15 openssh-client sudo x11-utils x11-xserver-utils krb5-user ldap-utils"
        " ncurses-doc tmux",
        "outside": "coreutils util-linux",
    },
}
# As the packages' copyright files say; pages of manpages and manpages-dev name their own (SPDX).
MAN_LICENCES = {
    "manpages": "Linux-man-pages-copyleft", "manpages-dev": "Linux-man-pages-copyleft", "coreutils": "GPL-3+",
    "util-linux": "GPL-2+", "bsdgames": "BSD-3-Clause", "cups-client": "Apache-2.0 WITH GPL2-LGPL2-Exception",
    "erlang-manpages": "Apache-2.0", "freebsd-manpages": "BSD-2-Clause AND BSD-4-Clause", "krb5-user": "MIT",
    "ldap-utils": "OLDAP-2.8", "libarchive-dev": "BSD-2-Clause", "libbsd-dev": "BSD-3-Clause", "libcurl4-doc": "curl",
    "libibverbs-dev": "BSD-2-Clause OR GPL-2", "libpcap0.8-dev": "BSD-3-Clause", "libssl-doc": "Apache-2.0",
    "libtiff-tools": "libtiff", "libx11-doc": "MIT", "libxext-dev": "MIT", "ncurses-doc": "MIT",
    "netcat-openbsd": "BSD-3-Clause", "nmh": "BSD-3-Clause", "openssh-client": "BSD-2-Clause",
    "postgresql-client-15": "PostgreSQL", "postgresql-doc-15": "PostgreSQL", "sudo": "ISC", "tcl8.6-doc": "TCL",
    "tcllib": "TCL", "tk8.6-doc": "TCL", "tklib": "TCL", "tmux": "ISC", "x11-apps": "MIT", "x11-utils": "MIT",
    "x11-xserver-utils": "MIT",
}  # fmt: skip
PERMISSIVE = re.compile(
    r"\b(MIT|BSD|Apache|ISC|PSF|Python Software Foundation|HPND|Zlib|Unlicense|0BSD|MIT-CMU)\b", re.IGNORECASE
)
RESTRICTIVE = re.compile(r"GPL|General Public|MPL|Mozilla|Proprietary|EUPL|Creative Commons|CC-BY", re.IGNORECASE)
SKIPPED_FOLDERS = {
    "tests", "test", "testing", "_vendor", "vendor", "vendored", "_vendored", "externals", "extern", "migrations", "idlelib",
    "lib2to3",
}  # fmt: skip
MOST_FILES = 250  # of a package: large ones would drown the others, and parsing is most of the time
LARGEST_FILE = 300_000  # bytes; larger ones are tables
GENERATED = {"plotly", "kubernetes"}  # packages whose docstrings a program has written
MOST_PAIRS = {"train": 4000, "valid": 1000, "test": 1000, "outside": 1000}  # train: of a package; else: of the part
LEAST_WORDS = 8  # of a source
MOST_PAIRS_ALIKE = 12  # of a package, whose targets begin with the same three words


# ---- what is collected ----


@dataclass
class Found:
    """A text with its package; target and source are "" where it serves as running text alone."""

    package: str
    origin: str
    document: str
    source: str = ""
    target: str = ""


@dataclass
class Package:
    kind: str
    name: str
    licence: str
    page_licences: Counter = field(default_factory=Counter)  # pages that name their own
    found: list[Found] = field(default_factory=list)

    @property
    def part(self) -> str:
        return next((part for part, names in PARTS[self.kind].items() if self.name in names.split()), "train")


def as_found(package: str, origin: str, title: str, paragraphs: list[str]) -> Found | None:
    """A text of title and prose; a pair too where both are fit for it. None where there is too little of it."""
    document = "\n".join([title, *paragraphs])
    source, target = cut(paragraphs), clean_target(title)
    if target and len(source.split()) >= LEAST_WORDS and says(source, target) and target.lower() not in source.lower():
        return Found(package, origin, document, source, target)
    return Found(package, origin, document) if len(document.split()) >= 20 and is_prose(document) else None


# ---- docstrings ----

Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(source: bytes, origin: str) -> Iterator[tuple[str, str]]:
    """Names and docstrings of a source file: of the module, its classes and functions, in their order."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    pending: list[tuple[str, Scope]] = [(origin, tree)]
    while pending:
        name, node = pending.pop()
        if docstring := ast.get_docstring(node):
            yield name, docstring
        below = [n for n in node.body if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
        pending += [(f"{name}.{n.name}", n) for n in reversed(below)]


def from_docstring(package: str, origin: str, docstring: str) -> Found | None:
    paragraphs = prose(docstring)
    if not paragraphs:
        return None
    title, rest = split_sentence(paragraphs[0])
    return as_found(package, origin, title, ([rest] if is_prose(rest) else []) + paragraphs[1:])


def licence_of(metadata: Iterable[tuple[str, str]]) -> str:
    """The licence that a package's metadata names, "" where it is none that we take."""
    fields = list(metadata)
    named = [v for k, v in fields if k == "License-Expression"]
    named += [
        v.rpartition("::")[2].strip() for k, v in fields if k == "Classifier" and v.startswith("License") and v.count("::") > 1
    ]
    named += [v.strip().split("\n")[0][:40] for k, v in fields if k == "License"]
    if any(RESTRICTIVE.search(name) for name in named):
        return ""
    return next((name for name in named if PERMISSIVE.search(name)), "")


def python_packages(folders: Iterable[Path]) -> Iterator[tuple[str, str, list[Path]]]:
    """Names, licences and source files of Python's standard library and of installed packages, each once, in the names' order."""
    library = Path(sysconfig.get_path("stdlib"))
    yield "python", "PSF-2.0", [p for p in sorted(library.rglob("*.py")) if "site-packages" not in p.parts]
    installed: dict[str, tuple[str, list[Path]]] = {}
    for folder in folders:
        for info in sorted(folder.glob("*.dist-info")):
            metadata = Parser().parsestr((info / "METADATA").read_text("utf-8", "replace"), headersonly=True)
            name = re.sub(r"[-_.]+", "-", metadata["Name"]).lower()
            record = info / "RECORD"
            if name in installed or not record.exists():
                continue
            names = sorted(line.partition(",")[0].strip('"') for line in record.read_text("utf-8").splitlines())
            installed[name] = licence_of(metadata.items()), [folder / n for n in names if n.endswith(".py") and ".." not in n]
    for name, (licence, files) in sorted(installed.items()):
        if licence and name not in GENERATED:
            yield name, licence, files


def collect_docstrings(folders: Iterable[Path]) -> Iterator[Package]:
    roots = [Path(sysconfig.get_path("stdlib")), *folders]
    for name, licence, files in python_packages(folders):
        package = Package("docstrings", name, licence)
        modules = []
        for path in files:
            below = path.relative_to(next(root for root in reversed(roots) if path.is_relative_to(root)))
            if not SKIPPED_FOLDERS & set(below.parts) and not path.name.startswith(("test_", "conftest")) and path.exists():
                modules.append((".".join(below.with_suffix("").parts).removesuffix(".__init__"), path))
        for module, path in sorted(sorted(modules, key=lambda m: order(m[0]))[:MOST_FILES]):
            source = path.read_bytes()
            if len(source) <= LARGEST_FILE and (b'"""' in source or b"'''" in source):
                package.found += [f for n, d in docstrings(source, module) if (f := from_docstring(name, n, d))]
        yield package


# ---- manual pages ----


def sections(rendered: str) -> dict[str, list[str]]:
    """Sections of a page that mandoc has rendered -> their paragraphs that stand at its own indentation, on a line each."""
    found: dict[str, list[list[str]]] = {}
    blocks: list[list[str]] = []
    for line in rendered.split("\n"):
        if line and not line[0].isspace():
            blocks = found[line.strip()] = [[]]
        elif not line.strip():
            blocks.append([])
        elif blocks:
            blocks[-1].append(line)

    def indent(line: str) -> int:
        return len(line) - len(line.lstrip())

    paragraphs = {}
    for name, blocks in found.items():
        least = min((indent(block[0]) for block in blocks if block), default=0)
        flush = [block for block in blocks if block and all(indent(line) == least for line in block)]
        paragraphs[name] = [" ".join(" ".join(block).split()) for block in flush]
    return paragraphs


def from_manual(package: str, origin: str, rendered: str) -> Found | None:
    """NAME's line and DESCRIPTION's prose; None where the page lacks one of them."""
    found = sections(re.sub(".\b", "", rendered).translate(MARKS))
    _, _, title = " ".join(found.get("NAME", [])).replace("\u2014", " - ").replace("\u2013", " - ").partition(" - ")
    title = re.sub(r"\s*\([^()]*\)$", "", title.strip())
    paragraphs = [
        p for p in map(plain, found.get("DESCRIPTION", [])) if is_prose(p) and not UNFINISHED.search(p) and not BLOCK.match(p)
    ]
    if not title or not paragraphs:
        return None
    return as_found(package, origin, title, paragraphs)


def collect_manuals(folder: Path, mandoc: Path) -> Iterator[Package]:
    """Pages of each unpacked package below the folder.

    Raises:
        FileNotFoundError: mandoc is not there.
    """
    for name in sorted(MAN_LICENCES):
        package = Package("manuals", name, MAN_LICENCES[name])
        # the C library's pages of other languages lie a level deeper (man/de/man3)
        for path in sorted((folder / name).rglob("*")):
            if path.parent.parent.name != "man" or not re.fullmatch(r"man\d\w*", path.parent.name):
                continue
            if path.is_symlink() or not path.is_file():
                continue
            page = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            if page.startswith(b".so "):
                continue  # another page's second name
            licence = re.search(rb"SPDX-License-Identifier:\s*(\S+)", page)
            if licence and name.startswith("manpages"):
                package.page_licences[licence[1].decode()] += 1
            rendered = subprocess.run(
                [mandoc, "-T", "utf8", "-O", "width=1000"], input=page, capture_output=True, check=False
            ).stdout
            if found := from_manual(name, path.name.removesuffix(".gz"), rendered.decode("utf-8", "replace")):
                package.found.append(found)
        yield package


# ---- duplicates and parts ----


def shingles(text: str, size: int = 6) -> list[int]:
    found = words(text)
    return [zlib.crc32(" ".join(found[i : i + size]).encode()) for i in range(max(1, len(found) - size + 1))]


class Seen:
    """Texts so far, by six words in a row. A text is near what was seen where a share of its own six words are there."""

    def __init__(self) -> None:
        self.shingles: set[int] = set()

    def add(self, text: str) -> None:
        self.shingles.update(shingles(text))

    def share(self, text: str) -> float:
        found = shingles(text)
        return sum(s in self.shingles for s in found) / len(found)


def order(text: str) -> str:
    """A random but fixed order."""
    return hashlib.sha256(text.encode()).hexdigest()


def select(packages: list[Package], part: str, held: Seen, held_targets: set[str]) -> list[Found]:
    """Pairs of a part, without doubles and none near to what is held; those of outside, test and valid are held from then on."""
    seen = Seen()
    targets: Counter = Counter()
    kept: list[Found] = []
    for package in (p for p in packages if p.part == part):
        alike: Counter = Counter()
        chosen: list[Found] = []
        for found in sorted((f for f in package.found if f.target), key=lambda f: order(f.source + f.target)):
            target = " ".join(words(found.target))
            begins = " ".join(words(found.target)[:3])
            if held.share(found.source) >= 0.3 or seen.share(found.source) >= 0.5 or alike[begins] >= MOST_PAIRS_ALIKE:
                continue
            if target in held_targets or targets[target] >= (2 if part == "train" else 1):
                continue
            seen.add(found.source)
            targets[target] += 1
            alike[begins] += 1
            chosen.append(found)
        kept += chosen[: MOST_PAIRS["train"]] if part == "train" else chosen
    if part != "train":
        kept = sorted(kept, key=lambda f: order(f.target))[: MOST_PAIRS[part]]
        for found in kept:
            held.add(found.source)
            held_targets.add(" ".join(words(found.target)))
    return sorted(kept, key=lambda f: order(f.source))


def running_text(packages: list[Package], debian: Iterable[str], held: Seen) -> Iterator[tuple[str, str]]:
    """Documents with the names of their packages ("debian" for Debian's), none near a held source or an earlier document."""
    seen = Seen()
    texts = [("debian", d) for d in debian]
    texts += [(p.name, f.document) for p in packages if p.part == "train" for f in p.found]
    for name, document in texts:
        flat = " ".join(document.split())
        if len(flat.split()) < 20 or held.share(flat) >= 0.3 or seen.share(flat) >= 0.5:
            continue
        seen.add(flat)
        yield name, document


def read_lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


def write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), "utf-8")


def collect(debian: Path, out: Path, folders: list[Path], man: Path | None, mandoc: Path) -> str:
    """Writes all parts and the running text; returns the table of packages, Markdown.

    Raises:
        FileNotFoundError: a file of Debian's, a folder or mandoc is missing.
    """
    held, held_targets = Seen(), set()
    for part in ("valid", "test"):
        for line in read_lines(debian / f"{part}.src"):
            held.add(line)
        held_targets |= {" ".join(words(line)) for line in read_lines(debian / f"{part}.tgt")}
    by_kind = {"docstrings": list(collect_docstrings(folders)), "manuals": list(collect_manuals(man, mandoc)) if man else []}
    pairs: dict[str, dict[str, list[Found]]] = {kind: {} for kind in by_kind}
    for part in ("outside", "test", "valid", "train"):
        for kind, packages in by_kind.items():
            pairs[kind][part] = kept = select(packages, part, held, held_targets)
            write(out / kind / f"{part}.src", (f.source for f in kept))
            write(out / kind / f"{part}.tgt", (f.target for f in kept))
            write(out / kind / f"{part}.origin", (f"{f.package}\t{f.origin}" for f in kept))

    with gzip.open(debian / "text.txt.gz", "rt", encoding="utf-8") as file:
        documents = [d.strip() for d in re.split(r"\n\s*\n", file.read()) if d.strip()]
    texts: dict[str, list[str]] = {"train": [], "valid": []}
    documents_of: Counter = Counter()
    words_of: Counter = Counter()
    for name, document in running_text([p for ps in by_kind.values() for p in ps], documents, held):
        texts["valid" if order(document) < "05" else "train"].append(document)  # one in 51
        documents_of[name] += 1
        words_of[name] += len(document.split())
    for part, found in texts.items():
        write(out / f"text.{part}", (d + "\n" for d in sorted(found, key=order)))

    table = ["| kind | package | licence | part | pairs | documents of running text | words |", "| --- " * 7 + "|"]
    for kind, packages in by_kind.items():
        for package in packages:
            count = sum(f.package == package.name for f in pairs[kind][package.part])
            licence = ", ".join(f"{k} {n}" for k, n in sorted(package.page_licences.items())) or package.licence
            if count or documents_of[package.name]:
                cells = kind, package.name, licence, package.part, count, documents_of[package.name], words_of[package.name]
                table.append("| " + " | ".join(map(str, cells)) + " |")
    table.append(
        f"| running text | Debian's descriptions | the packages' | train | | {documents_of['debian']} | {words_of['debian']} |"
    )
    for kind in by_kind:
        counts = ", ".join(f"{part} {len(kept)}" for part, kept in pairs[kind].items())
        table.append(f"| all {kind} | | | | {counts} | | |")
    table.append(f"| all running text | | | | | {sum(documents_of.values())} | {sum(words_of.values())} |")
    write(out / "packages.md", table)
    return "\n".join(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("debian", type=Path, metavar="DEBIAN", help="folder with {valid,test}.{src,tgt} and text.txt.gz")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for what is collected")
    parser.add_argument(
        "--packages",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="site-packages; the first that has a package counts",
    )
    parser.add_argument("--man", type=Path, metavar="FOLDER", help="what fetch_man_pages.sh has fetched")
    parser.add_argument("--mandoc", type=Path, metavar="PROGRAM", help="renders pages (default: the one in --man)")
    args = parser.parse_args()
    try:
        mandoc = args.mandoc or (args.man or Path()) / "mandoc/usr/bin/mandoc"
        print(collect(args.debian, args.out, args.packages, args.man, mandoc))
    except (OSError, ValueError) as error:
        sys.exit(f"collect_text.py: error: {error}")


if __name__ == "__main__":
    main()
