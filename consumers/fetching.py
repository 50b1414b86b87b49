"""HTTP for addresses that strangers wrote: pages link to pages, and hosts choose where their names and their redirects lead.

The address that a connection really goes to is checked, after the name is resolved. So neither a redirect nor a name that resolves to
another address the second time reaches a private network.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Self
from urllib.parse import urljoin

import httpcore
import httpx
from pydantic import AfterValidator, BaseModel, Field, field_validator

from rag.errors import Rejected, Unavailable

Network = IPv4Network | IPv6Network

MAX_URL = 2000  # characters
REDIRECTS = 5
_TRANSLATED = ip_network("64:ff9b::/96")  # IPv4 addresses behind a translator (RFC 6052)
_CREDENTIALS = (
    ip_network("169.254.0.0/16"),
    ip_network("fe80::/10"),
    ip_network("fd00:ec2::/32"),
)  # of clouds' machines


@dataclass(frozen=True, slots=True)
class Answer:
    """The last answer of a chain of redirects. ``headers`` has names in lower case; a repeated header has a line for each value."""

    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes


class Fetcher:
    """A client that reaches public addresses, and those in ``networks``. Use it as an asynchronous context, and per event loop."""

    def __init__(self, *, agent: str, networks: Iterable[Network] = (), timeout: float = 30.0) -> None:
        self._agent = agent
        self._timeout = timeout  # seconds for a request, with its redirects
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_ssl_context(),
            max_connections=20,
            keepalive_expiry=15,
            network_backend=_CheckedNetwork(tuple(networks)),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.aclose()

    async def get(
        self,
        url: str,
        *,
        limit: int,
        headers: Mapping[str, str] | None = None,
        permit: Callable[[str], Awaitable[None]] | None = None,
    ) -> Answer:
        """Return the answer for ``url``, whatever its status. ``permit`` sees each address first and raises Rejected to stop.

        Raises Rejected for an address that is not reachable from here by rule, for more than ``limit`` bytes of content, and for an
        answer that cannot be read; and Unavailable when no answer comes.
        """
        try:
            async with asyncio.timeout(self._timeout):
                for _ in range(REDIRECTS + 1):
                    url = canonical(url)
                    if permit:
                        await permit(url)
                    answer = await self._get(url, limit, headers or {})
                    if answer.status not in {301, 302, 303, 307, 308} or "location" not in answer.headers:
                        return answer
                    url = urljoin(url, answer.headers["location"])
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            raise Unavailable(f"{host_of(url)} does not answer ({type(error).__name__})") from error
        raise Rejected(f"{host_of(answer.url)} redirects more than {REDIRECTS} times", reason="redirects")

    async def _get(self, url: str, limit: int, headers: Mapping[str, str]) -> Answer:
        sent = {"User-Agent": self._agent, "Accept": "*/*", "Accept-Encoding": "gzip", **headers}
        async with self._pool.stream("GET", url, headers=list(sent.items()), extensions=self._extensions) as response:
            received: dict[str, str] = {}
            for name, value in (
                (name.decode("ascii").lower(), value.decode("latin-1")) for name, value in response.headers
            ):
                received[name] = f"{received[name]}\n{value}" if name in received else value
            content = await _read(response.aiter_stream(), received.get("content-encoding", ""), limit)
        return Answer(url, response.status, received, content)

    @property
    def _extensions(self) -> dict[str, Any]:
        return {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), self._timeout)}


@cache
def _ssl_context() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


def canonical(url: str) -> str:
    """Return the one form of a web address, without its fragment. Raises Rejected for anything but an http or https address."""
    try:
        if len(url) > MAX_URL:
            raise ValueError(f"it has more than {MAX_URL} characters")
        parsed = httpx.URL(url.strip())
        if parsed.scheme not in {"http", "https"} or not parsed.host or parsed.userinfo:
            raise ValueError("it must be http or https, with a host and without a user")
    except (httpx.InvalidURL, ValueError) as error:
        raise Rejected(f"web address refused: {error}", reason="bad_url") from None
    return str(parsed.copy_with(fragment=None, raw_path=parsed.raw_path))  # the path of a bare host is "/"


def _canonical_setting(url: str) -> str:
    try:
        return canonical(url)
    except Rejected as error:
        raise ValueError(str(error)) from None


Address = Annotated[str, AfterValidator(_canonical_setting)]


class FetchOptions(BaseModel, extra="forbid"):
    """The ``options`` that every source of web addresses has."""

    max_bytes: int = Field(20 * 2**20, ge=1)  # of one answer
    networks: tuple[Network, ...] = ()  # private networks that may be read

    @field_validator("networks")
    @classmethod
    def _harmless(cls, value: tuple[Network, ...]) -> tuple[Network, ...]:
        """Refuse a network in which clouds give credentials to whoever asks."""
        for network in value:
            if any(network.version == each.version and network.overlaps(each) for each in _CREDENTIALS):
                raise ValueError(f"network {network} has addresses that serve credentials: name narrower networks")
        return value


def host_of(url: str) -> str:
    """Return the host of a canonical address, with its port where that is not the usual one."""
    return url.split("/", 3)[2]


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether the address belongs to the public internet, also when it contains another (RFC 4291, 3056, 4380, 6052)."""
    if isinstance(address, IPv6Address):
        if address.teredo:
            return False
        inner = address.ipv4_mapped or address.sixtofour
        if address in _TRANSLATED:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner:
            return is_public(inner)
    return address.is_global and not address.is_multicast


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects only to addresses that are public or in ``networks``."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface of httpcore
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        allowed = [address for address in await _resolve(host, port) if self._is_allowed(address)]
        if not allowed:
            raise Rejected(
                f"host {host!r} has no public address: add its network to networks of the source, if it may be read",
                reason="private_address",
            )
        for address in allowed[:-1]:
            try:
                return await self._connect(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue  # the next address
        return await self._connect(allowed[-1], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _connect(self, address: IPv4Address | IPv6Address, port: int, *rest: Any) -> httpcore.AsyncNetworkStream:
        return await self._sockets.connect_tcp(str(address), port, *rest)

    def _is_allowed(self, address: IPv4Address | IPv6Address) -> bool:
        return is_public(address) or any(address in network for network in self._networks)


async def _resolve(host: str, port: int) -> list[IPv4Address | IPv6Address]:
    """Return the addresses of the host, each once and in the resolver's order."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise httpcore.ConnectError(f"no address of {host!r}") from error
    return list(dict.fromkeys(ip_address(name[0]) for *_, name in found))


async def _read(chunks: Any, encoding: str, limit: int) -> bytes:
    """Return the content, decoded piece by piece, so that a small answer cannot become a large one in memory."""
    if encoding not in {"", "identity", "gzip", "x-gzip"}:
        raise Rejected(f"the answer has the encoding {encoding[:20]!r}, which was not asked for", reason="bad_encoding")
    decoder = zlib.decompressobj(wbits=31) if "gzip" in encoding else None
    content = bytearray()
    async for chunk in chunks:
        content += _inflate(decoder, chunk, limit + 1 - len(content)) if decoder else chunk
        if len(content) > limit:
            raise too_large(limit)
    if decoder and not decoder.eof:
        raise Unavailable("an answer ended before its content was complete")
    return bytes(content)


def _inflate(decoder: Any, chunk: bytes, most: int) -> bytes:
    try:
        return decoder.decompress(chunk, most)  # type: ignore[no-any-return]
    except zlib.error:
        raise Rejected("the answer is not the gzip that it says it is", reason="bad_encoding") from None


def gunzip(content: bytes, limit: int) -> bytes:
    """Return the content of a gzip file. Raises Rejected when it is none, is not complete, or is larger than ``limit`` bytes."""
    decoder = zlib.decompressobj(wbits=31)
    inflated = _inflate(decoder, content, limit + 1)
    if len(inflated) > limit:
        raise too_large(limit)
    if not decoder.eof:
        raise Rejected("the gzip file is not complete", reason="bad_encoding")
    return inflated


def too_large(limit: int) -> Rejected:
    return Rejected(f"the answer has more than {limit:,} bytes: raise max_bytes of the source", reason="too_large")
