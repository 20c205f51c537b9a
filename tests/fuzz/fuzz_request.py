"""Fuzz target: the readers of requests' bodies. Any bytes are either understood or refused in words, and what goes to an engine is JSON that
says the same."""

import json

from lamplighter.core.errors import RequestError
from lamplighter.gateway.inference.operations import OPERATIONS

_OPERATIONS = [OPERATIONS[path] for path in sorted(OPERATIONS)]


def _seed(path: str, body: bytes) -> bytes:
    return bytes([sorted(OPERATIONS).index(path)]) + body


SEEDS = [
    _seed(
        "/v1/chat/completions",
        b'{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true}}',
    ),
    _seed("/v1/completions", b'{"model":"m","prompt":["a","b"],"max_tokens":5,"n":2}'),
    _seed("/v1/embeddings", b'{"model":"m","input":[[1,2,3]],"encoding_format":"float"}'),
    _seed("/v1/responses", b'{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"x"}]}],"stream":true}'),
    _seed(
        "/v1/messages",
        b'{"model":"m","max_tokens":9,"system":"s","messages":[{"role":"user","content":[{"type":"text","text":"x"}]}]}',
    ),
    _seed("/v1/rerank", b'{"model":"m","query":"q","documents":["a",{"text":"b"}]}'),
    _seed(
        "/api/chat",
        b'{"model":"m","messages":[{"role":"user","content":"x","images":["AAAA"]}],"options":{"num_predict":5},"format":"json"}',
    ),
    _seed("/api/generate", b'{"model":"m","prompt":"x","stream":false,"keep_alive":"5m"}'),
    _seed("/v1/chat/completions", b'\xef\xbb\xbf{"mod\\u0065l":"m","model":"n","messages":[{"role":"user","content":null}]}'),
    _seed(
        "/v1/chat/completions",
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://x"}}]}]}',
    ),
]


def check(data: bytes) -> None:
    """One input: which route, then the body. Raises AssertionError, or whatever a reader must not raise."""
    operation = _OPERATIONS[data[0] % len(_OPERATIONS) if data else 0]
    raw = data[1:]
    try:
        request = operation.parse(raw)
        request.check_remote(allowed=False)
        prompt, completion = request.bound()
        sent = request.body("upstream")
    except RequestError as refused:
        refusal = refused
    else:
        _understood(request.stream, prompt, completion, sent, request.prefix())
        return
    assert 400 <= refusal.status < 500, refusal.status
    assert refusal.message
    json.dumps(refusal.body()).encode()


def _understood(stream: bool, prompt: int, completion: int | None, sent: bytes, prefix: bytes) -> None:
    assert prompt >= 0
    assert completion is None or completion >= 0
    assert isinstance(prefix, bytes)
    body = json.loads(sent)
    assert body["model"] == "upstream"
    if stream:
        assert body["stream"] is True
    # Nobody after us may see another model or another stream in it than we did.
    pairs = json.loads(sent, object_pairs_hook=lambda found: found)
    names = [name for name, _ in pairs]
    assert len(set(names)) == len(names)
