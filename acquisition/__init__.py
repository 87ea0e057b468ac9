"""A run: source, pipeline and files put together; knows nothing of Tango."""
