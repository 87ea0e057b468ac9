"""Measurements that anybody can repeat: the core, the live system, and peers side by side."""
