"""Style as a test: who may import whom, sizes of functions and modules, docstrings, and modules that nobody uses."""

import ast
import configparser
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

FUNCTION_LINES_MAX = 40
MODULE_LINES_MAX = 400
LINE_WIDTH = 120

PRODUCT = [ROOT / "mount.py", *sorted(ROOT.glob("dfsfuse/**/*.py")), *sorted(ROOT.glob("servers/**/*.py"))]
EVERYTHING = [*PRODUCT, *sorted(ROOT.glob("tests/**/*.py")), *sorted(ROOT.glob("bench/**/*.py"))]

SOCKETS = {"socket", "http", "requests", "urllib3", "httptools", "uvloop", "ssl", "socketserver"}
NETWORK = {
    "dfsfuse.rpc", "dfsfuse.http_connection", "dfsfuse.keepalive", "dfsfuse.endpoints", "servers.http",
    "servers.connection", "servers.exchange", "servers.peers", "servers.etcd.client",
}  # fmt: skip
NETWORK_EXCEPT = {
    ("dfsfuse.session", "socket"): "socket.gethostname",
    ("dfsfuse.commands.hosts", "socket"): "socket.gethostname",
    ("dfsfuse.drivers.linux_mount", "socket"): "a socketpair, through which fusermount3 sends a descriptor",
    ("servers.children", "socket"): "free ports for children, and whether they answer",
    ("servers.registration", "socket"): "which address of this machine others reach",
    ("servers.supervisor", "socket"): "a socketpair that wakes it",
    ("servers.__main__", "uvloop"): "the event loop of every server",
}

DRIVERS_MAY = {
    "dfsfuse.filesystem", "dfsfuse.openfiles", "dfsfuse.places", "dfsfuse.content", "dfsfuse.messages",
    "dfsfuse.errors", "dfsfuse.drivers", "dfsfuse.range_locks", "dfsfuse.space",
}  # fmt: skip
DRIVERS_FROM = {
    "dfsfuse.openfiles": {"Handle"},
    "dfsfuse.places": {"Place", "place_of"},
    "dfsfuse.range_locks": {"FileLock"},
}
SERVERS_MAY = {
    "dfsfuse.errors", "dfsfuse.messages", "dfsfuse.chunks", "dfsfuse.direct_io", "dfsfuse.keepalive",
    "dfsfuse.cluster_config", "dfsfuse.etcd_address",
}  # fmt: skip
ENTRY_POINTS = {"mount", "servers.__main__", "dfsfuse.__main__"}


def name_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {name_of(path): ast.parse(path.read_text(), str(path)) for path in PRODUCT}


class Import:
    """`from module import names`, or `import module` (no names). `late`: inside a function."""

    def __init__(self, module: str, names: set[str], late: bool):
        self.module, self.names, self.late = module, names, late


def imports_of(tree: ast.Module) -> Iterator[Import]:
    top = set(ast.walk(ast.Module([n for n in tree.body if not isinstance(n, ast.FunctionDef | ast.ClassDef)], [])))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, set(), node not in top)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield Import(node.module, {alias.name for alias in node.names}, node not in top)


def modules_of(one: Import) -> set[str]:
    """The modules of this project that an import statement reaches: `from dfsfuse import errors` is dfsfuse.errors."""
    inner = {f"{one.module}.{name}" for name in one.names} & set(TREES)
    if inner:
        return inner
    return {one.module} & set(TREES) or {m for m in (one.module.rpartition(".")[0],) if m in TREES and m != "dfsfuse"}


def project_imports(name: str, late: bool = True) -> set[str]:
    found: set[str] = set()
    for one in imports_of(TREES[name]):
        if late or not one.late:
            found |= modules_of(one)
    return found - {name}


# -- who may import whom


@pytest.mark.parametrize("name", TREES)
def test_rooms_keep_to_themselves(name: str) -> None:
    """Goal: mount.py uses dfsfuse; dfsfuse never uses servers; servers use errors, messages, chunks and direct_io of
    dfsfuse."""
    used = project_imports(name)
    if name == "mount" or name.startswith("dfsfuse"):
        assert not {module for module in used if module.startswith("servers")}
    else:
        assert {".".join(module.split(".")[:2]) for module in used if module.startswith("dfsfuse")} <= SERVERS_MAY
    assert "mount" not in used


@pytest.mark.parametrize("name", [name for name in TREES if name.startswith("dfsfuse.drivers")])
def test_drivers_reach_the_file_system_alone(name: str) -> None:
    """Goal: an adapter knows the file system, what it hands out, messages and errors; nothing below."""
    for one in imports_of(TREES[name]):
        for module in modules_of(one):
            assert any(module == allowed or module.startswith(allowed + ".") for allowed in DRIVERS_MAY), module
            if module in DRIVERS_FROM:
                assert one.names <= DRIVERS_FROM[module], f"{one.names} of {module}"


CORES = [
    "servers.attendance", "servers.open_rows", "servers.promises", "servers.touched",
    "servers.tree", "servers.modes", "servers.xattrs", "servers.rename", "servers.content", "servers.sessions",
    "servers.versions", "servers.undurable", "servers.references", "servers.garbage_log", "servers.group",
    "servers.server_states", "servers.short_rows", "servers.passed_over", "servers.pace",
    "servers.upkeep", "servers.settling", "servers.shortfall", "servers.losses", "servers.durability",
    "servers.upgrade", "servers.dump", "servers.load",
    "servers.check", "servers.check_content", "servers.mend", "servers.mend_names", "servers.tracing",
    "servers.records", "servers.quota", "servers.directory", "servers.locks", "servers.claims",
    "servers.range_locks", "servers.range_claims", "servers.circles", "servers.file_users", "servers.leases",
    "servers.returns", "servers.deadlines", "servers.queues", "servers.recalls", "servers.tokens",
    "dfsfuse.ancestors", "dfsfuse.chunks", "dfsfuse.errors", "dfsfuse.known_inodes", "dfsfuse.known_names",
    "dfsfuse.manifests", "dfsfuse.promise_lease", "dfsfuse.sparse_list", "dfsfuse.under_way",
    *(name for name in TREES if name.startswith("dfsfuse.messages")),
]  # fmt: skip


@pytest.mark.parametrize("core", CORES)
def test_cores_are_pure(core: str) -> None:
    """Goal: no clock, randomness, thread, file or event loop in a core; time and numbers are arguments."""
    impure = {"time", "random", "secrets", "threading", "asyncio", "os", "pathlib", "sqlite3", "subprocess"}
    assert not {one.module.partition(".")[0] for one in imports_of(TREES[core])} & (impure | SOCKETS)


def test_one_core_never_imports_another() -> None:
    """Goal: the directory and the locks do not know each other."""
    ranges = {"servers.range_locks", "servers.range_claims", "servers.circles", "servers.file_users", "servers.leases"}
    queues = {"servers.queues", "servers.recalls", "servers.returns", "servers.tokens"}
    locks = {"servers.locks", "servers.claims", "servers.lock_service", "servers.lock_standing", *queues, *ranges}
    for name in TREES:
        if name.startswith("servers.") and name not in locks | {"servers.__main__"}:
            assert not project_imports(name) & locks, name
    parts = ("tree", "rename", "modes", "xattrs", "content", "quota", "sessions", "records", "versions", "undurable",
             "references", "garbage_log", "short_rows", "group", "server_states", "upkeep", "shortfall", "losses",
             "attendance", "open_rows")  # fmt: skip
    directory = {"servers.directory", *(f"servers.{part}" for part in parts)}
    for name in locks:
        assert not project_imports(name) & directory, name


@pytest.mark.parametrize("name", TREES)
def test_sockets_are_in_few_places(name: str) -> None:
    """Goal: the network is reached from rpc.py, cluster.py, http.py and their like, where time-outs and limits are."""
    if name in NETWORK:
        return
    used = {one.module.partition(".")[0] for one in imports_of(TREES[name])} & SOCKETS
    excepted = {module for module in used if (name, module) in NETWORK_EXCEPT}
    assert not used - excepted
    for module in excepted:
        allowed = NETWORK_EXCEPT[name, module]
        if allowed.startswith("socket."):
            uses = {ast.unparse(n) for n in ast.walk(TREES[name]) if isinstance(n, ast.Attribute)}
            assert {use for use in uses if use.startswith("socket.")} == {allowed}


def test_there_are_no_import_cycles() -> None:
    """Goal: modules can be read in an order. An import inside a function counts too: it only hides a cycle."""
    waiting = {name: project_imports(name) & set(TREES) for name in TREES}
    packages = {name for name in waiting if (ROOT / name.replace(".", "/")).is_dir()}
    while waiting:
        free = [name for name, needs in waiting.items() if not needs & set(waiting) - packages or name in packages]
        assert free, f"these import each other: {waiting}"
        for name in free:
            del waiting[name]


def test_no_module_is_dead() -> None:
    """Goal: each module is imported by another, or is where a program begins."""
    used = {module for name in TREES for module in project_imports(name)}
    used |= _named_in(TREES["dfsfuse.cli"])
    used |= {name.rpartition(".")[0] for name in used}
    dead = set(TREES) - used - ENTRY_POINTS - _scripts() - {"dfsfuse", "servers"}
    assert not dead


def _named_in(tree: ast.Module) -> set[str]:
    """What a table of commands names as "module:function" and imports when it is asked for."""
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {"dfsfuse." + text.partition(":")[0] for text in texts if re.fullmatch(r"[a-z_.]+:[a-z_]+", text)}


def _scripts() -> set[str]:
    """Modules that setup.cfg names as commands."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return {line.partition("=")[2].partition(":")[0].strip() for line in _lines_of(config)}


def _lines_of(config: configparser.ConfigParser) -> list[str]:
    return [line for line in config["options.entry_points"]["console_scripts"].splitlines() if line]


# -- clocks

WALL_CLOCK = {"time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.ctime", "datetime.datetime.now"}
STAMPS = {
    "dfsfuse.openfiles": "mtime, ctime and atime of what programs here do",
    "dfsfuse.allocation": "the same",
    "dfsfuse.filesystem": "the same",
    "dfsfuse.reopening": "whether an open moves atime, by when files were read before",
    "dfsfuse.giving_attributes": "the same",
    "dfsfuse.drivers.linux_names": "the same",
    "dfsfuse.drivers.fusepy_callbacks": "the same",
    "dfsfuse.copies": "the names of copies, and when they were made",
    "dfsfuse.content_file": "atimes of cache files, by which the next client chooses what it evicts",
    "servers.directory_service": "mtime and ctime of what the directory changes; a ctime that would go back counts on",
}


@pytest.mark.parametrize("name", TREES)
def test_wall_clocks_only_stamp(name: str) -> None:
    """Goal: a clock that is set back or forward moves times that people see, and nothing else: no deadline, lease or
    age is taken from it. Who reads it says what for."""
    used = {ast.unparse(node) for node in ast.walk(TREES[name]) if isinstance(node, ast.Attribute)} & WALL_CLOCK
    assert bool(used) == (name in STAMPS), used
    for one in imports_of(TREES[name]):
        assert one.module not in ("time", "datetime") or not one.names, "clocks are named in full"


# -- sizes and docstrings


@pytest.mark.parametrize("name", TREES)
def test_modules_and_functions_are_short(name: str) -> None:
    """Goal: a module that outgrows 400 lines wants to be two; a function of more than 40 says that it does too much."""
    tree = TREES[name]
    lines = max((node.end_lineno for node in tree.body), default=0)
    assert lines <= MODULE_LINES_MAX, f"{lines} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{node.name}: {length} lines"


@pytest.mark.parametrize("name", TREES)
def test_modules_have_docstrings(name: str) -> None:
    """Goal: each module opens with what it is for."""
    assert ast.get_docstring(TREES[name])


@pytest.mark.parametrize("path", sorted(ROOT.glob("tests/posix_rules/*.py")), ids=name_of)
def test_rules_are_short(path: Path) -> None:
    """Goal: the rules of POSIX are read one by one: modules of 400 lines, functions of 40, each with what it is for."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert len(path.read_text().splitlines()) <= MODULE_LINES_MAX
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < FUNCTION_LINES_MAX, node.name


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_lines(path: Path) -> None:
    """Goal: 120 columns; nothing left to do in comments; the file ends with one newline."""
    text = path.read_text()
    for number, line in enumerate(text.splitlines(), 1):
        assert len(line) <= LINE_WIDTH, f"{path}:{number}"
        assert not re.search(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b", line), f"{path}:{number}"
        assert line == line.rstrip(), f"{path}:{number}"
    assert text.endswith("\n") or not text
    assert not text.endswith("\n\n")


@pytest.mark.parametrize("path", sorted(ROOT.glob("tests/test_*.py")), ids=name_of)
def test_tests_say_their_goal(path: Path) -> None:
    """Goal: each test opens with a docstring, and no name occurs twice, which would hide a test."""
    seen: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            assert ast.get_docstring(node), node.name
            assert node.name not in seen, node.name
            seen.add(node.name)
