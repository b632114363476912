"""Methods of other packages: entry points of the group `lvlm_fix.methods`, loaded when they are
asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points

from lvlm_fix.errors import PluginError
from lvlm_fix.method import Method

__all__ = ["GROUP", "Methods"]

GROUP = "lvlm_fix.methods"


class Methods(Mapping[str, type[Method]]):
    """Name -> class: the built-in methods, then those of other packages.

    A built-in name is found without looking at other packages; listing names loads none of them.

    Raises `PluginError`, which names the package, if its method cannot be loaded, is not a
    method, has another name than its entry point, or has a name that is taken.
    """

    def __init__(self, *kinds: type[Method]) -> None:
        self._built_in = {kind.method_name(): kind for kind in kinds}

    def __getitem__(self, name: str) -> type[Method]:
        return self._built_in[name] if name in self._built_in else _load(self._others()[name])

    def __iter__(self) -> Iterator[str]:
        return iter((*self._built_in, *sorted(self._others())))

    def __len__(self) -> int:
        return len(self._built_in) + len(self._others())

    def ready(self) -> list[str]:
        """Names of the methods that can act at their defaults, without a file of vectors."""
        return [name for name, kind in self.items() if not hasattr(kind, "vectors")]

    def _others(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for point in entry_points(group=GROUP):
            if point.name in self._built_in or point.name in found:
                owner = _owner(found[point.name]) if point.name in found else "lvlm-fix itself"
                raise PluginError(
                    f"{_owner(point)} brings a method {point.name!r}, a name that {owner} has;"
                    " rename it"
                )
            found[point.name] = point
        return found


def _owner(point: EntryPoint) -> str:
    return f"package {point.dist.name!r}" if point.dist is not None else f"{point.value!r}"


def _load(point: EntryPoint) -> type[Method]:
    try:
        kind = point.load()
        name = kind.method_name() if isinstance(kind, type) and issubclass(kind, Method) else None
        if name is not None:
            kind()  # its defaults are within their ranges
    except Exception as error:  # whatever the package does wrong
        reason = f"{type(error).__name__}: {error}"
        raise PluginError(
            f"{_owner(point)}: its method {point.name!r} cannot be loaded from {point.value}:"
            f" {reason}"
        ) from error
    if name is None:
        raise PluginError(f"{_owner(point)}: {point.value} is not a subclass of lvlm_fix.Method")
    if name != point.name:
        raise PluginError(
            f"{_owner(point)}: {point.value} is called {name!r}, its entry point {point.name!r};"
            " name it so"
        )
    return kind
