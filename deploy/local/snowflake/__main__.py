from __future__ import annotations

from deploy.local.snowflake.server import main

if __name__ == "__main__":
    main()
