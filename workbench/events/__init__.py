"""Events are the truth: typed events, the bus they travel on, and the reducer that rebuilds the state from them."""

from workbench.events.bus import EventBus, Gap, QueuedSubscription, Subscription
from workbench.events.history import History
from workbench.events.kvtrace import RecordingError
from workbench.events.page_map import InvalidEventError, PageMap
from workbench.events.recording import Recorder, Recording
from workbench.events.state import RequestStatus
from workbench.events.timeline import Timeline
from workbench.events.types import SCHEMA_VERSION, AnyEvent, Cause, EventBatch, FinishReason, LiveWaste

__all__ = [
    "SCHEMA_VERSION",
    "AnyEvent",
    "Cause",
    "EventBatch",
    "EventBus",
    "FinishReason",
    "Gap",
    "History",
    "InvalidEventError",
    "LiveWaste",
    "PageMap",
    "QueuedSubscription",
    "Recorder",
    "Recording",
    "RecordingError",
    "RequestStatus",
    "Subscription",
    "Timeline",
]
