"""`dfs check` on file servers without a network (model_servers.py): the real comparison of chunks, and its finds."""

from typing import Any

from model_servers import Servers

from dfsfuse.commands.chunk_check import ChunkCheck
from dfsfuse.messages import Cluster, Inventoried, Inventory, Message, Verified, Verify
from servers import tracing


class Asked:
    """Stands for the directory, as dfsfuse.commands.reach.Metadata, and, as `rpc`, for each file server."""

    def __init__(self, servers: Servers):
        self._servers, self.rpc = servers, self

    def fresh_cluster(self) -> Cluster:
        return self._servers.volume.core.cluster(self._servers.volume.now_s)

    def ask(self, operation: str, request: Message, reply: type) -> Any:
        volume = self._servers.volume
        return volume.core.upkeep.audit(request) if operation == "audit" else volume.look(tracing.trace, request)

    def call(self, url: str, operation: str, request: Any, reply: type, timeout_s: float) -> Any:
        chunks = self._servers.of[url.removeprefix("http://")].chunks
        if isinstance(request, Inventory):
            names = sorted(name for name in chunks if name > request.after)
            return Inventoried(names[: request.limit], len(names) > request.limit)
        assert isinstance(request, Verify)
        return Verified([c for c in request.chunks if c in chunks], [c for c in request.chunks if c not in chunks])


def found_by_checker(servers: Servers) -> list[str]:
    """What it says of chunks: missing, short, and there for nobody."""
    check = ChunkCheck(Asked(servers), read=True)
    check.run()
    assert check.asked_servers == [*servers.of]
    return [*(problem.what for problem in check.problems), *check.notes()]
