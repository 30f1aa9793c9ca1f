"""The real world behind the ports: loop, clock, files and processes."""
