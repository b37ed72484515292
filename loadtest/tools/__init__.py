"""What experiments share: servers, clients, workloads, stored results."""
