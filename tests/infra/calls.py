"""Which AWS calls a handler can make, read from its source: the other side of the permission matrix.

From a handler's ``handler`` the functions, methods and ports that can be reached are followed down to SDK calls. They
are seen by the shapes in which this project writes them: ``client("rds").promote_read_replica``, ``pages("rds", "…")``,
``search.pages("rds", "…")``, ``self._table.update_item``, ``ports.rds.request_promotion``. What cannot be followed is
missed, and the sandbox, which decides on every call of every function, then denies it.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import botocore.session
from botocore import xform_name

ROOT = Path(__file__).resolve().parents[2]
PORTS = "lambdas.rotation.ports"
PREFIXES = {"stepfunctions": "states", "resourcegroupstaggingapi": "tag"}
NAMED_OTHERWISE = {"dms:DescribeInstanceProfiles": "dms:ListInstanceProfiles"}
"""Call -> the action that it is decided on, by the service's API reference."""
CLIENTS = frozenset({"client", "client_that_asks_once", "client_in_a_hurry", "client_of_a_search"})
ENGINES = frozenset({"engine", "catching_up"})
"""What `Ports` makes for one database."""
TABLE_CALLS = frozenset({"get_item", "put_item", "update_item", "delete_item", "query", "scan"})

Function = tuple[str, str]
"""Module and qualified name: ("lambdas.rotation.aws.rds", "AwsRds.set_tags")."""


@dataclass
class Module:
    name: str
    functions: dict[str, ast.AST] = field(default_factory=dict)
    imported: dict[str, Function] = field(default_factory=dict)
    """Local name -> where it comes from; a module's own name is ''."""


@cache
def actions_of(package: str, without: str = "") -> frozenset[str]:
    """The IAM actions of every SDK call that ``lambdas/<package>/handler.py`` can reach, not by way of this module."""
    nodes = (module(where).functions[name] for where, name in reached_from(package, without))
    return frozenset(action for node in nodes for action in _sdk_calls(node))


@cache
def reached_from(package: str, without: str = "") -> frozenset[Function]:
    """Every function, method and constant of ours that ``lambdas/<package>/handler.py`` can reach."""
    seen: set[Function] = set()
    waiting: list[Function] = [(f"lambdas.{package}.handler", "handler")]
    while waiting:
        function = waiting.pop()
        node = module(function[0]).functions.get(function[1])
        if function not in seen and node is not None and function[0] != without:
            seen.add(function)
            waiting += _reached(function, node)
    return frozenset(seen)


@cache
def module(name: str) -> Module:
    path = ROOT / (name.replace(".", "/") + ".py")
    if not path.is_file():
        path = ROOT / name.replace(".", "/") / "__init__.py"
    made = Module(name)
    if not path.is_file():
        return made
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            made.functions[node.name] = node
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    made.functions[f"{node.name}.{method.name}"] = method
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    made.functions[target.id] = node
    for part in ast.walk(tree):
        if isinstance(part, ast.ImportFrom) and part.module and part.module.startswith("lambdas"):
            for alias in part.names:
                local = alias.asname or alias.name
                nested = f"{part.module}.{alias.name}"
                is_module = (ROOT / (nested.replace(".", "/") + ".py")).is_file()
                made.imported[local] = (nested, "") if is_module else (part.module, alias.name)
    return made


@cache
def adapters() -> dict[str, Function]:
    """Port -> the class that `AwsPorts` chooses for it."""
    chosen: dict[str, Function] = {}
    for name, node in module(PORTS).functions.items():
        if not name.startswith("AwsPorts."):
            continue
        for part in ast.walk(node):
            if isinstance(part, ast.ImportFrom) and part.module:
                chosen[name.removeprefix("AwsPorts.")] = (part.module, part.names[0].name)
    # Of the engines only this one calls AWS.
    return chosen | {"engine": ("lambdas.rotation.network_fence", "NetworkFence")}


def _sdk_calls(node: ast.AST) -> Iterator[str]:
    clients = {
        target.id: service
        for part in ast.walk(node)
        if isinstance(part, ast.Assign)
        for target in part.targets
        if isinstance(target, ast.Name) and (service := _client(part.value, {})) is not None
    }
    for call in (part for part in ast.walk(node) if isinstance(part, ast.Call)):
        literals = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        if getattr(call.func, "id", getattr(call.func, "attr", "")) == "pages" and len(literals) >= 2:
            yield _action(literals[0], literals[1])
        elif isinstance(call.func, ast.Attribute):
            service = _client(call.func.value, clients)
            if service is not None and call.func.attr == "get_paginator":
                yield _action(service, literals[0])
            elif service is not None:
                yield _action(service, call.func.attr)
            elif call.func.attr == "_pages" and literals:
                yield _action("dynamodb", literals[0])
            elif call.func.attr in TABLE_CALLS and getattr(call.func.value, "attr", None) == "_table":
                yield _action("dynamodb", call.func.attr)


def _client(node: ast.AST, known: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CLIENTS and node.args:
        # `pages` itself gets the name from its caller, where it is a literal again.
        return str(node.args[0].value) if isinstance(node.args[0], ast.Constant) else None
    return None


def _reached(function: Function, node: ast.AST) -> list[Function]:
    where, qualified = function
    here = module(where)
    owner = qualified.partition(".")[0] + "." if "." in qualified else ""
    ports = _port_names(node)
    found: list[Function] = []
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part.id in here.imported:
            found.append(here.imported[part.id])
        elif isinstance(part, ast.Name) and part.id in here.functions:
            found.append((where, part.id))
        elif isinstance(part, ast.Attribute):
            port = _port(part.value, ports)
            if port is not None and port in adapters():
                adapter, class_name = adapters()[port]
                found.append((adapter, f"{class_name}.{part.attr}"))
            elif isinstance(part.value, ast.Name) and part.value.id == "self":
                found.append((where, owner + part.attr))
            elif isinstance(part.value, ast.Name) and here.imported.get(part.value.id, ("", "x"))[1] == "":
                found.append((here.imported[part.value.id][0], part.attr))
            if part.attr in ENGINES and isinstance(part.value, ast.Name) and part.value.id == "ports":
                found.append((PORTS, f"AwsPorts.{part.attr}"))
    return found


def _port_names(node: ast.AST) -> dict[str, str]:
    """Local names for a port: ``rds = ports.rds``, or a parameter annotated with a port's protocol."""
    names: dict[str, str] = {}
    for part in ast.walk(node):
        if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name):
            port = _port(part.value, {})
            if port is not None:
                names[part.targets[0].id] = port
        if isinstance(part, ast.arg) and isinstance(part.annotation, ast.Name):
            by_protocol = {_return_type(port): port for port in adapters()}
            if part.annotation.id in by_protocol:
                names[part.arg] = by_protocol[part.annotation.id]
    return names


def _return_type(port: str) -> str:
    returns = getattr(module(PORTS).functions[f"AwsPorts.{port}"], "returns", None)
    return returns.id if isinstance(returns, ast.Name) else ""


def _port(node: ast.AST, names: dict[str, str]) -> str | None:
    """The port that an expression stands for: ``ports.rds``, ``self.rds`` in `AwsPorts`, ``self._ports.rds``,
    ``ports.engine(…)``, or a local name of one."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Call):
        return _port(node.func, names) if getattr(node.func, "attr", None) in ("engine", "kms_in") else None
    if isinstance(node, ast.Attribute):
        owner = getattr(node.value, "id", None) or getattr(node.value, "attr", None)
        return node.attr if owner in ("ports", "self", "_ports") and node.attr in adapters() else None
    return None


@cache
def _action(service: str, operation: str) -> str:
    """``("stepfunctions", "start_execution")`` -> ``states:StartExecution``."""
    model = botocore.session.get_session().get_service_model(service)
    names = {xform_name(name): name for name in model.operation_names}
    call = f"{PREFIXES.get(service, service)}:{names[operation]}"
    return NAMED_OTHERWISE.get(call, call)
