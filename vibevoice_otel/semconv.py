"""Every span, metric and attribute that vibevoice-otel emits, written once.

Nothing else in the project spells a name: the recorder, the exporters' tests, the dashboards, the alert rules, the
schema registry and docs/telemetry.md all read this module. The Prometheus names are a contract with users' queries; how
a rename is announced stands in docs/stability.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

SCHEMA_URL: Final = "https://vibevoice-otel.github.io/schemas/0.1.0"
SCOPE: Final = "vibevoice_otel"
SAMPLE_RATE_HZ: Final = 24_000  # of every VibeVoice model
PCM_BYTES_PER_SECOND: Final = SAMPLE_RATE_HZ * 2  # 16 bits, mono: what upstream's WebSocket carries
SILENCE_PEAK: Final = 1e-4  # -80 dBFS: a frame whose peak is below it has no sound in it (PCM16's own step is 3e-5)


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute key. ``official`` marks a key that OpenTelemetry's own registry defines (reused, not redefined)."""

    key: str
    type: Literal["string", "int", "double", "boolean"]
    brief: str
    examples: tuple[str | int | float | bool, ...] = ()
    members: tuple[str, ...] = ()
    official: bool = False
    opt_in: bool = False

    def __str__(self) -> str:
        return self.key


@dataclass(frozen=True, slots=True)
class Span:
    """One kind of span. ``parent`` is the span it always lies inside, or None for the service's SERVER span."""

    name: str
    parent: str | None
    brief: str
    attributes: tuple[Attribute, ...] = ()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Metric:
    """One instrument. ``source`` says which span or which live state it is read from (metrics/from_spans.py is the
    table); ``when_known`` are those of its attributes that may be absent.
    """

    name: str
    instrument: Literal["counter", "histogram", "gauge", "updowncounter"]
    unit: str
    brief: str
    attributes: tuple[Attribute, ...]
    source: str
    buckets: tuple[float, ...] = ()
    stability: Literal["stable", "development"] = "stable"
    when_known: tuple[Attribute, ...] = ()

    def __str__(self) -> str:
        return self.name

    @property
    def prometheus(self) -> str:
        """The series name in Prometheus, as both the Collector and the Python exporter write it (without _bucket, _sum
        ...).
        """
        units = {"s": "_seconds", "By": "_bytes", "W": "_watts", "J": "_joules", "Hz": "_hertz"}
        suffix = "_ratio" if self.unit == "1" and self.instrument == "gauge" else units.get(self.unit, "")
        total = "_total" if self.instrument == "counter" else ""
        return self.name.replace(".", "_") + suffix + total

    @property
    def labels(self) -> tuple[str, ...]:
        """The Prometheus label names, in the order of ``attributes``."""
        return tuple(a.key.replace(".", "_") for a in self.attributes)


# --------------------------------------------------------------------------------------------------------------- values


class Value(str, Enum):
    """A value of an attribute, which prints as it stands on spans and metrics."""

    def __str__(self) -> str:
        return str(self.value)


class Status(Value):
    """How a synthesis request ended. ``success / (success + error + timeout)`` is the success SLI."""

    SUCCESS = "success"
    TIMEOUT = "timeout"
    ERROR = "error"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


class FinishReason(Value):
    """Why speech ended."""

    EOS = "eos"
    LENGTH = "length"
    STOPPED = "stopped"
    ERROR = "error"


class Suspect(Value):
    """What about a request's speech is suspect."""

    LOOP = "loop"  # far more audio than such a text takes
    CUT = "cut"  # far less
    PACE = "pace"  # far from the voice's pace, yet not so far
    SILENCE = "silence"
    CLIPPING = "clipping"
    OFFSET = "offset"
    REPETITION = "repetition"


class Harm(Value):
    """What may happen to a request more often where a policy changed its setting."""

    LOOP = "loop"
    CUT = "cut"
    DEFECT = "defect"
    FAILED = "failed"
    GAP = "gap"
    LATE = "late"

    @property
    def words(self) -> str:
        """As logs and spans say it."""
        return {
            "loop": "speech that loops",
            "cut": "speech that is cut",
            "defect": "defective audio",
            "failed": "failures",
            "gap": "gaps above the objective's limit",
            "late": "first audio after its objective",
        }[self.value]


class WarmUp(Value):
    """What of a warm-up a request met."""

    STARTUP = "startup"  # made before the application was ready
    COMPILE = "compile"  # torch.compile compiled meanwhile
    CAPTURE = "capture"  # a CUDA graph was captured meanwhile


class ErrorType:
    """Values of ``error.type`` that we set ourselves; any other value is an exception's class name."""

    BUSY: Final = "busy"
    EMPTY_TEXT: Final = "empty_text"
    NO_AUDIO: Final = "no_audio"
    NAN_AUDIO: Final = "nan_audio"
    SILENT_AUDIO: Final = "silent_audio"
    SHUTDOWN: Final = "shutdown"
    ASSEMBLER: Final = "assembler_error"  # our own: the request's records could not be made
    CLIENT_DISCONNECT: Final = "client_disconnect"
    HTTP: Final = "http_"  # + the status, of an answer that refuses or fails
    CLOSE_CODE: Final = "websocket_close_"  # + the code, when the service closed with one that means failure
    OTHER: Final = "_OTHER"


class Cache:
    HIT: Final = "hit"
    MISS: Final = "miss"


class Branch:
    """Which half of classifier-free guidance a language-model pass served."""

    POSITIVE: Final = "positive"
    NEGATIVE: Final = "negative"


class Defect:
    SILENT: Final = "silent"
    NAN: Final = "nan"
    CLIPPED: Final = "clipped"
    ALL: Final = (SILENT, NAN, CLIPPED)


class Clock:
    """Which clock a duration was read from; the two never share a series."""

    HOST: Final = "host"
    DEVICE: Final = "device"


class Limit(Value):
    """What a frame's time was spent on, and so what limits it."""

    CARD = "card"
    OTHER_PROCESS = "other_process"
    CORE = "core"
    LOCK = "lock"
    UNKNOWN = "unknown"

    @property
    def words(self) -> str:
        """As the dashboards say it."""
        return {
            "card": "the card",
            "other_process": "another process on this card",
            "core": "the host's core",
            "lock": "the interpreter's lock",
            "unknown": "cannot say",
        }[self.value]


class SharePart(Value):
    """Part of a sampled frame of which kernels' share is told."""

    FRAME = "frame"
    STEPS = "steps"
    PASSES = "passes"
    DECODE = "decode"


class Part:
    """Consecutive parts of the first-audio latency; their durations add up to it exactly."""

    QUEUE: Final = "queue"
    MODEL_LOAD: Final = "model_load"
    VOICE_LOAD: Final = "voice_load"
    PREPROCESS: Final = "preprocess"
    PREFILL: Final = "prefill"
    LM: Final = "lm"
    DIFFUSION: Final = "diffusion"
    DECODE: Final = "decode"
    DELIVERY: Final = "delivery"  # from the end of the first decode to the return of the first send
    OTHER: Final = "other"
    ALL: Final = (QUEUE, MODEL_LOAD, VOICE_LOAD, PREPROCESS, PREFILL, LM, DIFFUSION, DECODE, DELIVERY, OTHER)


TEXT_LENGTH_RANGES: Final = (("short", 50), ("medium", 200), ("long", None))
OTHER: Final = "other"  # the bounded value for a voice, cfg or steps outside what the service knows


def text_length_range(characters: int) -> str:
    """Short below 50 characters, medium below 200, else long."""
    return next(name for name, below in TEXT_LENGTH_RANGES if below is None or characters < below)


# --------------------------------------------------------------------------------------------- service level objectives

SLO_SUCCESS_RATIO: Final = 0.99
SLO_FIRST_AUDIO_RATIO: Final = 0.95
SLO_FIRST_AUDIO_SECONDS: Final = 0.45
SLO_GAP_RATIO: Final = 0.99
SLO_GAP_SECONDS: Final = 0.1
SLO_WINDOW_DAYS: Final = 30
SLOW_FIRST_AUDIO_SECONDS: Final = 0.5  # the dashboards' "share above 500 ms"

# -------------------------------------------------------------------------------------------------------------- buckets

# An edge at every SLO (0.3, 0.45, 0.5 s) so that a share above it is exact, not interpolated.
FIRST_AUDIO_BUCKETS: Final = (
    0.05,
    0.1,
    0.15,
    0.2,
    0.25,
    0.3,
    0.35,
    0.4,
    0.45,
    0.5,
    0.6,
    0.75,
    1.0,
    1.5,
    2.5,
    5.0,
    10.0,
    30.0,
)
STEP_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.5, 1.0)
LOAD_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
LAUNCH_BUCKETS: Final = (
    0.000005,
    0.00001,
    0.00002,
    0.00005,
    0.0001,
    0.0002,
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.05,
    0.1,
)
MEMORY_BUCKETS: Final = (0.0, 65536.0, 1048576.0, 67108864.0, 1073741824.0)
SMALL_LOAD_BUCKETS: Final = (0.001, 0.01, 0.1, 1.0, 10.0)
# C50, C100 and C200 (share of requests whose worst gap is at most 50, 100, 200 ms) are exact; 0 holds those without any
# gap.
GAP_BUCKETS: Final = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

# ---------------------------------------------------------------------------------------------------- metric attributes
# As written, so that Prometheus labels come out as users expect.

M_VOICE = Attribute(
    "voice", "string", "The voice that spoke (bounded: the service's own voices, else 'other').", ("en-Carter_man",)
)
M_STATUS = Attribute("status", "string", "How the request ended.", ("success",), members=tuple(s.value for s in Status))
M_FINISH_REASON = Attribute(
    "finish_reason",
    "string",
    "Why the speech ended: the model's end of speech, its length budget, a stop (the listener left, or time was over), "
    "or a failure.",
    ("eos",),
    members=tuple(reason.value for reason in FinishReason),
)
M_SUSPECT = Attribute(
    "suspect", "string", "What about the speech is suspect.", ("loop",), members=tuple(each.value for each in Suspect)
)
M_WARM_UP = Attribute(
    "warmup", "string", "What of a warm-up the request met.", ("compile",), members=tuple(each.value for each in WarmUp)
)
M_TENANT = Attribute(
    "tenant", "string", "Who used the service, by the operator's list or hook; else 'other'.", ("acme",)
)
M_CFG = Attribute("cfg", "string", "Classifier-free guidance scale, rounded to 0.1.", ("1.5", "2.0"))
M_STEPS = Attribute("steps", "string", "Diffusion steps a frame.", ("5",))
M_STEP_INDEX = Attribute("step_index", "string", "Position of the diffusion step in its frame, from 0.", ("0", "4"))
M_TEXT_RANGE = Attribute(
    "text_length_range",
    "string",
    "short < 50 characters, medium < 200, long.",
    ("short",),
    members=("short", "medium", "long"),
)
M_DEVICE = Attribute("device_id", "string", "Index of the GPU.", ("0",))
M_CACHE = Attribute(
    "cache", "string", "Whether what was needed was already loaded.", ("hit",), members=(Cache.HIT, Cache.MISS)
)
M_CLOCK = Attribute(
    "clock", "string", "The clock that measured: host or device.", ("host",), members=(Clock.HOST, Clock.DEVICE)
)
M_EVENT = Attribute("event", "string", "Allocator event.", ("oom",), members=("alloc", "free", "retry", "oom"))
M_KIND = Attribute("kind", "string", "What is wrong with the frame.", ("silent",), members=Defect.ALL)
M_ERROR_TYPE = Attribute("error_type", "string", "The error.type of the failed request.", ("RuntimeError", "nan_audio"))
M_WHAT = Attribute(
    "what", "string", "What telemetry was lost.", ("spans",), members=("spans", "hooks", "metrics", "records", "links")
)
M_REASON = Attribute("reason", "string", "Why it was lost.", ("budget", "queue_full", "export_failed"))
M_PART = Attribute("part", "string", "Part of the first-audio latency.", ("queue",), members=Part.ALL)
M_RESULT = Attribute("result", "string", "Whether the objective was met.", ("good",), members=("good", "bad"))
M_BRANCH = Attribute(
    "branch", "string", "Half of the guidance served.", ("positive",), members=(Branch.POSITIVE, Branch.NEGATIVE)
)
M_HW_ID = Attribute("hw.id", "string", "The card's UUID.", ("GPU-6c3f8a52-6b8e-9d5c-1c55-0f6a5e0a9b11",), official=True)
M_HW_TYPE = Attribute("hw.type", "string", "Always 'gpu'.", ("gpu",), official=True)
M_CLOCK_DOMAIN = Attribute("domain", "string", "Which clock.", ("sm",), members=("sm", "memory"))
M_THROTTLE_REASON = Attribute(
    "throttle_reason", "string", "Why the card lowers its clocks.", ("power_cap",),
    members=("power_cap", "hardware_slowdown", "sync_boost", "software_thermal", "hardware_thermal", "power_brake"),
)  # fmt: skip
M_HW_ERROR = Attribute(
    "error.type",
    "string",
    "Kind of the card's error: xid_ and NVIDIA's number, or ecc_uncorrected.",
    ("xid_79",),
    official=True,
)
M_SHARE_PART = Attribute(
    "frame_part", "string", "Part of the frame.", ("frame",), members=tuple(part.value for part in SharePart)
)
M_LIMIT = Attribute(
    "limit",
    "string",
    "What the time was spent on: waiting for the card, or for another process on it, running on the host's core, "
    "waiting for the interpreter's lock; unknown where the host's time cannot be divided.",
    ("card",),
    members=tuple(limit.value for limit in Limit),
)
M_VERSION = Attribute("version", "string", "Version of vibevoice-otel.", ("0.1.0",))
M_HARM = Attribute(
    "harm",
    "string",
    "What happened to changed requests more often than to those that were left: cut speech is that of the length "
    "budget too; late is first audio.",
    ("loop",),
    members=tuple(each.value for each in Harm),
)
M_STATE = Attribute(
    "state", "string", "Whether the request has a slot or waits for one.", ("working",), members=("working", "waiting")
)
M_TARGET = Attribute("target", "string", "Host and port of the probed service.", ("localhost:8000",))
M_ADAPTER = Attribute("adapter", "string", "The observed model code.", ("transformers", "realtime"))

# ------------------------------------------------------------------------------------------------------ span attributes

VOICE = Attribute(
    "vibevoice.voice",
    "string",
    "The voice that spoke; on a request that no voice spoke, the one it asked for, or 'other'.",
    ("en-Carter_man",),
)
VOICE_REQUESTED = Attribute(
    "vibevoice.voice.requested", "string", "The voice asked for, when another one spoke.", ("en-Nobody",)
)
CFG = Attribute("vibevoice.cfg", "double", "Classifier-free guidance scale used.", (1.5,))
CFG_REQUESTED = Attribute("vibevoice.cfg.requested", "string", "The scale asked for, when another was used.", ("-1",))
STEPS = Attribute("vibevoice.steps", "int", "Diffusion steps a frame used.", (5,))
STEPS_REQUESTED = Attribute(
    "vibevoice.steps.requested", "string", "The steps asked for, when another number was used.", ("0",)
)
STEPS_STICKY = Attribute(
    "vibevoice.steps.sticky", "boolean", "The steps stem from an earlier request, not from this one.", (True,)
)
TEXT_LENGTH = Attribute("vibevoice.text.length", "int", "Exact number of characters to speak.", (120,))
LOAD_ATTEMPTS = Attribute(
    "vibevoice.load.attempts",
    "int",
    "How often the load tried to read the model; absent for once.",
    (2,),
)
LOAD_ATTEMPT_ERRORS = Attribute(
    "vibevoice.load.attempt_errors",
    "string",
    "Types of the exceptions with which attempts of a load failed before it succeeded or gave up, comma-separated.",
    ("ImportError",),
)
TEXT_WAIT = Attribute(
    "vibevoice.text.wait",
    "double",
    "Seconds from the request's arrival to the message that says what to speak; absent where the URL says it. No "
    "latency and no duration counts them.",
    (1.2,),
)
TEXT = Attribute(
    "vibevoice.text",
    "string",
    "The text itself; only when VIBEVOICE_OTEL_CAPTURE_TEXT is on.",
    ("Good morning.",),
    opt_in=True,
)
STATUS = Attribute(
    "vibevoice.status", "string", "How the request ended.", ("success",), members=tuple(s.value for s in Status)
)
FINISH_REASON = Attribute(
    "vibevoice.finish_reason",
    "string",
    "Why the speech ended; absent where the model does not say.",
    ("eos",),
    members=tuple(reason.value for reason in FinishReason),
)
SUSPECT = Attribute(
    "vibevoice.speech.suspect",
    "string",
    "What about the speech is suspect, joined by commas: loop, cut, pace; silence, clipping, offset, repetition. "
    "Absent when nothing is.",
    ("loop",),
)
AUDIO_SILENCE = Attribute(
    "vibevoice.audio.silence",
    "double",
    "Seconds of the longest silence between two sounds (VIBEVOICE_OTEL_AUDIO_CHECKS).",
    (0.4,),
)
AUDIO_CLIPPED = Attribute(
    "vibevoice.audio.clipped", "double", "Share of samples at full scale (VIBEVOICE_OTEL_AUDIO_CHECKS).", (0.0,)
)
AUDIO_OFFSET = Attribute(
    "vibevoice.audio.offset",
    "double",
    "Constant offset as a share of full scale (VIBEVOICE_OTEL_AUDIO_CHECKS).",
    (0.0001,),
)
AUDIO_REPEATED = Attribute(
    "vibevoice.audio.repeated",
    "int",
    "Chunks with sound that are the one before over again (VIBEVOICE_OTEL_AUDIO_CHECKS).",
    (0,),
)
AUDIO_LEVEL = Attribute(
    "vibevoice.audio.level",
    "double",
    "Mean level of what is no silence, in dBFS (VIBEVOICE_OTEL_AUDIO_CHECKS).",
    (-22.5,),
)
AUDIO_LOUDNESS = Attribute(
    "vibevoice.audio.loudness",
    "double",
    "Integrated loudness in LUFS, by ITU-R BS.1770-4, of the audio that was checked (VIBEVOICE_OTEL_AUDIO_LOUDNESS).",
    (-23.0,),
)
AUDIO_UNCHECKED = Attribute(
    "vibevoice.audio.unchecked",
    "double",
    "Seconds of audio that the checks skipped: they were behind, or took too much time.",
    (0.5,),
)
WARM_UP = Attribute(
    "vibevoice.warmup",
    "string",
    "What of a warm-up the request met, joined by commas: startup (before the application was ready; in no objective), "
    "compile, capture.",
    ("compile",),
)
CACHE = Attribute(
    "vibevoice.cache",
    "string",
    "hit when what was needed was already loaded.",
    ("hit",),
    members=(Cache.HIT, Cache.MISS),
)
FRAMES = Attribute("vibevoice.frames", "int", "Audio frames generated.", (16,))
AUDIO_DURATION = Attribute("vibevoice.audio.duration", "double", "Seconds of audio produced.", (2.13,))
REAL_TIME_FACTOR = Attribute(
    "vibevoice.real_time_factor", "double", "Generation time / audio time; below 1 is faster than real time.", (0.4,)
)
FIRST_AUDIO_LATENCY = Attribute(
    "vibevoice.first_audio.latency",
    "double",
    "Seconds from the request's arrival to the return of the first non-empty binary send.",
    (0.21,),
)
UNDERRUNS = Attribute("vibevoice.underruns", "int", "Times a listener who plays at once ran out of audio.", (0,))
UNDERRUN_DURATION = Attribute(
    "vibevoice.underrun.duration", "double", "Seconds of silence that such underruns made.", (0.0,)
)
WORST_GAP = Attribute(
    "vibevoice.playback.gap",
    "double",
    "Seconds of the longest silence between two pieces of audio that the listener heard.",
    (0.0,),
)
CHUNK_JITTER = Attribute(
    "vibevoice.chunk.jitter",
    "double",
    "Mean absolute difference in seconds between one interval between sends and the next.",
    (0.004,),
)
SEND_BLOCKED = Attribute(
    "vibevoice.send.blocked",
    "double",
    "Seconds that the slowest send took to return: beside the worst gap it tells a listener who reads slowly from a "
    "slow service.",
    (0.0002,),
)
FRAMES_SILENT = Attribute("vibevoice.frames.silent", "int", "Frames with no sound in them.", (0,))
FRAMES_NAN = Attribute("vibevoice.frames.nan", "int", "Frames with a sample that is not a number.", (0,))
FRAMES_CLIPPED = Attribute("vibevoice.frames.clipped", "int", "Frames whose peak is above full scale.", (0,))
LEADING_SILENCE = Attribute(
    "vibevoice.leading_silence", "double", "Seconds of silence before the first sound.", (0.02,)
)
AFTER_DISCONNECT_DURATION = Attribute(
    "vibevoice.after_disconnect.duration", "double", "Seconds the model worked on after the listener had left.", (0.8,)
)
AFTER_DISCONNECT_FRAMES = Attribute(
    "vibevoice.after_disconnect.frames", "int", "Frames made after the listener had left.", (6,)
)
FRAMES_UNDELIVERED = Attribute(
    "vibevoice.frames.undelivered", "int", "Frames computed but never handed to the socket.", (5,)
)
EVENT_LOOP_BLOCKED = Attribute(
    "vibevoice.event_loop.blocked", "double", "Seconds that a disconnect blocked the event loop.", (1.1,)
)
CLOSE_CODE = Attribute(
    "vibevoice.websocket.close_code", "int", "The close code that the service sent or received.", (1000,)
)
STREAM_PARTIAL = Attribute(
    "vibevoice.stream.partial", "boolean", "Exported before its request ended (a long stream is drained).", (True,)
)
UNATTRIBUTED = Attribute("vibevoice.unattributed", "double", "Seconds of the generation under no named child.", (0.01,))
SPANS_EXPORTED = Attribute(
    "vibevoice.spans.exported",
    "int",
    "Spans of this request that go to the exporter, this one included: a store that shows fewer has lost some.",
    (420,),
)
SPANS_OMITTED = Attribute("vibevoice.spans.omitted", "int", "Spans of this trace left out by the span budget.", (0,))
FRAME_INDEX = Attribute("vibevoice.frame.index", "int", "Position of the frame in the request, from 0.", (0,))
STEP_INDEX = Attribute("vibevoice.step.index", "int", "Position of the step in its frame, from 0.", (0,))
FRAME_STEPS = Attribute("vibevoice.frame.steps", "int", "Diffusion steps taken in this frame.", (5,))
STEP_MEAN = Attribute(
    "vibevoice.frame.step.mean", "double", "Mean step time in seconds, on a frame whose steps were left out.", (0.004,)
)
STEP_MAX = Attribute(
    "vibevoice.frame.step.max", "double", "Longest step in seconds, on a frame whose steps were left out.", (0.01,)
)
FRAME_DEFECT = Attribute(
    "vibevoice.frame.defect", "string", "What is wrong with this frame's audio.", ("silent",), members=Defect.ALL
)
FRAME_IDLE_SHARE = Attribute(
    "vibevoice.frame.device.idle",
    "double",
    "deprecated: use vibevoice.frame.host_bound. A lower bound alone: the device idled for at least this share of the "
    "frame.",
    (0.1,),
)
FRAME_DEVICE_WAIT = Attribute(
    "vibevoice.frame.device_wait",
    "double",
    "Seconds of the frame in which the host waited for the device: the most that a faster one could save.",
    (0.012,),
)
FRAME_HOST_BOUND = Attribute(
    "vibevoice.frame.host_bound", "double", "The frame's other seconds: the host's own, whatever the device.", (0.14,)
)
#: Column of a sampled frame -> its attribute.
KERNEL_SHARES: Final = {
    "share_frame": Attribute(
        "vibevoice.kernel.share.frame",
        "double",
        "Share of a sampled frame in which kernels were at work, by the device's profiler.",
        (0.09,),
    ),
    "share_steps": Attribute("vibevoice.kernel.share.steps", "double", "The same of its diffusion steps.", (0.08,)),
    "share_passes": Attribute(
        "vibevoice.kernel.share.passes", "double", "The same of its passes of the language model.", (0.1,)
    ),
    "share_decode": Attribute("vibevoice.kernel.share.decode", "double", "The same of its decode.", (0.3,)),
    "sample_cost": Attribute(
        "vibevoice.gpu.sample.cost",
        "double",
        "Seconds that the profiler's start and stop took from the model's thread.",
        (0.02,),
    ),
    "sample_read": Attribute(
        "vibevoice.gpu.sample.read",
        "double",
        "Seconds for which reading the sample kept the recorder's thread, under the interpreter's lock.",
        (0.005,),
    ),
}
LM_BRANCH = Attribute(
    "vibevoice.lm.branch",
    "string",
    "Half of the guidance served.",
    ("positive",),
    members=(Branch.POSITIVE, Branch.NEGATIVE),
)
WINDOW_INDEX = Attribute("vibevoice.prefill.window", "int", "Position of the text window, from 0.", (0,))
HOST_DURATION = Attribute(
    "vibevoice.host.duration", "double", "Seconds by the host's clock, where the span itself is device time.", (0.004,)
)
CLOCK = Attribute(
    "vibevoice.clock", "string", "The clock that timed the span.", ("host",), members=(Clock.HOST, Clock.DEVICE)
)
CLOCK_ERROR = Attribute(
    "vibevoice.clock.error", "double", "Stated error in seconds of device times placed on the host's clock.", (0.00001,)
)
DEVICE_ID = Attribute("vibevoice.device.id", "string", "Index of the GPU that generated.", ("0",))
REQUEST_MEMORY_PEAK = Attribute(
    "vibevoice.gpu.memory.request.peak",
    "int",
    "Most bytes allocated while the request generated: torch's high-water mark where it rose meanwhile, else the "
    "largest seen at a step.",
    (5_400_000_000,),
)
# The allocator's state when memory ran out.
MEMORY_ALLOCATED = Attribute(
    "vibevoice.gpu.memory.allocated", "int", "Bytes allocated when memory ran out.", (79_000_000_000,)
)
MEMORY_RESERVED = Attribute(
    "vibevoice.gpu.memory.reserved", "int", "Bytes reserved when memory ran out.", (79_500_000_000,)
)
MEMORY_FRAGMENTED = Attribute(
    "vibevoice.gpu.memory.fragmented", "int", "Bytes reserved and not allocated when memory ran out.", (500_000_000,)
)
MEMORY_FREE = Attribute(
    "vibevoice.gpu.memory.free", "int", "Bytes free on the card when memory ran out.", (100_000_000,)
)
MEMORY_LIMIT = Attribute(
    "vibevoice.gpu.memory.limit", "int", "The lesser of torch's cap and the card's total, in bytes.", (80_000_000_000,)
)
MEMORY_RETRIES = Attribute(
    "vibevoice.gpu.memory.retries", "int", "Times the allocator had emptied its cache to find room.", (3,)
)
MEMORY_OOMS = Attribute("vibevoice.gpu.memory.ooms", "int", "Out-of-memory errors of this process so far.", (1,))
SYNTHETIC = Attribute(
    "vibevoice.synthetic", "boolean", "The request was a probe's, not a user's; it is in no SLO.", (True,)
)
PROFILED = Attribute(
    "vibevoice.gpu.sampled",
    "boolean",
    "A frame of the request ran under the device's profiler; its latencies are in no histogram.",
    (True,),
)
GENERATION_THREADS = Attribute(
    "vibevoice.streams.active", "int", "Requests open when this one began, itself included.", (3,)
)
# On the SERVER span of a service that lets insight.Policy choose (opt-in).
RECOMMENDATION_STEPS = Attribute(
    "vibevoice.recommendation.steps", "int", "Diffusion steps that the policy chose.", (10,)
)
RECOMMENDATION_CFG = Attribute(
    "vibevoice.recommendation.cfg", "double", "Guidance scale that the policy chose.", (1.3,)
)
RECOMMENDATION_REASON = Attribute(
    "vibevoice.recommendation.reason", "string", "Why, or why it chose nothing.", ("nothing observed yet",)
)
RECOMMENDATION_OUTCOME = Attribute(
    "vibevoice.recommendation.outcome",
    "string",
    "Whether what the policy chose was applied, left out to hold the others against, or has been taken back.",
    ("applied",),
    members=("applied", "left", "taken_back"),
)

# What a browser on the live page reports of its own playback, on its CLIENT span.
LISTENER_FIRST_AUDIO_LATENCY = Attribute(
    "vibevoice.listener.first_audio.latency",
    "double",
    "Seconds from the click on play to the first sound the listener heard.",
    (0.29,),
)
LISTENER_PLAYED = Attribute(
    "vibevoice.listener.played", "double", "Seconds of audio that the listener's device really played.", (2.13,)
)
LISTENER_UNDERRUNS = Attribute(
    "vibevoice.listener.underruns", "int", "Times the listener's buffer ran dry while more was to come.", (0,)
)
LISTENER_UNDERRUN_DURATION = Attribute(
    "vibevoice.listener.underrun.duration", "double", "Seconds of silence that these made.", (0.0,)
)
LISTENER_CLOCK_OFFSET = Attribute(
    "vibevoice.listener.clock.offset",
    "double",
    "Seconds that the server's clock is ahead of the listener's, already applied.",
    (0.002,),
)
LISTENER_CLOCK_ERROR = Attribute(
    "vibevoice.listener.clock.error",
    "double",
    "Stated error of that offset in seconds: half the shortest round trip.",
    (0.0004,),
)

ERROR_TYPE = Attribute("error.type", "string", "Why the operation failed.", ("RuntimeError", "busy"), official=True)
GEN_AI_OUTPUT = Attribute("gen_ai.output.type", "string", "Always 'speech'.", ("speech",), official=True)
GEN_AI_OPERATION = Attribute(
    "gen_ai.operation.name",
    "string",
    "Always 'generate_content'; with OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental.",
    ("generate_content",),
    official=True,
    opt_in=True,
)
GEN_AI_PROVIDER = Attribute(
    "gen_ai.provider.name",
    "string",
    "Always 'vibevoice'; with OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental.",
    ("vibevoice",),
    official=True,
    opt_in=True,
)
GEN_AI_MODEL = Attribute(
    "gen_ai.request.model", "string", "The model's name or path.", ("microsoft/VibeVoice-Realtime-0.5B",), official=True
)

MODEL_REVISION = Attribute(
    "vibevoice.model.revision",
    "string",
    "Commit of the hub at which the model was loaded; absent where the model does not say, as one from a plain folder.",
    ("6bce5f06044837fe6d2c5d7a71a84f0416bd57e4",),
)
# Of what runs, beside this package's version (vibevoice.build_info).
M_SERVICE_VERSION = Attribute("service.version", "string", "The resource's service.version.", ("1.3.0",), official=True)
M_DRIVER_VERSION = Attribute(
    "hw.driver_version",
    "string",
    "Version of the driver of the GPU in use, by NVML; absent without a GPU, or without the extra.",
    ("550.54.15",),
    official=True,
)

# ---------------------------------------------------------------------------------------------------------------- spans

SYNTHESIZE = Span(
    "vibevoice.synthesize",
    None,
    "One speech request, from the arrival of its WebSocket to the last thing done for it.",
    (
        VOICE, VOICE_REQUESTED, CFG, CFG_REQUESTED, STEPS, STEPS_REQUESTED, STEPS_STICKY, TEXT_LENGTH, TEXT_WAIT, TEXT,
        STATUS, FINISH_REASON, ERROR_TYPE, FRAMES, AUDIO_DURATION, REAL_TIME_FACTOR, FIRST_AUDIO_LATENCY, UNDERRUNS,
        UNDERRUN_DURATION, WORST_GAP, CHUNK_JITTER, SEND_BLOCKED, FRAMES_SILENT, FRAMES_NAN, FRAMES_CLIPPED,
        LEADING_SILENCE, AFTER_DISCONNECT_DURATION, AFTER_DISCONNECT_FRAMES, FRAMES_UNDELIVERED, EVENT_LOOP_BLOCKED,
        CLOSE_CODE, SPANS_EXPORTED, SPANS_OMITTED, SYNTHETIC, PROFILED, GENERATION_THREADS, GEN_AI_OUTPUT,
        GEN_AI_MODEL, MODEL_REVISION, GEN_AI_OPERATION, GEN_AI_PROVIDER,
        WARM_UP, SUSPECT, AUDIO_SILENCE, AUDIO_CLIPPED, AUDIO_OFFSET, AUDIO_REPEATED, AUDIO_LEVEL, AUDIO_LOUDNESS,
        AUDIO_UNCHECKED,
    ),
)  # fmt: skip
QUEUE = Span(
    "vibevoice.queue", SYNTHESIZE.name, "Waiting for a turn: from the socket's acceptance to the start of the work."
)
MODEL_LOAD = Span(
    "vibevoice.model.load",
    SYNTHESIZE.name,
    "The model made ready: cold (miss) or already there (hit). One span however often the service tried.",
    (CACHE, GEN_AI_MODEL, LOAD_ATTEMPTS, LOAD_ATTEMPT_ERRORS, ERROR_TYPE),
)
VOICE_LOAD = Span("vibevoice.voice.load", SYNTHESIZE.name, "The voice's prompt made ready.", (CACHE, VOICE))
PREPROCESS = Span("vibevoice.preprocess", SYNTHESIZE.name, "Text to model inputs.", (CACHE,))
GENERATE = Span(
    "vibevoice.generate",
    SYNTHESIZE.name,
    "The model's generation loop, on its own thread.",
    (
        UNATTRIBUTED, FRAMES, ERROR_TYPE, DEVICE_ID, REQUEST_MEMORY_PEAK, MEMORY_ALLOCATED, MEMORY_RESERVED,
        MEMORY_FRAGMENTED, MEMORY_FREE, MEMORY_LIMIT, MEMORY_RETRIES, MEMORY_OOMS,
    ),
)  # fmt: skip
PREFILL = Span(
    "vibevoice.prefill",
    GENERATE.name,
    "The language model reads a window of text.",
    (WINDOW_INDEX, CLOCK, HOST_DURATION, CLOCK_ERROR, STREAM_PARTIAL),
)
FRAME = Span(
    "vibevoice.frame",
    GENERATE.name,
    "One audio frame, from its sampling's entry to the next frame's or the end.",
    (
        FRAME_INDEX,
        FRAME_STEPS,
        FRAME_DEFECT,
        STEP_MEAN,
        STEP_MAX,
        CLOCK,
        CLOCK_ERROR,
        FRAME_DEVICE_WAIT,
        FRAME_HOST_BOUND,
        FRAME_IDLE_SHARE,
        *KERNEL_SHARES.values(),
        STREAM_PARTIAL,
    ),
)
STEP = Span(
    "vibevoice.diffusion.step",
    FRAME.name,
    "One diffusion step: from the end of set_timesteps, or of the step before, to the return of scheduler.step.",
    (STEP_INDEX, CLOCK, HOST_DURATION, STREAM_PARTIAL),
)
DECODE = Span("vibevoice.decode", FRAME.name, "Latent to waveform.", (CLOCK, HOST_DURATION, STREAM_PARTIAL))
LM_FORWARD = Span(
    "vibevoice.lm.forward",
    FRAME.name,
    "One pass of the language model.",
    (LM_BRANCH, CLOCK, HOST_DURATION, STREAM_PARTIAL),
)
SEMANTIC_ENCODE = Span(
    "vibevoice.semantic_encode",
    FRAME.name,
    "The long-form model listens to its own frame.",
    (CLOCK, HOST_DURATION, STREAM_PARTIAL),
)
CONNECTOR = Span(
    "vibevoice.connector",
    FRAME.name,
    "Latents projected into the language model's space.",
    (CLOCK, HOST_DURATION, STREAM_PARTIAL),
)
FIRST_CHUNK = Span("vibevoice.first_chunk", SYNTHESIZE.name, "A milestone: its duration is the first-audio latency.")
LISTEN = Span(
    "vibevoice.listen",
    None,
    "What the listener lived through, measured in the browser: the CLIENT span, parent of the SERVER span.",
    (
        VOICE, STATUS, ERROR_TYPE, CLOSE_CODE, LISTENER_FIRST_AUDIO_LATENCY, LISTENER_PLAYED, LISTENER_UNDERRUNS,
        LISTENER_UNDERRUN_DURATION, LISTENER_CLOCK_OFFSET, LISTENER_CLOCK_ERROR,
    ),
)  # fmt: skip

PROBE = Span(
    "vibevoice.probe",
    None,
    "One synthetic request as its client saw it: the CLIENT span, parent of the SERVER span.",
    (VOICE_REQUESTED, STATUS, ERROR_TYPE, FIRST_AUDIO_LATENCY, WORST_GAP, AUDIO_DURATION, CLOSE_CODE, SYNTHETIC),
)

SPANS: Final = (
    SYNTHESIZE, QUEUE, MODEL_LOAD, VOICE_LOAD, PREPROCESS, GENERATE, PREFILL, FRAME, STEP, DECODE, LM_FORWARD,
    SEMANTIC_ENCODE, CONNECTOR, FIRST_CHUNK, LISTEN, PROBE,
)  # fmt: skip

# -------------------------------------------------------------------------------------------------------------- metrics

REQUESTS = Metric(
    "vibevoice.streaming.requests", "counter", "{request}", "Synthesis requests that ended, by how they ended.",
    (M_VOICE, M_STATUS, M_CFG, M_STEPS), "span vibevoice.synthesize",
)  # fmt: skip
FIRST_AUDIO = Metric(
    "vibevoice.first_audio.latency", "histogram", "s", "From the request's arrival to the first audio handed to the "
                                                       "socket.",
    (M_VOICE, M_TEXT_RANGE, M_CFG, M_STEPS), "span vibevoice.first_chunk", FIRST_AUDIO_BUCKETS,
)  # fmt: skip
INFERENCE = Metric(
    "vibevoice.inference.duration", "histogram", "s", "One diffusion step.",
    (M_VOICE, M_STEP_INDEX, M_CFG, M_STEPS, M_CLOCK), "span vibevoice.diffusion.step", STEP_BUCKETS,
)  # fmt: skip
GPU_MEMORY = Metric(
    "vibevoice.gpu.memory", "gauge", "By", "Bytes that torch's allocator has handed out.", (M_DEVICE,), "live: torch"
)
BUFFER_LENGTH = Metric(
    "vibevoice.audio_buffer.length", "gauge", "{chunk}",
    "Largest backlog of audio chunks among the voice's open streams; no point when none is "
    "open.", (M_VOICE,), "live: open timelines",
)  # fmt: skip
MEMORY_INCREASE = Metric(
    "vibevoice.step.memory_increase", "histogram", "By", "Growth of allocated GPU memory over one diffusion step.",
    (M_VOICE, M_STEP_INDEX, M_CFG, M_STEPS), "span vibevoice.diffusion.step", MEMORY_BUCKETS,
)  # fmt: skip
MEMORY_DECREASE = Metric(
    "vibevoice.step.memory_decrease", "histogram", "By", "Shrinkage of allocated GPU memory over one diffusion step.",
    (M_VOICE, M_STEP_INDEX, M_CFG, M_STEPS), "span vibevoice.diffusion.step", MEMORY_BUCKETS,
)  # fmt: skip
ACTIVE = Metric(
    "vibevoice.streaming.active", "updowncounter", "{request}", "Requests open now.", (M_VOICE,), "live: open timelines"
)

MODEL_LOAD_DURATION = Metric(
    "vibevoice.model.load.duration",
    "histogram",
    "s",
    "Making the model ready.",
    (M_CACHE,),
    "span vibevoice.model.load",
    LOAD_BUCKETS,
)
VOICE_LOAD_DURATION = Metric(
    "vibevoice.voice.load.duration",
    "histogram",
    "s",
    "Making a voice ready.",
    (M_VOICE, M_CACHE),
    "span vibevoice.voice.load",
    SMALL_LOAD_BUCKETS,
)
PREPROCESS_DURATION = Metric(
    "vibevoice.preprocess.duration", "histogram", "s", "Text to model inputs.",
    (M_VOICE, M_TEXT_RANGE, M_CACHE), "span vibevoice.preprocess", SMALL_LOAD_BUCKETS,
)  # fmt: skip
QUEUE_DURATION = Metric(
    "vibevoice.queue.duration",
    "histogram",
    "s",
    "Waiting for a turn.",
    (M_VOICE,),
    "span vibevoice.queue",
    LOAD_BUCKETS,
)
DECODE_DURATION = Metric(
    "vibevoice.decode.duration",
    "histogram",
    "s",
    "Latent to waveform, one frame.",
    (M_VOICE, M_CLOCK),
    "span vibevoice.decode",
    STEP_BUCKETS,
)
PREFILL_DURATION = Metric(
    "vibevoice.prefill.duration", "histogram", "s", "The language model reads a window of text.",
    (M_VOICE, M_CLOCK), "span vibevoice.prefill", LOAD_BUCKETS,
)  # fmt: skip
LM_DURATION = Metric(
    "vibevoice.lm.duration", "histogram", "s", "One pass of the language model.",
    (M_VOICE, M_BRANCH, M_CLOCK), "span vibevoice.lm.forward", STEP_BUCKETS,
)  # fmt: skip
HW_GPU_UTILIZATION = Metric(
    "hw.gpu.utilization", "gauge", "1",
    "Share of the time in which some kernel was resident on the card, by NVML: not how busy it was. Of all processes.",
    (M_HW_ID, M_HW_TYPE, M_DEVICE), "live: nvml", stability="development",
)  # fmt: skip
HW_POWER = Metric(
    "hw.power", "gauge", "W", "What the card draws now, by "
                              "NVML.", (M_HW_ID, M_HW_TYPE, M_DEVICE), "live: nvml", stability="development"
)  # fmt: skip
HW_ENERGY = Metric(
    "hw.energy", "counter", "J", "What the card has drawn since its driver was loaded, by NVML; of all processes.",
    (M_HW_ID, M_HW_TYPE, M_DEVICE), "live: nvml", stability="development",
)  # fmt: skip
HW_ERRORS = Metric(
    "hw.errors", "counter", "{error}", "Errors of the card, by NVML: Xid events since this process first looked, ECC "
                                       "since its last reset.",
    (M_HW_ID, M_HW_TYPE, M_DEVICE, M_HW_ERROR), "live: nvml", stability="development",
)  # fmt: skip
GPU_PROCESSES = Metric(
    "vibevoice.gpu.processes", "gauge", "{process}", "Processes that compute on the card, this one among them, by "
                                                     "NVML.",
    (M_HW_ID, M_HW_TYPE, M_DEVICE), "live: nvml", stability="development",
)  # fmt: skip
GPU_CLOCK = Metric(
    "vibevoice.gpu.clock", "gauge", "Hz", "Frequency of the card's clock now, by NVML.",
    (M_HW_ID, M_HW_TYPE, M_DEVICE, M_CLOCK_DOMAIN), "live: nvml", stability="development",
)  # fmt: skip
GPU_THROTTLED = Metric(
    "vibevoice.gpu.throttled", "gauge", "{state}", "1 while the card lowers its clocks for this reason, by NVML.",
    (M_HW_ID, M_HW_TYPE, M_DEVICE, M_THROTTLE_REASON), "live: nvml", stability="development",
)  # fmt: skip
KERNEL_SHARE = Metric(
    "vibevoice.kernel.share", "histogram", "{ratio}",
    "Share of a sampled frame, or of a part of it, in which kernels were at work (VIBEVOICE_OTEL_GPU_PROFILE).",
    (M_DEVICE, M_SHARE_PART), "span vibevoice.frame",
    (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0),
)  # fmt: skip
FRAME_LIMIT = Metric(
    "vibevoice.frame.limit", "counter", "s",
    "Seconds of the frames timed by a device, by what they were spent on. card and other_process together are "
    "vibevoice.frame.device_wait, the most that a faster card could save; the rest is vibevoice.frame.host_bound.",
    (M_DEVICE, M_LIMIT), "span vibevoice.frame",
)  # fmt: skip
FRAME_LIMIT_ERROR = Metric(
    "vibevoice.frame.limit.error", "counter", "s",
    "Seconds by which vibevoice.frame.device_wait may be off, either way: the clocks' stated error of each frame.",
    (M_DEVICE,), "span vibevoice.frame",
)  # fmt: skip
FIRST_AUDIO_PART = Metric(
    "vibevoice.first_audio.part", "histogram", "s", "The first-audio latency cut into consecutive parts that add up to "
                                                    "it.",
    (M_VOICE, M_PART), "span vibevoice.first_chunk",
    (0.001, 0.005, 0.025, 0.05, 0.1, 0.2, 0.45, 1.0, 5.0),  # a part is often milliseconds
)  # fmt: skip
FIRST_AUDIO_SLI = Metric(
    "vibevoice.first_audio.slo", "counter", "{request}",
    "Requests that count towards the first-audio objective: good when audio came in time, bad when late or failed "
    "before any. Rejected ones, and listeners who left before the objective's time, do not count.",
    (M_VOICE, M_RESULT), "span vibevoice.synthesize",
)  # fmt: skip
LAUNCH_LATENCY = Metric(
    "vibevoice.kernel.launch_latency", "histogram", "s", "From the host's call to the start on an idle device.",
    (M_DEVICE,), "span vibevoice.diffusion.step", LAUNCH_BUCKETS,
)  # fmt: skip
DEVICE_QUEUE = Metric(
    "vibevoice.kernel.queue_latency", "histogram", "s", "From the host's call to the start on a device that was busy.",
    (M_DEVICE,), "span vibevoice.diffusion.step", LAUNCH_BUCKETS,
)  # fmt: skip
GPU_MEMORY_PEAK = Metric(
    "vibevoice.gpu.memory.peak", "gauge", "By", "Highest allocated bytes since start.", (M_DEVICE,), "live: torch"
)
GPU_MEMORY_RESERVED = Metric(
    "vibevoice.gpu.memory.reserved", "gauge", "By", "Bytes reserved by torch's allocator.", (M_DEVICE,), "live: torch"
)
GPU_MEMORY_LIMIT = Metric(
    "vibevoice.gpu.memory.limit",
    "gauge",
    "By",
    "The lesser of torch's cap and the card's total.",
    (M_DEVICE,),
    "live: torch",
)
GPU_MEMORY_FREE = Metric(
    "vibevoice.gpu.memory.free", "gauge", "By", "Free on the card, other processes seen.", (M_DEVICE,), "live: torch"
)
GPU_MEMORY_EVENTS = Metric(
    "vibevoice.gpu.memory.events", "counter", "{event}", "Allocator events: a retry is a near miss, an oom a failure.",
    (M_DEVICE, M_EVENT), "live: torch",
)  # fmt: skip
AUDIO_PRODUCED = Metric(
    "vibevoice.audio.produced", "counter", "s", "Seconds of audio made.", (M_VOICE,), "span vibevoice.synthesize"
)
GENERATE_BUSY = Metric(
    "vibevoice.generate.busy", "counter", "s", "Seconds spent generating; over audio.produced it is the fleet's "
                                               "real-time factor.",
    (M_VOICE,), "span vibevoice.generate",
)  # fmt: skip
RTF = Metric(
    "vibevoice.real_time_factor", "histogram", "{ratio}", "Generation time / audio time; below 1 is faster than real "
                                                          "time.",
    (M_VOICE, M_CFG, M_STEPS), "span vibevoice.synthesize",
    (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0),
)  # fmt: skip
UNDERRUN = Metric(
    "vibevoice.playback.underrun", "counter", "{underrun}", "Times a listener who plays at once ran out of audio.",
    (M_VOICE,), "span vibevoice.synthesize",
)  # fmt: skip
GAP = Metric(
    "vibevoice.playback.gap", "histogram", "s",
    "The longest silence of a request that its listener heard between two pieces of audio, 0 for none. A listener "
    "who left counts only after a gap above the objective; a request without any audio does not count.",
    (M_VOICE,), "span vibevoice.synthesize", GAP_BUCKETS,
)  # fmt: skip
UNDERRUN_SECONDS = Metric(
    "vibevoice.playback.underrun.duration", "histogram", "s", "All silence of a request for want of audio, 0 for none.",
    (M_VOICE,), "span vibevoice.synthesize", (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)  # fmt: skip
CONTINUITY_SLI = Metric(
    "vibevoice.continuity.slo", "counter", "{request}",
    "Requests that count towards the continuity objective: good when no gap was longer than it allows. A failure "
    "before audio and a listener who left before such a gap do not count.",
    (M_VOICE, M_RESULT), "span vibevoice.synthesize",
)  # fmt: skip
CHUNK_INTERVAL = Metric(
    "vibevoice.chunk.interval", "histogram", "s", "From one send that carries audio to the next.",
    (M_VOICE,), "span vibevoice.synthesize", (0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0),
)  # fmt: skip
REQUEST_DURATION = Metric(
    "vibevoice.request.duration", "histogram", "s", "From the arrival of a request that succeeded to the last thing "
                                                    "done for it.",
    (M_VOICE, M_TEXT_RANGE), "span vibevoice.synthesize", (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 300.0),
)  # fmt: skip
AUDIO_SECONDS = Metric(
    "vibevoice.audio.duration", "histogram", "s", "Audio made for a request.",
    (M_VOICE,), "span vibevoice.synthesize", (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)  # fmt: skip
TEXT_LENGTHS = Metric(
    "vibevoice.text.length", "histogram", "{character}", "Characters of a request's text, where that is known; "
                                                         "rejected requests left out.",
    (M_VOICE,), "span vibevoice.synthesize", (10.0, 25.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0),
)  # fmt: skip
CHARACTERS = Metric(
    "vibevoice.text.characters", "counter", "{character}", "Characters asked to be spoken; rejected requests left out.",
    (M_VOICE,), "span vibevoice.synthesize",
)  # fmt: skip
FINISHED = Metric(
    "vibevoice.speech.finished", "counter", "{request}",
    "Requests whose speech ended, by why; length is speech that the model's budget cut off.",
    (M_VOICE, M_FINISH_REASON), "span vibevoice.synthesize",
)  # fmt: skip
SUSPECTS = Metric(
    "vibevoice.speech.suspect", "counter", "{request}",
    "Requests whose speech is suspect: far from its voice's own pace, or with something in the audio that no listener "
    "wants.",
    (M_VOICE, M_SUSPECT), "span vibevoice.synthesize", stability="development",
)  # fmt: skip
UNCHECKED = Metric(
    "vibevoice.audio.unchecked", "counter", "s", "Audio that the checks "
                                                 "skipped.", (M_VOICE,), "span vibevoice.synthesize",
    stability="development",
)  # fmt: skip
WARM_UPS = Metric(
    "vibevoice.warmup.requests", "counter", "{request}",
    "Requests that met a warm-up. Those of startup are in no other series but loads'; the others count everywhere.",
    (M_VOICE, M_WARM_UP), "span vibevoice.synthesize",
)  # fmt: skip
TENANT_CHARACTERS = Metric(
    "vibevoice.tenant.characters", "counter", "{character}", "Characters asked to be spoken, by tenant (opt-in; "
                                                             "showback, not billing).",
    (M_TENANT,), "span vibevoice.synthesize", stability="development",
)  # fmt: skip
TENANT_AUDIO = Metric(
    "vibevoice.tenant.audio", "counter", "s", "Audio made, by tenant (opt-in; showback, not billing).",
    (M_TENANT,), "span vibevoice.synthesize", stability="development",
)  # fmt: skip
LEADING_SILENCE_SECONDS = Metric(
    "vibevoice.leading_silence",
    "histogram",
    "s",
    "Silence before the first sound.",
    (M_VOICE,),
    "span vibevoice.synthesize",
    (0.0, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0),
)
DEFECTIVE_FRAMES = Metric(
    "vibevoice.frames.defective", "counter", "{frame}", "Frames that are silent, not a number, or clipped.",
    (M_VOICE, M_KIND), "span vibevoice.synthesize",
)  # fmt: skip
DROPPED = Metric(
    "vibevoice.telemetry.dropped",
    "counter",
    "{item}",
    "Telemetry that was lost, and why.",
    (M_WHAT, M_REASON),
    "live: the recorder",
)
SERIES = Metric(
    "vibevoice.telemetry.series",
    "gauge",
    "{series}",
    "Prometheus series that this process has made.",
    (),
    "live: the instruments",
)
SERIES_LIMIT = Metric(
    "vibevoice.telemetry.series.limit", "gauge", "{series}", "Series that this process may make "
                                                             "(VIBEVOICE_OTEL_MAX_SERIES).",
    (), "live: the instruments",
)  # fmt: skip
PROGRESS_AGE = Metric(
    "vibevoice.streaming.oldest_progress_age", "gauge", "s", "Seconds since the least recent open stream last made a "
                                                             "frame.",
    (), "live: open timelines",
)  # fmt: skip
ERRORS = Metric(
    "vibevoice.errors",
    "counter",
    "{error}",
    "Failed requests by cause.",
    (M_VOICE, M_ERROR_TYPE),
    "span vibevoice.synthesize",
)
BUILD_INFO = Metric(
    "vibevoice.build_info",
    "gauge",
    "{info}",
    "Always 1; what is running. Models, revisions and drivers are known from the first request on, and joined by + "
    "where there are several.",
    (M_VERSION, M_ADAPTER, M_SERVICE_VERSION, GEN_AI_MODEL, MODEL_REVISION, M_DRIVER_VERSION),
    "live: the recorder",
    when_known=(M_SERVICE_VERSION, GEN_AI_MODEL, MODEL_REVISION, M_DRIVER_VERSION),
)
LISTENER_FIRST_AUDIO = Metric(
    "vibevoice.listener.first_audio.latency", "histogram", "s",
    "From the click on play to the first sound at the listener's output, as the browser reports it (opt-in).",
    (M_VOICE,), "span vibevoice.listen", FIRST_AUDIO_BUCKETS, stability="development",
)  # fmt: skip
LISTENER_UNDERRUN = Metric(
    "vibevoice.listener.underrun", "counter", "{underrun}", "Times a listener's buffer ran dry, as the browser reports "
                                                            "it (opt-in).",
    (M_VOICE,), "span vibevoice.listen", stability="development",
)  # fmt: skip
SERVICE_CAPACITY = Metric(
    "vibevoice.service.capacity", "gauge", "{request}", "Requests that the embedded service works on at once.",
    (), "the service's own slots",
)  # fmt: skip
SERVICE_REQUESTS = Metric(
    "vibevoice.service.requests", "gauge", "{request}",
    "Requests that have one of the embedded service's slots, and those that wait for one.",
    (M_STATE,), "the service's own slots",
)  # fmt: skip
RECOMMENDATION_TAKEN_BACK = Metric(
    "vibevoice.recommendation.taken_back", "gauge", "{setting}",
    "1 for a setting that the policy of steps=auto and cfg=auto took back, since it did harm.",
    (M_CFG, M_STEPS, M_HARM), "the policy's own watch", stability="development",
)  # fmt: skip
PROBE_REQUESTS = Metric(
    "vibevoice.probe.requests", "counter", "{request}",
    "Synthetic requests of `vibevoice-otel probe`, as its client saw them end; they are in no objective.",
    (M_TARGET, M_STATUS), "span vibevoice.probe",
)  # fmt: skip
PROBE_FIRST_AUDIO = Metric(
    "vibevoice.probe.first_audio.latency", "histogram", "s",
    "From a synthetic request's beginning to its first audio, as its client saw it.",
    (M_TARGET,), "span vibevoice.probe", FIRST_AUDIO_BUCKETS,
)  # fmt: skip
PROBE_GAP = Metric(
    "vibevoice.probe.playback.gap", "histogram", "s", "The longest silence of a synthetic request, as its client heard "
                                                      "it; 0 for none.",
    (M_TARGET,), "span vibevoice.probe", GAP_BUCKETS,
)  # fmt: skip

METRICS: Final = (
    REQUESTS, FIRST_AUDIO, INFERENCE, GPU_MEMORY, BUFFER_LENGTH, MEMORY_INCREASE, MEMORY_DECREASE, ACTIVE,
    MODEL_LOAD_DURATION,
    VOICE_LOAD_DURATION, PREPROCESS_DURATION, QUEUE_DURATION, DECODE_DURATION, PREFILL_DURATION, LM_DURATION,
    KERNEL_SHARE, HW_GPU_UTILIZATION, HW_POWER, HW_ENERGY, HW_ERRORS, GPU_PROCESSES, GPU_CLOCK, GPU_THROTTLED,
    FRAME_LIMIT, FRAME_LIMIT_ERROR, FIRST_AUDIO_PART, FIRST_AUDIO_SLI,
    LAUNCH_LATENCY,
    DEVICE_QUEUE, GPU_MEMORY_PEAK, GPU_MEMORY_RESERVED, GPU_MEMORY_LIMIT, GPU_MEMORY_FREE, GPU_MEMORY_EVENTS,
    AUDIO_PRODUCED,
    GENERATE_BUSY, RTF, UNDERRUN, GAP, UNDERRUN_SECONDS, CONTINUITY_SLI, CHUNK_INTERVAL, REQUEST_DURATION,
    AUDIO_SECONDS, TEXT_LENGTHS, CHARACTERS, FINISHED, SUSPECTS, UNCHECKED, WARM_UPS, TENANT_CHARACTERS, TENANT_AUDIO,
    LEADING_SILENCE_SECONDS, DEFECTIVE_FRAMES, DROPPED, SERIES, SERIES_LIMIT, PROGRESS_AGE, ERRORS, BUILD_INFO,
    LISTENER_FIRST_AUDIO, LISTENER_UNDERRUN, SERVICE_CAPACITY, SERVICE_REQUESTS, RECOMMENDATION_TAKEN_BACK,
    PROBE_REQUESTS, PROBE_FIRST_AUDIO, PROBE_GAP,
)  # fmt: skip

#: The revision of OpenTelemetry's conventions of generative AI that is meant
#: (open-telemetry/semantic-conventions-genai).
GEN_AI_REVISION: Final = "67dff024110be5bd9f318006e733f4078e0f4c97"
#: Defined by those conventions, recorded with OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental alone. The edges
#: are theirs.
GEN_AI_REQUEST_DURATION = Metric(
    "gen_ai.server.request.duration", "histogram", "s", "From a request's arrival to the last thing done for it.",
    (GEN_AI_OPERATION, GEN_AI_PROVIDER, GEN_AI_MODEL, ERROR_TYPE), "span vibevoice.synthesize",
    (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92), "development",
)  # fmt: skip
OPT_IN_METRICS: Final = (GEN_AI_REQUEST_DURATION,)

# On the resource of a worker whose given service.instance.id other workers have too (target_info in Prometheus).
R_GIVEN_INSTANCE = Attribute(
    "vibevoice.service.instance.given_id",
    "string",
    "The service.instance.id that was set from outside for all workers; the worker's own is this, a dot and its "
    "number.",
    ("speech.pod-7.app",),
)
