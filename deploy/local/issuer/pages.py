"""The login page, on which the caller chooses a user. There are no passwords, so the issuer listens on loopback only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from fastapi.responses import HTMLResponse

from deploy.local.issuer.accounts import Principal

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 26rem; margin: 12vh auto; padding: 0 1rem; color: #16324f }}
 button {{ display: block; width: 100%; margin: .5rem 0; padding: .7rem 1rem; text-align: left; font: inherit;
           border: 1px solid #9db4c8; border-radius: .4rem; background: #f4f8fb; cursor: pointer }}
 button:hover, button:focus {{ background: #dcebf7 }} small {{ color: #54708a }}
</style></head><body><h1>{title}</h1>{body}</body></html>"""
_HEADERS = {
    # form-action also covers the redirect that answers the form
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'; "
    "form-action 'self' http://127.0.0.1:* http://localhost:*",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


def login_page(users: Iterable[Principal], client: str, request: Mapping[str, str]) -> HTMLResponse:
    hidden = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">' for name, value in request.items()
    )
    buttons = "".join(
        f'<button name="user" value="{escape(user.name)}">{escape(user.name)} <small>{escape(user.title)}; '
        f"{escape(user.tenant)}: {escape(', '.join(user.groups))}</small></button>"
        for user in users
    )
    body = f'<p><b>{escape(client)}</b> asks who you are.</p><form method="post" action="/authorize">{hidden}{buttons}</form>'
    return _page("Tidemark, local login", body, 200)


def error_page(reason: str) -> HTMLResponse:
    """Return the page for requests that may not be redirected, because their redirect_uri or client is wrong."""
    return _page("This login cannot start", f"<p>{escape(reason)}</p>", 400)


def _page(title: str, body: str, status: int) -> HTMLResponse:
    return HTMLResponse(_PAGE.format(title=escape(title), body=body), status, _HEADERS)
