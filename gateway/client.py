"""A client of the gateway for programs: calls with a token, and problems as sentences."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx

REFUSED, NOT_LOGGED_IN, UNREACHABLE = 1, 3, 4  # exit codes
TIMEOUT = httpx.Timeout(120, connect=5)  # a hosted model may write for a minute
FINAL = {"live", "parked", "dead", "suppressed", "deleted"}


class Failed(Exception):
    """A call that did not succeed. The message is for people, ``code`` for the shell."""

    def __init__(self, message: str, code: int = REFUSED) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class GatewayClient:
    """A client of one gateway. ``token`` returns a valid access token."""

    url: str
    token: Callable[[], str]
    transport: httpx.BaseTransport | None = None
    _client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self._client = httpx.Client(base_url=self.url, timeout=TIMEOUT, transport=self.transport)

    def close(self) -> None:
        self._client.close()

    def call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Return the body of a successful response. Raises Failed for any other."""
        return dict(_json(self._request(method, path, **options)))

    def listed(self, path: str, name: str, **query: Any) -> list[dict[str, Any]]:
        """Return the items of every page of a list, whose bodies hold them under ``name``. Raises Failed for any other response."""
        items: list[dict[str, Any]] = []
        after: dict[str, str] = {}
        while True:
            page = self.call("GET", path, params=query | after | {"limit": 500})
            items += page[name]
            if page["next"] is None:
                return items
            after = {"after": page["next"]}

    def text(self, path: str) -> str:
        """Return the body of a successful response that is not JSON. Raises Failed for any other."""
        return self._request("GET", path).text

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, path, headers={"Authorization": f"Bearer {self.token()}"}, **options)
        except httpx.HTTPError as error:
            raise Failed(f"the gateway {self.url} does not answer ({type(error).__name__})", UNREACHABLE) from None
        if not answer.is_success:
            raise _failed(answer)
        return answer

    def lines(self, path: str, **options: Any) -> Iterator[str]:
        """Yield the lines of a successful response as they arrive. Raises Failed for any other."""
        headers = {"Authorization": f"Bearer {self.token()}"}
        try:
            with self._client.stream("GET", path, headers=headers, **options) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _failed(answer)
                yield from answer.iter_lines()
        except httpx.HTTPError as error:
            raise Failed(f"the gateway {self.url} does not answer ({type(error).__name__})", UNREACHABLE) from None

    def upload(
        self, path: Path, *, title: str = "", principals: Sequence[str] = (), progress: Callable[[int], None]
    ) -> dict[str, Any]:
        """Upload a file. ``progress`` gets the number of bytes sent since its last call. Raises Failed."""
        form: dict[str, Any] = {"principals": list(principals)} | ({"title": title} if title else {})
        try:
            with path.open("rb") as file:
                reading: Any = _Watched(file, progress)
                return self.call("POST", "/v1/documents", files={"file": (path.name, reading)}, data=form)
        except OSError as error:
            raise Failed(f"{path} cannot be read: {error.strerror}") from None

    def wait(self, status_url: str, *, seconds: float, pause: float = 0.5) -> dict[str, Any]:
        """Return the document once its status is final. Raises Failed when that takes longer than ``seconds``."""
        end = time.monotonic() + seconds
        while True:
            document = self.call("GET", status_url)
            if document["status"] in FINAL:
                return document
            if time.monotonic() > end:
                raise Failed(f"document {document['document_id']} is still {document['status']} after {seconds:g} s")
            time.sleep(pause)

    def documents(self, *, limit: int, **wanted: str) -> Iterator[dict[str, Any]]:
        """Yield the visible documents, page by page. ``wanted``: state, source, reason, title. Raises Failed."""
        query: dict[str, Any] = {"limit": min(limit, 500)} | {name: value for name, value in wanted.items() if value}
        while limit > 0:
            page = self.call("GET", "/v1/documents", params=query)
            yield from page["documents"][:limit]
            limit -= len(page["documents"])
            if page["next"] is None:
                return
            query["after"] = page["next"]


class _Watched:
    """A file that reports the number of bytes read."""

    def __init__(self, file: IO[bytes], progress: Callable[[int], None]) -> None:
        self._file, self._progress = file, progress

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self._progress(len(piece))
        return piece

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.read(65_536), b"")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Failed(f"{answer.url.host} does not answer as a gateway: check the address", UNREACHABLE)
    return found


def _failed(answer: httpx.Response) -> Failed:
    problem = _json(answer)
    reason = problem.get("detail") or problem.get("title") or f"status {answer.status_code}"
    trace = f" (trace {problem['trace_id']})" if problem.get("trace_id") and answer.status_code >= 500 else ""
    codes = {401: NOT_LOGGED_IN, 502: UNREACHABLE, 503: UNREACHABLE, 504: UNREACHABLE}
    hint = "; run `tidemark login`" if answer.status_code == 401 else ""
    return Failed(f"{problem.get('title', 'Refused')}: {reason}{trace}{hint}", codes.get(answer.status_code, REFUSED))
