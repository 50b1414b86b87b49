"""Who exists on the local stack: the users one can log in as, and the clients that may ask for tokens."""

from __future__ import annotations

from dataclasses import dataclass

API_SCOPES = ("rag:query", "rag:ingest", "rag:erase", "rag:audit", "rag:admin")
LOGIN_SCOPES = ("openid", "profile", "email", "offline_access")
SCOPES = (*LOGIN_SCOPES, *API_SCOPES)


@dataclass(frozen=True)
class Principal:
    """A user, or a client acting for itself. `scopes` are what its tokens may carry, and do when none are named."""

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
    """A registered client. A confidential one acts for itself; a public one brings users, with PKCE, to loopback."""

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
