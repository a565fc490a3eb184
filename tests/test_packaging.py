"""`pip install .` works anywhere: everything that is imported is declared, everything that is read is installed."""

import ast
import functools
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
from conftest import GOLDEN, ROOT, TINY, VOCAB_SMALL, copy_pairs
from support.interpreters import INTERPRETERS, declared

import bang

PROVIDED = {
    "gradio_client": "gradio",
    "hydra": "hydra-core",
    "fairseq": "ve-fairseq",
    "fairseq_cli": "ve-fairseq",
    "sklearn": "scikit-learn",
    "PIL": "pillow",
}
"""Packages whose modules have another name."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that pip makes of a clean checkout."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("bang", "pyproject.toml", "setup.py", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, folder]
    subprocess.run(command, check=True)
    return next(folder.glob("bang-*.whl"))


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder with the package installed from the wheel."""
    folder = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, wheel], check=True)
    return folder


def requirements(site, *extras):
    """Names of the packages that `pip install bang[extras]` brings."""
    found = importlib.metadata.Distribution.at(next(site.glob("bang-*.dist-info"))).requires
    wanted = [line for line in found if "extra ==" not in line or any(f'"{extra}"' in line for extra in extras)]
    return {re.match(r"[\w.-]+", line)[0].lower() for line in wanted}


def imported(*folders):
    """Third-party packages that the Python files of these folders import, inside functions too."""
    found = set()
    for file in (file for folder in folders for file in (ROOT / folder).rglob("*.py") if file.name != "setup.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("importorskip", "import_module")):
                found |= {arg.value.split(".")[0] for arg in node.args if isinstance(arg, ast.Constant)}
    own = {"attack", "bang", "conftest", "post_processed_nar", "support"} | {
        file.stem for file in (ROOT / "scripts").glob("*.py")
    }
    own |= {file.stem for folder in ("tests", "benchmarks", "research") for file in (ROOT / folder).glob("*.py")}
    own |= {file.stem for file in (ROOT / "tests" / "support").rglob("*.py")}
    return {PROVIDED.get(name, name).replace("_", "-") for name in found - sys.stdlib_module_names - own}


def test_what_is_imported_is_declared(site):
    extras = importlib.metadata.Distribution.at(next(site.glob("bang-*.dist-info"))).metadata.get_all("Provides-Extra")
    assert imported("bang") - requirements(site, *extras) == set()
    optional = ("benchmarks", "browser", "bulk", "ray")
    assert imported("scripts", "research", "benchmarks") - requirements(site, "recipes", *optional) == set()
    assert imported("bang", "scripts", "research", "tests") - requirements(site, "test", "hf", *optional) == set()


def test_extras_are_those_of_this_checkout():
    """PyPI's bang is another project: nothing tells anybody to install that one."""
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "bang").rglob("*.py"), *(ROOT / "scripts").iterdir()]
    told = [match for file in files if file.is_file()
            for match in re.findall(r"pip install [^`\n]*?'([^'\n]*)\[(\w+)\]'", file.read_text(encoding="utf-8"))]  # fmt: skip
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {extra for _, extra in told} >= {"demo", "export", "recipes", "eval"} and {extra for _, extra in told} <= set(extras)
    assert {project for project, _ in told} == {"."}


def test_the_known_versions_are_of_packages_that_are_declared(site):
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    known = {re.match(r"[\w.-]+", line)[0].lower() for line in lines if not line.startswith("#")}
    extras = ("test", "dev", "benchmarks", "browser", "bulk", "hf", "ray", "start")
    assert known - requirements(site, *extras) == set()


def test_an_installed_package_is_a_user_dir(site, run, tmp_path):
    """From a folder without the checkout: the path, the vocabulary, and fairseq's commands with both."""
    env = {"PYTHONPATH": str(site)}
    folder = run(sys.executable, "-m", "bang", "path", cwd=tmp_path, env=env).strip()
    assert folder == str(site / "bang")
    assert '--user-dir "$(bang path)"' in (ROOT / "docs" / "fairseq.md").read_text(encoding="utf-8")
    (tmp_path / "raw.txt").write_text("Hello Worlds\n")
    run(sys.executable, "-m", "bang", "tokenize", "--out-dir", "pieces", "raw.txt", cwd=tmp_path, env=env)
    assert (tmp_path / "pieces" / "raw.txt").read_text() == "hello worlds\n"
    run(
        "fairseq-preprocess", "--user-dir", folder, "--task", "translation_bang", "--source-lang", "src",
        "--target-lang", "tgt", "--testpref", GOLDEN / "data" / "tokenized_test", "--destdir", "bin", "--srcdict",
        VOCAB_SMALL, "--tgtdict", VOCAB_SMALL, cwd=tmp_path, env=env,
    )  # fmt: skip
    assert (tmp_path / "bin" / "test.src-tgt.src.bin").exists()


def test_the_metadata(site):
    distribution = importlib.metadata.Distribution.at(next(site.glob("bang-*.dist-info")))
    assert distribution.version == bang.__version__ and (site / "bang" / "py.typed").exists()
    assert distribution.metadata["Requires-Python"] == f">={declared()[0]}"
    assert declared() == ["3.11", "3.12", "3.13", "3.14"]


@pytest.mark.parametrize("python", INTERPRETERS.values(), ids=INTERPRETERS)
def test_each_declared_python_reads_the_code(python, site):
    code = (
        "import pathlib, sys\nfor path in pathlib.Path(sys.argv[1]).rglob('*.py'): compile(path.read_bytes(), str(path), 'exec')"
    )
    done = subprocess.run([python, "-W", "error", "-c", code, site / "bang"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The programs of a new environment with the wheel in it; what the package needs it takes from this one, without network."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    others = [path for path in map(sysconfig.get_path, ("purelib", "platlib")) if path]
    (packages / "others.pth").write_text("\n".join(dict.fromkeys(others)) + "\n")
    install = ["-m", "pip", "--python", folder / "bin" / "python", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([sys.executable, *install, "--ignore-installed", wheel], check=True)
    for script in Path(sys.executable).parent.glob("fairseq-*"):  # what installing fairseq there would bring
        _, _, body = script.read_text(encoding="utf-8").partition("\n")
        (folder / "bin" / script.name).write_text(f"#!{folder / 'bin' / 'python'}\n{body}", encoding="utf-8")
        (folder / "bin" / script.name).chmod(0o755)
    return folder / "bin"


@pytest.mark.slow
def test_a_new_environment_without_the_checkout(environment, pairs, tmp_path):
    """Fine-tunes, packs and generates; no file that is written names the checkout."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    clean |= {"PATH": f"{environment}:/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}

    def call(*words, stdin=None):
        done = subprocess.run(
            [environment / words[0], *words[1:]], cwd=tmp_path, env=clean, input=stdin, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    assert call("python", "-c", "import bang; print(bang.__file__)").startswith(str(environment.parent))
    assert call("bang", "--version") == f"bang {bang.__version__}\n"
    little = [*TINY[:-1], "--max-update", "2", "--warmup-updates", "1", "--num-workers", "0"]
    call("bang", "run-task", pairs, "--mode", "nar", "--out", "out", "--train", shlex.join(little), "--workers", "1")
    call("bang", "pack", "out/checkpoints/checkpoint_last.pt", "model")
    source = (pairs / "test.src").read_text(encoding="utf-8")
    assert len(call("bang", "generate", "model", "--mode", "nar", stdin=source).splitlines()) == 12
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix in (".log", ".json", ".sh", ".md")]
    assert written and not [path for path in written if str(ROOT) in path.read_text(encoding="utf-8", errors="replace")]


@pytest.fixture
def pairs(tmp_path):
    """A folder of 12 pairs a split, far from the checkout."""
    return copy_pairs(tmp_path / "pairs", 12)


@pytest.mark.parametrize("command", [
    ["run-task", "pairs", "--mode", "nar", "--out", "out", "--start", "none"],
    ["distill", "pairs", "--teacher", GOLDEN / "mixed" / "checkpoint.pt", "--vocab", VOCAB_SMALL,
     "--mode", "nar", "--out", "out", "--start", "none"],
    ["finetune", "--mode", "nar", "processed", "out"],
], ids=lambda command: command[0])  # fmt: skip
def test_an_installed_package_plans_recipes(command, site, pairs, run, tmp_path):
    """The commands of a recipe name nothing in the checkout."""
    option = command.index("--mode")
    words = [*command[:option], "--dry-run", *command[option:]]
    printed = run(sys.executable, "-m", "bang", *words, cwd=tmp_path, env={"PYTHONPATH": str(site)})
    assert f"--user-dir {site / 'bang'}" in printed
    given = [str(word) for word in command if str(word).startswith(str(ROOT))]  # the teacher and its vocabulary
    assert str(ROOT) not in functools.reduce(lambda text, path: text.replace(path, ""), given, printed)


@pytest.mark.slow
def test_an_installed_package_runs_a_recipe(site, pairs, run, tmp_path):
    """All of `bang run-task`, `bang finetune` in it, without the checkout."""
    little = [*TINY[:-1], "--max-update", "2", "--warmup-updates", "1", "--num-workers", "0"]
    words = ["run-task", pairs, "--mode", "nar", "--out", "out", "--train", shlex.join(little), "--workers", "1"]
    printed = run(sys.executable, "-m", "bang", *words, cwd=tmp_path, env={"PYTHONPATH": str(site)})
    assert "ROUGE-L" in printed and len((tmp_path / "out" / "nar.txt").read_text().splitlines()) == 12
    assert str(ROOT) not in (tmp_path / "out" / "train.log").read_text()


def test_every_dependency_is_explained():
    """SECURITY.md says what each package is for, who keeps it, and what would take its place."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    used = [name for extra in extras if extra not in ("test", "dev", "browser", "benchmarks") for name in extras[extra]]
    names = {re.match(r"[\w.-]+", name)[0] for name in [*project["dependencies"], *used]}
    lines = (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines()
    table = "".join(line.split("|")[1] for line in lines if line.startswith("|"))
    assert [name for name in sorted(names) if name not in table] == []
