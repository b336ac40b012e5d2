"""The simulated MoE layer: weights, inputs, routers and experts as batched tensor programs over trials."""

from simgap.moe.budget import (
    Streaming,
    budget_bytes,
    even_groups,
    group_bytes,
    group_count,
    group_numbers,
    group_size,
    group_trials,
    kept_bytes,
    plan_block,
    plan_stream,
    stream_bytes,
    task_bytes,
)
from simgap.moe.group import Draw, draws_of, shape
from simgap.moe.inputs import open_inputs
from simgap.moe.layer import Layer, simulate
from simgap.moe.routers import Routing, route
from simgap.moe.streamed import StreamedWeights
from simgap.moe.weights import HIDDEN_BLOCK, Weights, draw_weights, matrices

__all__ = [
    "HIDDEN_BLOCK",
    "Draw",
    "Layer",
    "Routing",
    "StreamedWeights",
    "Streaming",
    "Weights",
    "budget_bytes",
    "draw_weights",
    "draws_of",
    "even_groups",
    "group_bytes",
    "group_count",
    "group_numbers",
    "group_size",
    "group_trials",
    "kept_bytes",
    "matrices",
    "open_inputs",
    "plan_block",
    "plan_stream",
    "route",
    "shape",
    "simulate",
    "stream_bytes",
    "task_bytes",
]
