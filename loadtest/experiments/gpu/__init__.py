"""`make gpu`: measures the torch backend on this machine's GPU, next to what else is installed."""
