"""No source of chance or of wall-clock time in the packages, save where its use is written down with its reason.

Equal scenarios and seeds give equal records (docs/explanation/determinism.md): ruff knows some of these rules, this
test all of them.
"""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path
    for path in REPOSITORY.glob("packages/*/src/**/*.py")
    if not re.search(r"_pb2(_grpc)?\.py$", path.name) and "__pycache__" not in path.parts
)

FORBIDDEN_MODULES = {"random", "secrets"}
FORBIDDEN_CALLS = re.compile(
    r"time\.(time|perf_counter|monotonic|process_time|thread_time)(_ns)?"
    r"|(datetime\.)?(datetime|date)\.(now|utcnow|today)"
    r"|uuid\.uuid[14]|os\.(urandom|getrandom|getpid)"
    r"|(np|numpy)\.random\.(?!(Generator|SeedSequence|PCG64|PCG64DXSM|BitGenerator)$)\w+"
)
FORBIDDEN_BUILTINS = {"hash", "id"}

# module: what it may use, and why that cannot reach a record.
ALLOWED: dict[str, tuple[set[str], str]] = {
    "hermes_analysis.sweep.progress": ({"time.monotonic"}, "says when a sweep will be done: on the screen only"),
    "hermes_core.config.document": ({"id()"}, "finds cycles of YAML aliases: addresses are compared, never kept"),
    "hermes_core.live.clock": (
        {"time.monotonic_ns", "time.time"},
        "paces a live session, and stamps answers: arrivals are inputs, written to its journal",
    ),
    "hermes_core.simulation": (
        {"time.perf_counter"},
        "progress and the duration of the run: in the outcome, not the record",
    ),
    "hermes_hw.client.clock": ({"time.monotonic"}, "deadlines and waits of hardware services: shown, never recorded"),
    "hermes_hw.client.session": (
        {"secrets"},
        "session names that hosts of one service do not share; in no record",
    ),
    "hermes_hw.conformance.case": ({"secrets"}, "session names that kits on one service do not share; in no record"),
    "hermes_hw.profiling.measure": ({"datetime.now"}, "dates a measurement, in its table's header"),
    "hermes_hw.profiling.timing": (
        {"time.monotonic", "time.perf_counter"},
        "times operators on a real device: that is the measurement; and ends when a budget is spent",
    ),
    "hermes_workload.bench": (
        {"time.process_time"},
        "says how fast requests are made and read: that is the measurement",
    ),
    "hermes_workload.cli": ({"secrets"}, "a key for anonymous prefixes that nobody can guess; used once"),
}


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` for an attribute chain, else an empty text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def is_set(node: ast.expr) -> bool:
    return isinstance(node, ast.Set | ast.SetComp) or (
        isinstance(node, ast.Call) and dotted(node.func) in {"set", "frozenset"}
    )


def uses(tree: ast.AST) -> set[str]:
    """Return what a module uses of chance, wall-clock time, addresses or the order of sets."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in FORBIDDEN_MODULES}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {node.module} & FORBIDDEN_MODULES | {name for name in names if FORBIDDEN_CALLS.fullmatch(name)}
        elif isinstance(node, ast.Attribute) and FORBIDDEN_CALLS.fullmatch(dotted(node)):
            found.add(dotted(node))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_BUILTINS:
            found.add(f"{node.func.id}()")
        elif isinstance(node, ast.For | ast.comprehension) and is_set(node.iter):
            found.add("iteration over a set")
    return found


def module(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts[3:]).removesuffix(".__init__")


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_module_is_deterministic(path):
    allowed, _ = ALLOWED.get(module(path), (set(), ""))
    found = uses(ast.parse(path.read_text()))
    assert sorted(found - allowed) == [], (
        "use hermes_core.api.stream for chance; simulated time for time; sorted() for sets"
    )
    assert sorted(allowed - found) == [], "the permission in ALLOWED is no longer needed"


def test_permissions_name_modules_that_exist():
    assert sorted(set(ALLOWED) - {module(path) for path in SOURCES}) == []


@pytest.mark.parametrize(
    "code",
    [
        "import random",
        "from random import choice",
        "import numpy as np\nnp.random.normal()",
        "from numpy.random import default_rng",
        "import time\ntime.perf_counter_ns()",
        "from time import time",
        "import datetime\ndatetime.datetime.now()",
        "import uuid\nuuid.uuid4()",
        "hash('name')",
        "for x in {1, 2}: pass",
        "[x for x in set(names)]",
    ],
)
def test_the_lint_sees(code):
    assert uses(ast.parse(code)) != set()


def test_the_lint_lets_through_what_is_deterministic():
    code = "import numpy as np\nnp.random.Generator(np.random.PCG64DXSM(1))\nfor x in sorted({1, 2}): pass\n"
    assert uses(ast.parse(code)) == set()
