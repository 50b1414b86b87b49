"""The HTTP API: questions, search and documents under an OIDC token."""
