"""Caches whose servers answer in the order asked: pipelined connections, one write per turn of the loop."""

from dsfast_plugins.pipeline.cache import Batch, PipelinedCache, Result, answer, answer_all
from dsfast_plugins.pipeline.client import Action, Client, Limits
from dsfast_plugins.pipeline.link import Address, Command, Link, Refused, ServerError, open_link

__all__ = [
    "Action",
    "Address",
    "Batch",
    "Client",
    "Command",
    "Limits",
    "Link",
    "PipelinedCache",
    "Refused",
    "Result",
    "ServerError",
    "answer",
    "answer_all",
    "open_link",
]
