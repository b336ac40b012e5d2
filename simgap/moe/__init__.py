"""The simulated MoE layer: weights, inputs, routers and experts as batched tensor programs over trials."""

from simgap.moe.budget import Streaming, group_bytes, group_numbers, group_trials, plan_stream, stream_bytes
from simgap.moe.inputs import open_inputs
from simgap.moe.layer import SITES, Block, Layer, simulate
from simgap.moe.routers import Routing, route
from simgap.moe.streamed import StreamedWeights
from simgap.moe.weights import HIDDEN_BLOCK, Weights, draw_weights

__all__ = [
    "HIDDEN_BLOCK",
    "SITES",
    "Block",
    "Layer",
    "Routing",
    "StreamedWeights",
    "Streaming",
    "Weights",
    "draw_weights",
    "group_bytes",
    "group_numbers",
    "group_trials",
    "open_inputs",
    "plan_stream",
    "route",
    "simulate",
    "stream_bytes",
]
