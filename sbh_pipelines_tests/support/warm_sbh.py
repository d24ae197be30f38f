"""`sbh` without the second it takes to import it: a process that has, and forks for each call; and the client that calls it.

python warm_sbh.py serve SOCKET          until its standard input is closed
python warm_sbh.py call SOCKET ARGUMENT...   as `sbh ARGUMENT...`: the same streams, environment, directory and exit status
"""

import json
import os
import socket
import sys

# What commands import only when they run.
_OTHERS = (
    "boto3",
    "botocore.session",
    "httpcore",
    "httpx",
    "obstore.store",
    "psycopg2",
    "rich.markup",
    "rich.table",
    "typer.rich_utils",
)
_OF_OTHERS = ("api", "embedded", "orchestration")  # FastAPI, servers, Dagster


def _import_all() -> None:
    """What commands are made of. They import it when they run, which is most of a second of a core for each of them."""
    import gc
    from importlib import import_module
    from pkgutil import iter_modules, walk_packages

    import sbh_pipelines

    for part in iter_modules(sbh_pipelines.__path__, "sbh_pipelines."):
        if part.ispkg and part.name.rpartition(".")[2] not in _OF_OTHERS:
            for module in walk_packages(import_module(part.name).__path__, f"{part.name}."):
                import_module(module.name)
    for name in _OTHERS:
        import_module(name)
    gc.freeze()


def serve(path: str) -> None:
    import select

    _import_all()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(connection)
            connection.close()
            while _collected():
                pass


def _answer(connection: socket.socket) -> None:
    if os.fork():  # the answering process waits for the one that runs the command, however that ends
        _, status = os.wait()
        connection.sendall(bytes([os.waitstatus_to_exitcode(status) & 255]))
        os._exit(0)
    text, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    call = json.loads(text)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)
    os.chdir(call["directory"])
    os.environ.clear()
    os.environ.update(call["environment"])
    from sbh_pipelines.cli import main

    try:
        status = main(call["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    os._exit(status)


def _collected() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def call(path: str, arguments: list[str]) -> int:
    message = {"arguments": arguments, "environment": dict(os.environ), "directory": os.getcwd()}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [json.dumps(message).encode()], [0, 1, 2])
        return connection.recv(1)[0]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(call(sys.argv[2], sys.argv[3:]))
