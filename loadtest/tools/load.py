"""A workload sent to a running server, and the CPU time that this takes."""

import time

from loadtest.tools.client import Answers, send
from loadtest.tools.servers import HOST, Server
from loadtest.tools.workloads import Workload

WARM_UP_S = 1.0


def load_with(server: Server, workload: Workload, clients: int, seconds: float) -> tuple[Answers, dict[str, float]]:
    """Send a workload's requests for a while, when the server is warm.

    Returns:
        The answers, and the CPU seconds used meanwhile by the server's roles and by the clients.
    """
    send(HOST, server.port, workload.path, workload.bodies, clients, WARM_UP_S)
    before, own = server.cpu_s(), time.process_time()
    answers = send(HOST, server.port, workload.path, workload.bodies, clients, seconds)
    roles = {role: used - before.get(role, 0) for role, used in server.cpu_s().items()}
    return answers, {"clients": time.process_time() - own} | roles
