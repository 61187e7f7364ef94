"""Processes that know of each other as torchrun tells them, two or as many as PROCESSES says. `python
tests/two_processes.py FILE ARGUMENT ...` imports a test file once, which takes long, and calls its
`run_worker(ARGUMENT, ...)` in as many forks."""

import importlib.util
import os
import socket
import sys
import traceback


def main(file: str, *arguments: str) -> int:
    specification = importlib.util.spec_from_file_location("worker", file)
    module = sys.modules["worker"] = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    size = os.environ.get("PROCESSES", "2")
    for rank in map(str, range(int(size))):
        if os.fork() == 0:
            world = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "RANK": rank, "LOCAL_RANK": rank}
            os.environ |= address | world
            try:
                module.run_worker(*arguments)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)  # the threads of gloo sometimes keep the interpreter from ending
    return int(any([os.wait()[1] for _ in range(int(size))]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
