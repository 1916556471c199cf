"""File servers that were passed over, and lack chunks since: until they have looked for these, others serve. Pure.

A server need not have ended for that: it was stopped, cut off, or had no room. One pass that has begun after it was
heard again ends it, as after a start. A pass that was under way may have gone past what came meanwhile.

This is kept in memory: a directory that starts has heard nobody, so it takes each server that lacks something for one
of these.
"""


class PassedOver:
    """By name, and for each whether its pass has begun."""

    def __init__(self) -> None:
        self._begun: dict[str, bool] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._begun

    def add(self, name: str, anew: bool) -> None:
        """This one lacks something. `anew`: it has missed more than what its pass has begun with."""
        if anew or name not in self._begun:
            self._begun[name] = False

    def pass_begins(self, name: str) -> None:
        if name in self._begun:
            self._begun[name] = True

    def pass_ends(self, name: str) -> None:
        if self._begun.get(name):
            del self._begun[name]
