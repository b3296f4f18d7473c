"""The rules of the house that no other tool checks; each test asserts how many files it saw."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sqlalchemy import make_url

from casebook.checks import load_checks
from casebook.device import require_named
from casebook.pipelines import load_pipelines
from casebook.settings import DicomDestination, Settings, load_settings
from integration_tests.settings import REPOSITORY
from training.options import load_options
from worker.reader.plausibility import load_statistics
from worker.reader.registry import load_entry

PACKAGES = ("casebook", "codestreams", "dicom_node", "worker", "training", "console", "integration_tests", "benchmarks")
BANNED = {"utils", "util", "helpers", "helper", "common", "base", "misc", "core", "manager"}
READMES = ("README.md", "README.zh-CN.md")


@cache
def tracked() -> tuple[Path, ...]:
    """Every file of the project: those git knows, relative to the repository's root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return tuple(path for name in listed.stdout.split("\0") if name and (REPOSITORY / (path := Path(name))).exists())


@cache
def modules() -> dict[Path, ast.Module]:
    """Every Python file of the project, parsed."""
    return {
        path: ast.parse((REPOSITORY / path).read_text(encoding="utf-8")) for path in tracked() if path.suffix == ".py"
    }


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_says_its_purpose_in_its_first_line() -> None:
    silent = [path for path, tree in modules().items() if not (ast.get_docstring(tree) or "").strip()]

    assert silent == []
    assert len(modules()) >= 40


def test_an_init_file_holds_a_docstring_and_no_code() -> None:
    inits = {path: tree for path, tree in modules().items() if path.name == "__init__.py"}

    assert [path for path, tree in inits.items() if len(tree.body) != 1] == []
    assert len(inits) >= 8


def test_no_file_is_named_after_nothing() -> None:
    assert [path for path in tracked() if path.stem in BANNED or path.parent.name in BANNED] == []
    assert len(tracked()) >= 60


def test_every_python_file_has_its_place() -> None:
    scripts = {Path("conftest.py")}

    assert [path for path in modules() if path.parts[0] not in PACKAGES and path not in scripts] == []


@pytest.mark.parametrize("folder", ["config", "docker", "docs"])
def test_a_folder_of_data_is_no_package(folder: str) -> None:
    inside = [path for path in tracked() if path.parts[0] == folder]

    assert [path for path in inside if path.suffix == ".py"] == []
    assert inside


def _where_is_it(readme: str) -> list[str]:
    rows = [line for line in (REPOSITORY / readme).read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [target for row in rows for target in re.findall(r"\]\(([^)]+)\)", row)]


@pytest.mark.parametrize("readme", READMES)
def test_every_place_the_readme_points_to_exists(readme: str) -> None:
    places = _where_is_it(readme)

    assert [place for place in places if not (REPOSITORY / place).exists()] == []
    assert len(places) >= 13


def test_both_readmes_point_to_the_same_places() -> None:
    english, chinese = (_where_is_it(readme) for readme in READMES)

    assert english == chinese


@pytest.mark.parametrize("page", [*READMES, "docs/decisions.md", "docs/operations.md", "CHANGELOG.md"])
def test_every_link_inside_the_project_leads_somewhere(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]

    assert [link for link in links if link and not ((REPOSITORY / page).parent / link).exists()] == []


@pytest.mark.parametrize("page", [*READMES, "docs/operations.md"])
def test_every_command_a_page_shows_exists(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    goals = set(re.findall(r"(?:`|\$ )make ([a-z]+)", text))
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    scripts = re.findall(r"python (\S+\.py)", text) + re.findall(r"python \S+\.py (\S+\.yaml)", text)

    assert sorted(goals - targets) == []
    assert [script for script in scripts if not (REPOSITORY / script).is_file()] == []
    assert goals


# ------------------------------------------------------------------------------------- what is shipped


#: How each kind of shipped YAML is read; the folder says the kind.
LOADERS: dict[str, Callable[[Path], object]] = {
    "config": lambda path: load_settings(path.parent),
    "checks": load_checks,
    "pipelines": lambda path: load_pipelines(path.parent),
    "models": load_entry,
    "pictures": load_statistics,
    "training": load_options,
}


def test_every_shipped_configuration_loads() -> None:
    shipped = [path for path in tracked() if path.parts[0] == "config"]

    assert [path for path in shipped if path.suffix != ".yaml"] == []
    for path in shipped:
        assert LOADERS[path.parent.name](REPOSITORY / path), path
    assert len(shipped) >= 5


def test_the_composed_hospital_names_what_exists() -> None:
    composed = yaml.safe_load((REPOSITORY / "docker" / "compose.yaml").read_text(encoding="utf-8"))
    services = composed["services"]
    built = {name: service["build"] for name, service in services.items() if "build" in service}

    assert set(services) >= {"node", "worker", "training", "postgres", "rabbitmq", "orthanc"}
    assert [build for build in built.values() if not (REPOSITORY / build["dockerfile"]).is_file()] == []
    assert set(built) == {"node", "worker", "training"}
    ours = [key for key in services["node"]["environment"] if key.startswith("WETREAD_")]
    assert [
        key for key in ours if key.removeprefix("WETREAD_").split("__")[0].lower() not in Settings.model_fields
    ] == []
    assert len(ours) >= 2


def test_the_composed_hospital_listens_and_delivers_inside_its_own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    composed = yaml.safe_load((REPOSITORY / "docker" / "compose.yaml").read_text(encoding="utf-8"))
    node = composed["services"]["node"]
    for key, value in node["environment"].items():
        monkeypatch.setenv(key, re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value))
    settings = load_settings(REPOSITORY / "config")
    mounts = dict(mount.split(":")[1::-1] for mount in node["volumes"])
    pipelines = load_pipelines((REPOSITORY / "docker" / mounts["/etc/wetread/pipelines"]).resolve())

    subnet = composed["networks"]["default"]["ipam"]["config"][0]["subnet"]
    assert settings.listener.host == "0.0.0.0"  # noqa: S104 - a container's own interfaces
    assert subnet in settings.listener.allowed_networks
    assert f"{settings.listener.port}:{settings.listener.port}" in node["ports"]
    assert settings.destinations
    assert [one.name for one in settings.destinations if one.host not in composed["services"]] == []
    assert [settings.destination(name).name for one in pipelines for name in one.destinations] == ["pacs"]
    archive = composed["services"]["orthanc"]["environment"]
    pacs = settings.destination("pacs")
    assert isinstance(pacs, DicomDestination)
    assert pacs.ae_title == archive["ORTHANC__DICOM_AET"]
    assert make_url(settings.database_url).host in composed["services"]
    assert urlsplit(settings.broker.url.get_secret_value()).hostname in composed["services"]
    require_named(settings)
    # The same settings, so that the worker knows the destinations of the pipelines it reads for.
    assert composed["services"]["worker"]["environment"] == node["environment"]


def test_an_image_copies_only_what_exists() -> None:
    recipes = [path for path in tracked() if path.suffix == ".Dockerfile"]
    copied = [
        source
        for path in recipes
        for line in (REPOSITORY / path).read_text(encoding="utf-8").splitlines()
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    ]

    assert [source for source in copied if not (REPOSITORY / source).exists()] == []
    assert (len(recipes), len(copied) >= 20) == (3, True)


# ------------------------------------------------------------------------- each role has its own stack


def _within(path: Path, *places: str) -> bool:
    return any(path.is_relative_to(place) for place in places)


@pytest.mark.parametrize(
    ("foreign", "allowed"),
    [
        ("torch", ("worker/reader", "training")),
        ("transformers", ("worker/reader", "training")),
        ("peft", ("worker/reader", "training")),
        ("accelerate", ("training",)),
        ("pynetdicom", ("dicom_node", "integration_tests", "benchmarks")),
        ("hl7", ("integration_tests", "dicom_node/tests")),
    ],
)
def test_a_heavy_package_is_imported_only_where_it_belongs(foreign: str, allowed: tuple[str, ...]) -> None:
    importing = {
        path for path, tree in modules().items() if any(name.split(".")[0] == foreign for name in _imports(tree))
    }

    # A test may look at a foreign package to check what ours made of it.
    assert (
        sorted(
            path for path in importing if not _within(path, *allowed, "integration_tests") and "tests" not in path.parts
        )
        == []
    )


#: What training may know of ours: the reader it shares with serving, and types.
TRAINING_MAY_IMPORT = (
    "training",
    "worker.reader",
    *(f"casebook.{name}" for name in ("checks", "reading", "errors", "settings", "logs")),
)


def test_training_imports_only_the_reader_and_types() -> None:
    own = {path: tree for path, tree in modules().items() if _within(path, "training") and "tests" not in path.parts}
    reached = {
        (path, name)
        for path, tree in own.items()
        for name in _imports(tree)
        if name.split(".")[0] in PACKAGES and not name.startswith(TRAINING_MAY_IMPORT)
    }

    # `from worker import reader` and its like name the package itself on the way.
    assert sorted((path, name) for path, name in reached if name not in {"worker", "casebook"}) == []
    assert len(own) >= 5


def _project() -> dict[str, object]:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        project: dict[str, object] = tomllib.load(file)["project"]
    return project


def _extra(name: str) -> list[Requirement]:
    extras = _project()["optional-dependencies"]
    assert isinstance(extras, dict)
    return [Requirement(line) for line in extras[name]]


def _closure(*extras: str) -> set[str]:
    """Name every distribution that installing these extras brings along, by the metadata of what is installed here."""
    core = _project()["dependencies"]
    assert isinstance(core, list)
    open_ = [Requirement(line) for line in core] + [requirement for extra in extras for requirement in _extra(extra)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while open_:
        requirement = open_.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        if key[0] == "wetread":
            open_ += [inner for extra in requirement.extras for inner in _extra(extra)]
            continue
        try:
            lines = requires(requirement.name) or []
        except PackageNotFoundError:
            continue
        wanted = [Requirement(line) for line in lines]
        open_ += [
            inner
            for inner in wanted
            if inner.marker is None
            or any(inner.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras))
        ]
    return {name for name, _ in seen}


def test_a_node_installs_no_model_and_a_worker_no_dicom_network() -> None:
    node, worker, training = _closure("node", "console"), _closure("worker", "console"), _closure("training")

    assert node & {"torch", "transformers", "accelerate", "peft"} == set()
    assert worker & {"pynetdicom", "hl7apy", "peft", "accelerate"} == set()
    assert training & {"pynetdicom", "hl7apy"} == set()
    assert {"pynetdicom", "hl7apy"} <= node
    assert {"torch", "transformers"} <= worker


def test_every_package_of_every_role_has_one_pinned_version() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    names = [canonicalize_name(pin.name) for pin in pins]
    installed = {name for name in _closure("all") if _is_installed(name)} - {"wetread", "pip", "setuptools"}

    assert [str(pin) for pin in pins if not re.fullmatch(r"==[\w.!]+", str(pin.specifier))] == []
    assert len(names) == len(set(names)) >= 60
    assert sorted(installed - set(names)) == []


def _is_installed(name: str) -> bool:
    try:
        requires(name)
    except PackageNotFoundError:
        return False
    return True


def test_every_entry_point_lets_nobody_else_read_what_it_writes() -> None:
    # The simulation writes no files of patients; a Celery role begins in `celery_role.work`.
    entries = [
        path
        for path, tree in modules().items()
        if path.parts[0] in {"casebook", "console", "dicom_node", "worker"}
        and any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body)
        and "simulation" not in path.parts
    ]
    begun = [
        path
        for path in entries
        if any(
            isinstance(node, ast.FunctionDef)
            and node.name == "main"
            and any(call in ast.unparse(node) for call in ("begin_process()", "celery_role.work("))
            for node in modules()[path].body
        )
    ]

    assert len(entries) >= 7
    assert begun == entries


#: Where stored objects are read, and the few files there that open something else.
_ROOMS_OF_STORED_FILES = ("dicom_node", "worker")
_OPEN_OTHER_FILES = {
    "dicom_node/storage/journal.py",
    "dicom_node/trial/standin.py",
    "dicom_node/trial/store_files.py",
    "worker/reader/registry.py",
}
_PARSE_BOUNDED = {"dicom_node/objects/stored_header.py", "worker/reader/decode.py"}


def _opens(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
    modes = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return name == "read_bytes" or (name == "open" and any(one.startswith("r") for one in modes))


def _parses(node: ast.AST) -> bool:
    # What is in memory already, as an output of ours is, is wrapped where it is parsed.
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dcmread"):
        return False
    return not (isinstance(node.args[0], ast.Call) and ast.unparse(node.args[0].func) == "io.BytesIO")


def test_stored_files_are_opened_and_parsed_in_one_place() -> None:
    rooms = {
        str(path): tree
        for path, tree in modules().items()
        if path.parts[0] in _ROOMS_OF_STORED_FILES and "tests" not in path.parts
    }
    opening = {path for path, tree in rooms.items() if any(map(_opens, ast.walk(tree)))}
    parsing = {path for path, tree in rooms.items() if any(map(_parses, ast.walk(tree)))}

    assert opening <= _OPEN_OTHER_FILES
    assert parsing - _OPEN_OTHER_FILES == _PARSE_BOUNDED
    assert len(rooms) >= 60
