"""Pipelines: graphs of stages, compiled into programs that requests walk through."""
