"""The numerical core: knows nothing of Tango, of files or of sockets."""
