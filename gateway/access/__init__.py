"""Who may ask, and how much: API keys, web origins and rate limits, used by `gateway.middleware`."""
