"""The accounts of the local stack: users for logins, and clients for tokens."""

from __future__ import annotations

from dataclasses import dataclass

API_SCOPES = ("rag:query", "rag:ingest", "rag:erase", "rag:audit", "rag:admin")
LOGIN_SCOPES = ("openid", "profile", "email", "offline_access")
SCOPES = (*LOGIN_SCOPES, *API_SCOPES)


@dataclass(frozen=True)
class Principal:
    """A user, or a client acting for itself. `scopes` limit its tokens, which carry all of them when a request names none."""

    name: str
    title: str
    tenant: str
    groups: tuple[str, ...]
    scopes: tuple[str, ...] = ("rag:query", "rag:ingest")

    def profile(self) -> dict[str, object]:
        return {
            "sub": self.name,
            "preferred_username": self.name,
            "name": self.title,
            "email": f"{self.name}@{self.tenant}.example",
            "tenant": self.tenant,
            "groups": list(self.groups),
        }


@dataclass(frozen=True)
class Client:
    """A registered client. A confidential client acts for itself. A public client logs users in, with PKCE, and redirects to loopback."""

    name: str
    grants: frozenset[str]
    principal: Principal | None = None


USERS = {
    user.name: user
    for user in (
        Principal("alice", "Alice, engineering and finance", "acme", ("staff", "engineering", "finance")),
        Principal("bob", "Bob, contractor", "acme", ("contractors",)),
        Principal("eve", "Eve, of another company", "globex", ("staff", "engineering")),
        Principal(
            "dpo", "Data protection officer", "acme", ("staff", "privacy"), ("rag:query", "rag:erase", "rag:audit")
        ),
    )
}

DEMO = Principal(
    "demo", "The demo client", "acme", ("staff", "engineering", "finance", "people", "contractors"), API_SCOPES
)
_FOR_USERS = frozenset({"authorization_code", "refresh_token"})
CLIENTS = {
    client.name: client
    for client in (
        Client("demo", frozenset({"client_credentials"}), DEMO),
        Client("tidemark-cli", _FOR_USERS),
        Client("tidemark-docs", _FOR_USERS),
    )
}
