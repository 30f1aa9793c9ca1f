"""Messages between processes: frames, sessions, endpoints, and ZeroMQ behind the network port."""
