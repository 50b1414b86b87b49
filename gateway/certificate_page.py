"""The certificate of an erasure as a page for the officer's file: it prints well, loads nothing, and holds the signed text itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Certificate of erasure {{ claims.certificate_id }}</title>
<style>
body { font: 11pt/1.4 serif; max-width: 46em; margin: 2em auto; padding: 0 1em; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .25em .6em; border-bottom: 1px solid #bbb }
code, pre { font: 9pt monospace; white-space: pre-wrap }
</style>
</head>
<body>
<h1>Certificate of erasure</h1>
<table>
{%- for name, value in facts %}
<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{%- endfor %}
</table>
<h2>Stores</h2>
<table>
<tr><th>Store</th><th>Statement</th><th>Negative control</th></tr>
{%- for name, store in claims.stores.items() %}
<tr><td>{{ name }}</td><td>{{ store.claim }}</td><td>{{ store.negative_control }}</td></tr>
{%- endfor %}
</table>
<h2>Not proven</h2>
<ul>
{%- for each in claims.unproven %}
<li>{{ each }}</li>
{%- endfor %}
</ul>
{%- for title, ids in (("Documents", claims.documents), ("People", claims.subjects)) if ids %}
<h2>{{ title }} ({{ ids | length }}, as pseudonyms)</h2>
<p><code>{{ ids | join(" ") }}</code></p>
{%- endfor %}
<h2>Signed text</h2>
<p>Only this text is signed (JWS, Ed25519). Save it as <code>certificate.jws</code> and verify it with the platform's public keys:
<code>tidemark erase verify-certificate certificate.jws --keys KEYS</code></p>
<pre>{{ signed }}</pre>
</body>
</html>
"""
_page = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True).from_string(_TEMPLATE)


def page(signed: str, claims: Mapping[str, Any]) -> str:
    """Return the page (HTML) of a verified certificate: ``signed`` is its compact JWS, ``claims`` what that states."""
    request, affected = claims["request"], claims["affected"]
    facts = [
        ("Certificate", claims["certificate_id"]),
        ("Tenant", claims["tenant"]),
        ("Request", f"{request['kind']}, {request['mode']}"),
        ("Reason", request["reason"] or "none given"),
        ("Officer (pseudonym)", request["officer"]),
        ("Requested, and hidden since", _time(claims["hidden_since"])),
        ("To be done by", _time(request["deadline"])),
        ("Verified", _time(claims["verified_at"])),
        ("To be verified once more", _time(claims["verified_again_at"])),
        ("Counted", ", ".join(f"{name} {number}" for name, number in affected.items() if number) or "nothing"),
        ("Version", claims["code_version"]),
    ]
    return _page.render(claims=claims, facts=facts, signed=signed.strip())


def _time(moment: str | None) -> str:
    return f"{moment[:19].replace('T', ' ')} UTC" if moment else "no"
