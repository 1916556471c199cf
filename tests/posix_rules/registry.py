"""All rules by name: the public functions of these modules that take a folder."""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from posix_rules import (
    acls,
    attributes,
    content,
    copying,
    default_acls,
    description_locks,
    descriptors,
    durability,
    events,
    folders,
    holes,
    links,
    listing,
    mapping,
    modes,
    names,
    opening,
    orphans,
    permissions,
    programs,
    record_locks,
    refusals,
    renaming,
    sizes,
    special_files,
    symlinks,
    times,
    xattrs,
)

Rule = Callable[[Path], None]

MODULES = (
    opening, content, sizes, holes, copying, mapping,
    orphans, links, symlinks, folders, renaming, names, listing,
    attributes, modes, permissions, acls, default_acls, times, xattrs, special_files,
    record_locks, description_locks, durability, descriptors, programs, events, refusals,
)  # fmt: skip


def _rules_of(module: ModuleType) -> dict[str, Rule]:
    return {
        name: rule
        for name, rule in vars(module).items()
        if inspect.isfunction(rule) and rule.__module__ == module.__name__ and not name.startswith("_")
    }


def _all_rules() -> dict[str, Rule]:
    rules: dict[str, Rule] = {}
    for module in MODULES:
        of_module = _rules_of(module)
        assert not rules.keys() & of_module.keys(), f"in two modules: {rules.keys() & of_module.keys()}"
        rules |= of_module
    return rules


RULES = _all_rules()


def room(rule: Rule) -> str:
    """The module in which a rule stands, without its package."""
    return rule.__module__.rpartition(".")[2]
