"""The few calls of Google Cloud Storage (its XML API) and of Azure Blob that obstore makes, over HTTP. Signatures are not checked."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send


@dataclass
class Blob:
    content: bytes
    headers: dict[bytes, bytes]  # content type and metadata, as they came
    generation: int
    modified: datetime
    etag: str


@dataclass
class Blobs:
    """One container, ``name``, of the ``dialect`` gs or az. ``refused`` gives the HTTP status of a key's reads."""

    dialect: str
    name: str = "store"
    exists: bool = True
    lists: bool = True
    blobs: dict[str, Blob] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    generation: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await (await self._answer(request))(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        container, _, key = unquote(request.scope["raw_path"].decode()).lstrip("/").partition("/")
        if container != self.name or not self.exists:
            return Response("<Error><Code>NoSuchBucket</Code></Error>", 404)
        query = parse_qs(request.scope["query_string"].decode())
        if not key and query.get("comp") == ["batch"]:
            return self._delete_batch((await request.body()).decode())
        if not key:
            return self._list(query.get("prefix", [""])[0]) if self.lists else Response(status_code=403)
        if request.method == "PUT":
            return self._put(key, await request.body(), request)
        blob = self.blobs.get(key)
        if blob is None:
            return Response("<Error><Code>NoSuchKey</Code></Error>", 404)
        if request.method == "DELETE":
            del self.blobs[key]
            return Response(status_code=202 if self.dialect == "az" else 204)
        if key in self.refused:
            return Response(status_code=self.refused[key])
        answer = Response(b"" if request.method == "HEAD" else blob.content, 200)
        answer.raw_headers = [*blob.headers.items(), *self._description(blob)]
        return answer

    def _put(self, key: str, content: bytes, request: Request) -> Response:
        kept = (b"content-type", b"x-goog-meta-", b"x-ms-meta-")
        renamed = [
            (name.replace(b"x-ms-blob-content-type", b"content-type"), value) for name, value in request.headers.raw
        ]
        headers = {name: value for name, value in renamed if name.startswith(kept)}
        self.generation += 1
        # Azure's tag changes at each write; Google's is of the content.
        etag = hashlib.md5(content).hexdigest() if self.dialect == "gs" else f"0x{self.generation:X}"  # noqa: S324
        self.blobs[key] = Blob(content, headers, self.generation, datetime.now(UTC).replace(microsecond=0), etag)
        answer = Response(status_code=201 if self.dialect == "az" else 200)
        answer.raw_headers = self._description(self.blobs[key], length=0)
        return answer

    def _delete_batch(self, body: str) -> Response:
        """Delete the blobs of a batch of Azure, whose parts are requests and whose answer's parts are answers."""
        answers = ""
        for number, path in enumerate(re.findall(r"^DELETE (\S+) HTTP", body, re.MULTILINE)):
            key = unquote(urlsplit(path).path).lstrip("/").partition("/")[2]
            status = "202 Accepted" if self.blobs.pop(key, None) else "404 Not Found\r\nx-ms-error-code: BlobNotFound"
            answers += (
                f"--b\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\nHTTP/1.1 {status}\r\n\r\n\r\n"
            )
        return Response(f"{answers}--b--\r\n", 202, media_type="multipart/mixed; boundary=b")

    def _description(self, blob: Blob, length: int | None = None) -> list[tuple[bytes, bytes]]:
        size = len(blob.content) if length is None else length
        return [
            (b"content-length", str(size).encode()),
            (b"etag", f'"{blob.etag}"'.encode()),
            (b"last-modified", format_datetime(blob.modified, usegmt=True).encode()),
            (b"x-goog-generation", str(blob.generation).encode()),
        ]

    def _list(self, prefix: str) -> Response:
        below = [(key, blob) for key, blob in sorted(self.blobs.items()) if key.startswith(prefix)]
        entries = "".join(self._entry(key, blob) for key, blob in below)
        if self.dialect == "gs":
            body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
        else:
            body = f"<EnumerationResults><Blobs>{entries}</Blobs><NextMarker/></EnumerationResults>"
        return Response(body, media_type="application/xml")

    def _entry(self, key: str, blob: Blob) -> str:
        if self.dialect == "gs":
            return (
                f'<Contents><Key>{escape(key)}</Key><Size>{len(blob.content)}</Size><ETag>"{blob.etag}"</ETag>'
                f"<LastModified>{blob.modified:%Y-%m-%dT%H:%M:%S.000Z}</LastModified></Contents>"
            )
        return (
            f"<Blob><Name>{escape(key)}</Name><Properties><Last-Modified>{format_datetime(blob.modified, usegmt=True)}"
            f"</Last-Modified><Etag>{blob.etag}</Etag><Content-Length>{len(blob.content)}</Content-Length>"
            "<Content-Type>text/plain</Content-Type></Properties></Blob>"
        )
