"""What vLLM's log tells while it starts, and why it ended. Pure and tolerant: versions differ, and a line that is not known tells nothing.

The lines were read in vLLM 0.32.0 and in reports about versions from 0.6 on. Not responsible for reading the file.
"""

import re
from dataclasses import dataclass

from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.supervisor import Failure

_PREFIX = re.compile(r"^(\(\w+(?: \w+)* pid=\d+\) )*((DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?")
_PERCENT = re.compile(r"(\d{1,3})%")
_SIZES = re.compile(r"\|\s*([\d.]+[kMGT]?B?)/([\d.]+[kMGT]?B?)\s*\[")


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the start that a line tells of: which stage, what a person reads, and where in the stage `load` (0..1) it lies."""

    stage: str
    detail: str
    begin: float = 0.0
    end: float = 0.0


_PULLING = Phase("pull", "downloading", 0.0, 1.0)
_WEIGHTS = Phase("load", "loading weights", 0.0, 0.5)
_COMPILING = Phase("load", "compiling", 0.5, 0.7)
_CACHE = Phase("load", "making room for the cache", 0.7, 0.75)
_GRAPHS = Phase("load", "capturing CUDA graphs", 0.75, 0.95)
_LAST = Phase("load", "starting to listen", 0.95, 1.0)

_LINES: tuple[tuple[re.Pattern[str], Phase], ...] = (
    (re.compile(r"^(Fetching \d+ files|Downloading |[\w./-]+\.(safetensors|bin|gguf|json|model)\b.*: +\d+%)"), _PULLING),
    (re.compile(r"^Loading (safetensors|pt|npcache|gguf|bitsandbytes) checkpoint shards"), _WEIGHTS),
    (re.compile(r"^(Starting to load model|Loading weights|Loading model from|Time spent downloading weights)"), _WEIGHTS),
    (re.compile(r"^(Loading weights took|Model loading took)"), Phase("load", "weights loaded", 0.5, 0.5)),
    (
        re.compile(r"(torch\.compile|^Using cache directory: .*torch_compile|^Dynamo bytecode transform|^Compiling a graph)"),
        _COMPILING,
    ),
    (re.compile(r"^(Warming up model|Memory profiling takes|Initial(izing)? free memory)"), _COMPILING),
    (re.compile(r"^(Available KV cache memory|(GPU|CPU) KV cache size|Maximum concurrency|# GPU blocks)"), _CACHE),
    (re.compile(r"^(Capturing (CUDA|cudagraph|the model)|Graph capturing)"), _GRAPHS),
    (re.compile(r"^(init engine \(|Starting vLLM (API )?server|Application startup complete|Started server process)"), _LAST),
)


class Reader:
    """Follows the log: how far the load is never goes back, whatever order versions write in."""

    def __init__(self) -> None:
        self._share = 0.0

    def read(self, line: str) -> tuple[str, float, str] | None:
        """(stage, share 0..1, detail) when the line tells of the start's progress."""
        text = plain(line)
        phase = next((phase for pattern, phase in _LINES if pattern.search(text)), None)
        if phase is None:
            return None
        percent = _PERCENT.search(text)
        done = min(100, int(percent[1])) / 100 if percent else 0.0
        detail = f"{phase.detail}, {percent[1]} %" if percent else phase.detail
        if phase.stage == "pull":
            sizes = _SIZES.search(text)
            return "pull", done, f"{sizes[1]} of {sizes[2]}" if sizes else detail
        self._share = max(self._share, phase.begin + (phase.end - phase.begin) * done)
        return "load", round(self._share, 3), detail


def plain(line: str) -> str:
    """The line without its process, level, time and source."""
    return _PREFIX.sub("", line, count=1).strip()


_FITS_NOT = re.compile(
    r"max seq len \(([\d,]+)\).*?([\d.]+) GiB\)? ?KV cache is needed.*?available KV cache memory \(([\d.-]+) GiB\)"
    r"(?:.*?estimated maximum model length is ([\d,]+))?",
    re.DOTALL,
)
_OLD_FITS_NOT = re.compile(
    r"max seq len \((\d+)\) is larger than the maximum number of tokens that can be stored in KV cache \((\d+)\)"
)
_ARCHITECTURE = re.compile(r"[Mm]odel architectures? (\[[^\]]*\])")
_ERROR = re.compile(r"^[\w.]*(Error|Exception|Errno \d+)\b.*")
_USAGE = re.compile(r"^[\w .-]+: error: (.*)", re.MULTILINE)

_SIGNS: tuple[tuple[WakeFailure, str, str], ...] = (
    (
        WakeFailure.OUT_OF_MEMORY,
        r"CUDA out of memory|OutOfMemoryError|HIP out of memory|not enough GPU memory",
        "The GPU's memory ran out while the model loaded.",
    ),
    (
        WakeFailure.OUT_OF_MEMORY,
        r"No available memory for the cache blocks",
        "The weights leave no GPU memory for the cache: raise --gpu-memory-utilization or lower --max-model-len.",
    ),
    (
        WakeFailure.OUT_OF_MEMORY,
        r"less than desired GPU memory utilization",
        "Something else uses the GPU's memory: free it, or lower --gpu-memory-utilization.",
    ),
    (WakeFailure.OUT_OF_MEMORY, r"\bMemoryError\b|Cannot allocate memory|DefaultCPUAllocator: can't allocate", "There was not enough memory."),
    (WakeFailure.DISK_FULL, r"No space left on device|Disk quota exceeded", "The disk is full."),
    (
        WakeFailure.GATED_MODEL,
        r"GatedRepoError|gated repo|Access to model .* is restricted|awaiting a review|401 Client Error|Invalid (user token|credentials)",
        "The hub does not give this model without its licence accepted and a token.",
    ),
    (
        WakeFailure.MODEL_NOT_FOUND,
        (
            r"RepositoryNotFoundError|is not a valid model identifier|\bEntryNotFoundError|Repo id must|does not appear to have a file named"
            r"|404 Client Error|RevisionNotFoundError|Cannot find any model weights"
        ),
        "There is no such model.",
    ),
    (
        WakeFailure.DOWNLOAD_FAILED,
        (
            r"LocalEntryNotFoundError|MaxRetryError|ConnectionError|couldn't connect to|Couldn't reach|Temporary failure in name resolution"
            r"|outgoing traffic has been disabled|offline mode"
        ),
        "The hub cannot be reached.",
    ),
    (WakeFailure.MODEL_CORRUPT, r"SafetensorError|HeaderTooLarge|InvalidHeader|MetadataIncompleteBuffer", "A file of the model is damaged."),
    (
        WakeFailure.ENGINE_MISSING,
        r"Failed to infer device type|No CUDA GPUs are available|Found no NVIDIA driver|no CUDA-capable device|NVIDIA driver on your system is too old",
        "vLLM finds no GPU that it can use on this machine.",
    ),
    (
        WakeFailure.ENGINE_MISSING,
        r"does not recognize this architecture|architectures? .*(are|is) not supported|not supported for now|Unknown architecture",
        "This version of vLLM does not know the model's architecture.",
    ),
)  # fmt: skip


def judge(log: str, code: int) -> Failure:
    """Why vLLM ended, from the end of its log and its exit status (negative: the signal)."""
    text = "\n".join(plain(line) for line in log.splitlines())
    if match := _FITS_NOT.search(text):
        asked, needed, free, fits = match.groups()
        hint = f" About {fits} tokens would fit: set --max-model-len." if fits else " Lower --max-model-len."
        return Failure(
            WakeFailure.OUT_OF_MEMORY, f"A request of {asked} tokens needs {needed} GiB of cache; {free} GiB are free.{hint}"
        )
    if match := _OLD_FITS_NOT.search(text):
        return Failure(
            WakeFailure.OUT_OF_MEMORY, f"The cache holds {match[2]} tokens, a request may have {match[1]}: set --max-model-len."
        )
    if code == 2 and (match := _USAGE.search(text)):
        return Failure(WakeFailure.ENGINE_REFUSED, f"vLLM does not accept its arguments: {match[1][:200]}")
    for reason, pattern, sentence in _SIGNS:
        if re.search(pattern, text):
            architecture = _ARCHITECTURE.search(text) if reason is WakeFailure.ENGINE_MISSING else None
            return Failure(reason, f"{sentence} {architecture[1]}" if architecture else sentence)
    return Failure(WakeFailure.ENGINE_CRASHED, last_error(text) or "vLLM ended; its log tells no reason.")


def last_error(text: str) -> str | None:
    """The last line that names an exception; not that of the outer process, which only says that the inner one failed."""
    for line in map(str.strip, reversed(text.splitlines())):
        if (
            _ERROR.match(line)
            and "Engine core initialization failed" not in line
            and "EngineCore encountered an issue" not in line
        ):
            return line[:300]
    return None
