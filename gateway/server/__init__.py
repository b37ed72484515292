"""HTTP connections and the life of the process. `server.Server` is the entry point."""
