"""The process of the server: its socket, its signals, and a shutdown that answers what was accepted."""

from __future__ import annotations

import asyncio
import math
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from kdmt.errors import UserError
from kdmt.serve.app import Service, make_app
from kdmt.serve.protocol import limited_protocol

_SPARE_FILES = 64  # files and sockets other than connections
_BACKLOG = 2048


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers, which end the process by the signal after a clean shutdown."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address. It does not accept connections yet.

    Raises:
        UserError: if the address does not exist or is in use.
    """
    if not host:
        raise UserError("--host: expected an address, such as 127.0.0.1, or 0.0.0.0 for all networks")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    except ValueError:  # of the encoding of host names
        raise UserError(f"cannot listen on {host[:100]!r}: neither a host name nor an address") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    return bound


def address_of(bound: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def allow_open_files(connections: int) -> None:
    """Raise the limit on open files of this process for a number of connections.

    Raises:
        UserError: if the system does not allow this number.
    """
    needed = connections + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise UserError(
                f"{connections:,} connections need {needed:,} open files, and the system allows {hard:,}: "
                "give a smaller --max-connections, or raise 'ulimit -n'"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def run_server(
    service: Service, bound: socket.socket, *, trust_proxy: bool = False, ready: Callable[[], None] | None = None
) -> None:
    """Answer requests until SIGTERM or SIGINT, then finish those that were accepted. A second signal ends at once.

    Args:
        service: what answers; it is closed at the end.
        bound: socket from `bind`, which is closed at the end.
        trust_proxy: whether a proxy on this machine gives the addresses of clients in the header X-Forwarded-For.
        ready: function that is called once connections are accepted.
    """
    server = make_server(service, trust_proxy=trust_proxy)

    async def serve() -> None:
        def stop() -> None:
            server.force_exit = server.should_exit
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        await serve_until_stopped(server, bound, ready)

    try:
        asyncio.run(serve())
    finally:
        bound.close()
        if not server.force_exit:
            service.close()


def make_server(service: Service, *, trust_proxy: bool = False) -> uvicorn.Server:
    """Return uvicorn's server for a service. It stops once `should_exit` is true."""
    limits = service.limits
    config = uvicorn.Config(
        make_app(service),
        http=limited_protocol(limits),
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=trust_proxy,
        forwarded_allow_ips="127.0.0.1,::1",
        backlog=_BACKLOG,
        timeout_keep_alive=limits.keep_alive_seconds,
        timeout_graceful_shutdown=math.ceil(limits.request_seconds + limits.write_seconds),
    )
    server = _Server(config)
    service.connections = lambda: len(server.server_state.connections)
    return server


async def serve_until_stopped(
    server: uvicorn.Server, bound: socket.socket, ready: Callable[[], None] | None = None
) -> None:
    """Run a server, and call `ready` once it accepts connections."""
    serving = asyncio.ensure_future(server.serve(sockets=[bound]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if ready is not None and server.started:
        ready()
    await serving
