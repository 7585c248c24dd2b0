"""Triton's backend ``tensorrtllm`` with OpenVINO in the place of TensorRT: the same tensors and parameters, any CPU.

For tests alone. Triton takes a folder of its backend directory with a model.py in it for a backend, so a release that
was built for the C++ backend is loaded as it is. Known of that backend, and done here: one request is one row;
responses are streamed without saying which is the last; ``stop`` with a request id ends the request of that id, and
its answer is empty; an end token is sent.
"""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from conch.engines.base import GenerationRequest
from conch.engines.factory import create_engine
from conch.sampling import Guide, SamplingParams
from conch.spec import parse_spec


class Stream:
    """One request under way."""

    def __init__(self, name, sender, params):
        self.name, self.sender, self.params = name, sender, params
        self.whole = {}  # of requests that are not streamed: sequence -> ids, log probs


class TritonPythonModel:
    """The engine and the requests in it; also the sink of its tokens."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        for name in ("tokenizer_dir", "guided_decoding_backend", "xgrammar_tokenizer_info_path"):
            parameters[name]  # the real one does not load without them
        if parameters["gpt_model_type"] not in ("inflight_fused_batching", "inflight_batching"):
            raise pb_utils.TritonModelException("Invalid gpt_model_type")
        engine_dir = Path(parameters["gpt_model_path"])
        engine = json.loads((engine_dir / "swapped.json").read_text())
        engine["max_batch_size"] = config["max_batch_size"]
        engine["enable_kv_cache_reuse"] = parameters["enable_kv_cache_reuse"] == "true"
        spec = parse_spec(json.dumps({"name": "swapped", "source": {"uri": "x.gguf"}, "engine": engine}), "swapped")
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._streams = {}
        self._engine = create_engine(spec, engine_dir, self)

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._take(request, sender)
            except Exception as error:
                response = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
                sender.send(response, final_flag())

    def finalize(self):
        self._engine.close()

    def _take(self, request, sender):
        values = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if "stop" in values and values["stop"].reshape(-1)[0]:
            if not request.request_id():
                raise RuntimeError("Trying to stop a request but request ID is not provided")
            self._stop(request.request_id())
            sender.send(flags=final_flag())
            return
        missing = {"output_ids", "sequence_length"} - set(request.requested_output_names())
        if missing:
            raise RuntimeError(f"{missing} tensor must be present in list of output tensors")
        params = sampling_params({name: array.reshape(-1).tolist() for name, array in values.items()})
        number = next(self._ids)
        with self._lock:
            self._streams[number] = Stream(request.request_id(), sender, params)
        length = int(values["input_lengths"].reshape(-1)[0])
        self._engine.submit(GenerationRequest(number, values["input_ids"].reshape(-1)[:length].tolist(), params))

    def _stop(self, name):
        with self._lock:
            found = [number for number, stream in self._streams.items() if stream.name == name]
        for number in found:
            self._engine.cancel(number)
            with self._lock:
                stream = self._streams.pop(number, None)
            if stream is not None:
                stream.sender.send(pb_utils.InferenceResponse(tokens([[]], None)), final_flag())

    # --- sink of the engine ------------------------------------------------------------------------------------------

    def scheduled(self, request_id):
        pass

    def step_done(self):
        pass

    def state(self, state):
        pass

    def failed(self, request_id, error):
        with self._lock:
            stream = self._streams.pop(request_id, None)
        if stream is not None:
            text = f"Executor failed process requestId {request_id} due to the following error: {error}"
            stream.sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(text)), final_flag())

    def tokens(self, event):
        with self._lock:
            stream = self._streams.get(event.request_id)
            if stream is None:
                return
            params = stream.params
            log_probs = [event.log_probs] if params.return_log_probs else None
            if params.stream:
                final = event.finish_reason is not None
                responses = [tokens([event.ids], log_probs)]
            else:
                stream.whole[event.sequence] = event.ids, event.log_probs
                final = len(stream.whole) == params.num_sequences
                responses = whole(stream) if final else []
            if final:
                del self._streams[event.request_id]
            for index, tensors in enumerate(responses):
                flags = final_flag() if final and index == len(responses) - 1 else 0
                stream.sender.send(pb_utils.InferenceResponse(tensors), flags)


def final_flag():
    """Not read at import time: the module is not complete then."""
    return pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def sampling_params(values):
    """The backend's inputs, flat, as Conch's own engine takes them."""

    def one(name, default):
        return values[name][0] if name in values else default

    top_k, top_p = one("runtime_top_k", 0), one("runtime_top_p", 0.0)
    greedy = top_k == 1 or (top_k == 0 and top_p == 0)
    end_id, beams = one("end_id", -1), one("beam_width", 1)
    # The second half of a word list holds the ends; those of one token are the model's other end tokens.
    words = values.get("stop_words_list", [])
    kind, text = (one(f"guided_decoding_guide{end}", b"").decode() for end in ("_type", ""))
    guide = Guide(kind, text) if kind else None
    return SamplingParams(
        max_tokens=one("request_output_len", 1), min_tokens=one("min_tokens", 0),
        temperature=0.0 if greedy else one("temperature", 1.0), top_k=0 if greedy else top_k,
        top_p=1.0 if greedy else top_p or 1.0, min_p=0.0,
        repetition_penalty=one("repetition_penalty", 1.0), presence_penalty=one("presence_penalty", 0.0),
        frequency_penalty=one("frequency_penalty", 0.0), seed=one("seed", 0) % (1 << 63),
        end_ids=(*([end_id] if end_id >= 0 else []), *words[: len(words) // 2]), pad_id=one("pad_id", 0), stop_words=(),
        stream=one("streaming", False), return_num_input_tokens=False, return_num_output_tokens=False,
        beam_width=beams, num_sequences=one("num_return_sequences", beams), length_penalty=one("len_penalty", 1.0),
        return_log_probs=one("return_log_probs", False), guide=guide,
    )  # fmt: skip


def whole(stream):
    """Responses of a request that is not streamed: one for all beams, or one for each sample."""
    rows = [stream.whole[sequence] for sequence in range(stream.params.num_sequences)]
    asks = stream.params.return_log_probs
    if stream.params.beam_width > 1 or len(rows) == 1:
        return [tokens([ids for ids, _ in rows], [values for _, values in rows] if asks else None)]
    return [tokens([ids], [values] if asks else None, n) for n, (ids, values) in enumerate(rows)]


def tokens(rows, log_probs, sequence=None):
    """Output tensors; shorter rows are filled up with -1."""
    longest = max(map(len, rows))
    ids = [[*row, *[-1] * (longest - len(row))] for row in rows]
    made = [
        pb_utils.Tensor("output_ids", np.array([ids], dtype=np.int32).reshape(1, len(rows), longest)),
        pb_utils.Tensor("sequence_length", np.array([[len(row) for row in rows]], dtype=np.int32)),
    ]
    if log_probs is not None:
        values = [[*row, *[-1.0] * (longest - len(row))] for row in log_probs]
        made.append(pb_utils.Tensor("output_log_probs", np.array([values], dtype=np.float32)))
    if sequence is not None:
        made.append(pb_utils.Tensor("sequence_index", np.array([[sequence]], dtype=np.int32)))
    return made
