"""S3, SQS and Secrets Manager for the local stack: moto, with buckets and objects that outlive it.

A request that alters S3 is answered after its effect is on the disk, and only then are its notifications sent. A receiver can
read the object with its metadata, even after a kill -9. Buckets' versioning, tags and notifications and the
queues with their settings outlive the process too. Messages, secrets, unfinished multipart uploads and other settings of buckets do not.

Each request must be signed with the one pair of keys of the environment; only the health check is open.

    AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... python -m deploy.local.s3 --port 9000 --data .stack/s3
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from email.header import Header
from functools import partial
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

# moto reads this at import. Its default lets any web page read the buckets.
os.environ["MOTO_DISABLE_GLOBAL_CORS"] = "true"

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from deploy.local.local_server import arguments, is_loopback_authority, place
from deploy.local.s3 import queues, state
from deploy.local.s3.mirror import Mirror
from deploy.local.s3.signatures import BadSignature, Keys, check

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

HEALTH_PATH = "/_health"  # a bucket name cannot start with an underscore
S3_SERVICES = {"s3", "s3bucket_path"}
STRIPES = 64


class Application:
    """The WSGI application in front of moto.

    One lock guards moto's S3 code, which is not thread-safe. A striped lock per key guards the disk, so that writers of different keys
    write at the same time. SQS needs neither lock, so long polls block no other request.
    """

    def __init__(self, data: Path, keys: Keys) -> None:
        self.keys = keys
        self.mirror = Mirror(data)
        self.backend = state.install()
        queues.install()
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.memory = threading.RLock()
        self.disk = [threading.RLock() for _ in range(STRIPES)]
        self.queues = threading.Lock()
        self._restore()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return self._respond(environ)(environ, start_response)

    def _respond(self, environ: Environ) -> Response:
        if not is_loopback_authority(environ.get("HTTP_HOST", "")) or _foreign(environ.get("HTTP_ORIGIN")):
            return Response("this server answers programs on this machine only\n", 403)
        if environ["PATH_INFO"] == HEALTH_PATH:
            return Response("ok\n")
        if environ["PATH_INFO"].startswith("/moto-api"):
            return Response("moto's own API resets state behind the mirror, so it is not offered here\n", 403)
        if _unlistable(environ["PATH_INFO"]):
            return Response("the key is not UTF-8 or has characters that no XML listing can carry\n", 400)
        body = _buffer_body(environ)
        try:
            check(environ, body, self.keys, datetime.now(UTC))
        except BadSignature as error:
            return _refuse(environ, error)
        return self._run(environ)

    def _run(self, environ: Environ) -> Response:
        application: Any = self.moto.get_application(environ)
        changes = state.begin()
        with self.memory if application.service in S3_SERVICES else ExitStack():
            response = Response.from_app(application, environ, buffered=True)
        for bucket in changes.buckets:
            self._mirror_bucket(bucket)
        for bucket, key in changes.keys:
            self._mirror_key(bucket, key)
        if changes.queues:
            with self.queues:
                self.mirror.save_queues(queues.describe_queues())
        for send in changes.events:
            send()
        _encode_metadata(response)
        return response

    def _mirror_bucket(self, name: str) -> None:
        with ExitStack() as locks:
            for lock in self.disk:
                locks.enter_context(lock)
            with self.memory:
                bucket = self.backend.buckets.get(name)
                record = bucket and state.describe_bucket(self.backend, bucket)
            if record:
                self.mirror.save_bucket(name, record)
            elif self.mirror.has_bucket(name):
                self.mirror.drop_bucket(name)

    def _mirror_key(self, bucket: str, key: str) -> None:
        while not self._try_mirror_key(bucket, key):
            self._mirror_bucket(bucket)

    def _try_mirror_key(self, bucket_name: str, key_name: str) -> bool:
        """Bring the disk to the state of the memory, which may be newer than the caller's change.

        Returns False when the bucket itself is not on the disk yet, because writing it needs all locks.
        """
        with self.disk[hash((bucket_name, key_name)) % STRIPES]:
            with self.memory:
                bucket = self.backend.buckets.get(bucket_name)
                versions = list(bucket.keys.getlist(key_name, [])) if bucket else []
                fresh = [(key, key.value) for key in versions if isinstance(key, state.MirroredKey) and not key.body]
            if bucket is None:
                return True  # deleting a bucket deletes its keys
            if not self.mirror.has_bucket(bucket_name):
                return False
            paths = [(key, self.mirror.save_body(bucket_name, content)) for key, content in fresh]
            with self.memory:
                for key, path in paths:
                    key.keep_in(path)
                records = [state.describe_version(self.backend, version) for version in versions]
            self.mirror.save_key(bucket_name, key_name, records)
            return True

    def _restore(self) -> None:
        state.begin()
        queues.restore_queues(self.mirror.queues())
        for record in self.mirror.buckets():
            backend, bucket = state.restore_bucket(record)
            for key in self.mirror.keys(bucket.name):
                state.restore_key(backend, bucket, key, partial(self.mirror.body, bucket.name))


def _refuse(environ: Environ, error: BadSignature) -> Response:
    """Answer as the called protocol does, so that clients raise the code: JSON with a target, XML without."""
    status = 501 if error.code == "NotImplemented" else 403
    if "HTTP_X_AMZ_TARGET" in environ:
        text = json.dumps({"__type": error.code, "message": str(error)})
        return Response(text, status, content_type="application/x-amz-json-1.0")
    text = f"<Error><Code>{error.code}</Code><Message>{escape(str(error))}</Message></Error>"
    return Response(text, status, content_type="application/xml")


def _foreign(origin: str | None) -> bool:
    """Return whether the request comes from a web page of another machine, which browsers name in the Origin."""
    return origin is not None and not is_loopback_authority(origin.partition("://")[2])


def _unlistable(path: str) -> bool:
    """Return whether XML cannot carry the key (XML 1.0, section 2.2). moto would accept it and then fail each listing of versions."""
    try:
        text = path.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return True
    return re.search(r"[\x00-\x08\x0b-\x1f\ufffe\uffff]", text) is not None


def _encode_metadata(response: Response) -> None:
    """Encode metadata beyond ASCII in RFC 2047's form, as S3 does. Strict clients cannot read an object with raw metadata."""
    for name, value in list(response.headers):
        if name.lower().startswith("x-amz-meta-") and not value.isascii():
            text = value.encode("latin-1", "replace").decode("utf-8", "replace")
            response.headers[name] = Header(text, "utf-8", maxlinelen=sys.maxsize).encode()


def _buffer_body(environ: Environ) -> bytes:
    """Read the body before any lock, so that a slow client blocks no other one."""
    stream = environ["wsgi.input"]
    chunked = environ.get("wsgi.input_terminated", False)
    body = stream.read() if chunked else stream.read(int(environ.get("CONTENT_LENGTH") or 0))
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    environ.update({"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)), "wsgi.input_terminated": True})
    return bytes(body)


class Handler(MotoRequestHandler):
    def log_request(self, *_: Any) -> None:
        """Log nothing, because request lines carry object keys, and keys carry names of people."""


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments("s3", "S3, SQS and Secrets Manager, persistent for objects").parse_args(argv)
    keys = Keys(os.environ.get("AWS_ACCESS_KEY_ID", ""), os.environ.get("AWS_SECRET_ACCESS_KEY", ""))
    if not keys.access_key_id or len(keys.secret) < 16:
        raise SystemExit(
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (16 characters or more) must name the keys that clients sign with"
        )
    here = place(options)
    application = Application(here.data, keys)
    server = make_server(here.host, here.port, application, threaded=True, request_handler=Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"S3, SQS and Secrets Manager on http://{here.host}:{here.port}, objects in {here.data}", flush=True)
    server.serve_forever()
