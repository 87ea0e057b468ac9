"""The `framesieve` command line."""
