"""Specs from what people have already: settings of TensorRT-LLM, vLLM, Text Generation Inference and Ollama.

Every field is accounted for: mapped to a key of the spec, dropped with a reason, or unknown. Fields that contradict
each other are refused by name. ``draft`` keeps the account; one module for each of the four.
"""
