"""Prices of stages other than prefill and decode. Each compiler is an entry point of `hermes.stage_models`."""

from hermes_hw.stages.encoder import EncoderModel, compile_encoder
from hermes_hw.stages.index import IndexSpec
from hermes_hw.stages.processing import ProcessingModel, compile_processing
from hermes_hw.stages.retrieval import RetrievalModel, compile_retrieval

__all__ = [
    "EncoderModel",
    "IndexSpec",
    "ProcessingModel",
    "RetrievalModel",
    "compile_encoder",
    "compile_processing",
    "compile_retrieval",
]
