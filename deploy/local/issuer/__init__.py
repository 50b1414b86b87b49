"""The OpenID provider of the local stack. Start reading at `app`."""
