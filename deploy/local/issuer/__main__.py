from __future__ import annotations

from deploy.local.issuer.app import main

if __name__ == "__main__":
    main()
