"""OpenCL sources, one step per file."""
