from __future__ import annotations

from deploy.local.s3.server import main

if __name__ == "__main__":
    main()
