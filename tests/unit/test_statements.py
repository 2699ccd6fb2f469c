"""No statement of any engine has anything in it but constants, numbers and quoted names, however it is put together."""

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module

import pytest

from lambdas.rotation.engines import CATCHING_UP, ENGINES, REPLICATING
from lambdas.rotation.state import DatabaseFence

MODULES = sorted({where.split(":")[0] for where in (*ENGINES.values(), *REPLICATING.values(), *CATCHING_UP.values())})
HAVE_FEW = ("lambdas.rotation.engines.mariadb_replica", "lambdas.rotation.engines.mariadb_snapshot")
QUOTING = {"quoted", "account_sql", "accounts_sql", "int"}
"""They make of any text an identifier, an account, or a number; each has tests of its own with hostile names."""
QUOTED_BY_THE_SERVER = {"', ONLY '.join(tables)"}
"""What tables_of has from PostgreSQL's own ``format('%I.%I', …)``, or constants of ours."""
NUMBERS = {"int", "float"}
PASSING_ON = {"run", "rows", "value", "named"}
"""Methods of the session: they send what they are given, and are named alike where it is given to them."""


Known = dict[str, ast.expr]
"""Constants of the module by name."""


def statements(module: ast.Module) -> Iterator[tuple[ast.FunctionDef, ast.Call]]:
    for function in ast.walk(module):
        if isinstance(function, ast.FunctionDef) and function.name not in PASSING_ON:
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in PASSING_ON and node.args:
                    yield function, node


def constants(module: ast.Module) -> Known:
    """Its own, and those of the engines' other modules, from where it may have some."""
    imported = [
        import_module(node.module)
        for node in module.body
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lambdas.rotation.engines.")
    ]
    found: Known = {}
    for one in [*(ast.parse(inspect.getsource(one)) for one in imported), module]:
        found |= {
            target.id: node.value
            for node in one.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
    return found


def of_classes(name: str) -> list[ast.expr]:
    """What the classes of the engines' modules assign to an attribute: a subclass may have another value."""
    return [
        node.value
        for module in MODULES
        for one in ast.walk(ast.parse(inspect.getsource(import_module(module))))
        if isinstance(one, ast.ClassDef)
        for node in one.body
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == name for target in node.targets)
    ]


def is_safe(text: ast.expr, function: ast.FunctionDef, known: Known) -> bool:
    """Made of constants, numbers and quoted names, however it is put together."""
    if isinstance(text, ast.Constant) or ast.unparse(text) in QUOTED_BY_THE_SERVER:
        return True
    if isinstance(text, ast.BinOp):
        return is_safe(text.left, function, known) and is_safe(text.right, function, known)
    if isinstance(text, ast.Tuple):
        return all(is_safe(one, function, known) for one in text.elts)
    if isinstance(text, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.FormattedValue) else part for part in text.values]
        return all(is_safe(part, function, known) for part in parts)
    if isinstance(text, ast.IfExp):
        return is_safe(text.body, function, known) and is_safe(text.orelse, function, known)
    if isinstance(text, ast.Attribute) and isinstance(text.value, ast.Name) and text.value.id == "self":
        values = of_classes(text.attr)
        return bool(values) and all(is_safe(value, function, known) for value in values)
    if isinstance(text, ast.Attribute):
        return text.attr in DatabaseFence.model_fields and DatabaseFence.model_fields[text.attr].annotation is int
    if isinstance(text, ast.Call) and isinstance(text.func, ast.Name):
        return text.func.id in QUOTING or (
            text.func.id in ("min", "max") and all(is_safe(one, function, known) for one in text.args)
        )
    if isinstance(text, ast.Call) and isinstance(text.func, ast.Attribute) and text.func.attr == "format":
        return all(
            is_safe(one, function, known) for one in (text.func.value, *(given.value for given in text.keywords))
        )
    if isinstance(text, ast.Name):
        return is_safe_name(text.id, function, known)
    return False


def is_safe_name(name: str, function: ast.FunctionDef, known: Known) -> bool:
    arguments = [*function.args.args, *function.args.kwonlyargs]
    annotated = {one.arg: getattr(one.annotation, "id", "") for one in arguments}
    if name in annotated:
        return annotated[name] in NUMBERS
    assigned = [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and any(isinstance(one, ast.Name) and one.id == name for one in node.targets)
    ]
    assigned += [
        node.iter
        for node in ast.walk(function)
        if isinstance(node, ast.For) and isinstance(node.target, ast.Name) and node.target.id == name
    ]
    constant = [known[name]] if name in known else []
    return bool(assigned or constant) and all(is_safe(value, function, known) for value in assigned or constant)


@pytest.mark.parametrize("name", MODULES)
def test_no_statement_has_anything_in_it_but_constants_and_quoted_names(name: str) -> None:
    """The names of the other tests are the ones that there are today; a statement that is added is looked at here."""
    module = ast.parse(inspect.getsource(import_module(name)))
    known = constants(module)
    made = list(statements(module))
    unsafe = [
        f"line {call.lineno}: {ast.unparse(call)}"
        for function, call in made
        if not is_safe(call.args[0], function, known)
    ]

    assert unsafe == []
    assert len(made) > 20 or name in HAVE_FEW
