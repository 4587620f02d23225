"""How a worker reads its queue: what no publisher of ours wrote is thrown away before kombu and Celery look into it.

Whoever has the password of the broker can push any bytes onto a queue. kombu takes them for its envelope: no JSON
would end the worker, and what Celery cannot make a task of would stay on its hands and block the queue.
"""

import base64
import json
from typing import Any, Literal

import structlog
from kombu.transport import redis, virtual
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from infra.bus import LARGEST

log = structlog.get_logger()

TASKS = "quorate."
"""Queues of tasks begin so. The others are Celery's own, for its monitor."""

LARGEST_BODY = 4 * LARGEST + 4096
"""Most characters of a body: the largest task, quoted in JSON (at most 3 times) and in base64, and what Celery adds."""


class _Place(BaseModel):
    exchange: Literal[""]
    routing_key: str = Field(max_length=200)
    redelivered: bool = False


class _Properties(BaseModel):
    body_encoding: Literal["base64"]
    delivery_tag: str = Field(min_length=1, max_length=200)
    delivery_info: _Place
    delivery_mode: Literal[2] = 2
    priority: Literal[0] = 0
    correlation_id: str | None = Field(default=None, max_length=500)


class _Headers(BaseModel):
    """What Celery must know of a task. No time of day, no other task before or after it."""

    lang: Literal["py"]
    task: Literal["quorate.execute"]
    id: str = Field(min_length=1, max_length=500)
    root_id: str | None = Field(default=None, max_length=500)
    timelimit: tuple[float | None, float | None] = (None, None)
    argsrepr: str = Field(default="", max_length=1000)
    kwargsrepr: str = Field(default="", max_length=1000)
    retries: Literal[0] = 0
    eta: None = None
    expires: None = None
    ignore_result: bool | None = None

    @field_validator("timelimit")
    @classmethod
    def _passes(cls, limits: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
        if any(limit is not None and not 0 < limit < 10**9 for limit in limits):
            raise ValueError("no time limit")
        return limits


class _Envelope(BaseModel):
    """What kombu wraps a task in."""

    model_config = ConfigDict(hide_input_in_errors=True)

    body: str = Field(min_length=1, max_length=LARGEST_BODY)
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    headers: _Headers
    properties: _Properties

    @field_validator("body")
    @classmethod
    def _unwraps(cls, body: str) -> str:
        arguments, named, embedded = json.loads(base64.b64decode(body, validate=True))
        if not isinstance(arguments, list) or named != {} or any(embedded.values()):
            raise ValueError("no arguments of a task")
        return body


def readable(message: Any, queue: str) -> dict[str, Any]:
    """What of a message in a queue of tasks is passed on. Raises ValueError for what is no task of ours."""
    try:
        found = _Envelope.model_validate(message)
    except ValidationError as e:
        first = e.errors(include_input=False, include_context=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (TypeError, AttributeError, RecursionError) as e:
        raise ValueError(type(e).__name__) from None
    if found.properties.delivery_info.routing_key != queue:
        raise ValueError("addressed to another queue")
    return found.model_dump(mode="json", by_alias=True)


class QoS(redis.QoS):
    """kombu's list of what the worker has in hand, which forgets a message also if Redis does not hear that it is done.

    Else the worker would count it for ever, and with one in hand take no other. Redis still has it, and delivers it
    once more after the visibility timeout; what comes twice counts once.
    """

    def ack(self, delivery_tag: str) -> None:
        """Raises what kombu's does."""
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except Exception:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]
            raise


class Channel(redis.Channel):
    """kombu's, which lives through what is no JSON."""

    QoS = QoS

    def _brpop_read(self, **options: Any) -> Any:
        self.connection.delivering = False
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as e:
            if self.connection.delivering:
                raise
            log.warning("no message, thrown away", error=type(e).__name__)
            return True


class Transport(redis.Transport):
    """kombu's, which delivers from a queue of tasks nothing but tasks."""

    Channel = Channel
    delivering = False

    def _deliver(self, message: Any, queue: str) -> None:
        self.delivering = True
        if queue.startswith(TASKS):
            try:
                message = readable(message, queue)
            except ValueError as e:
                log.warning("no task, thrown away", queue=queue, error=str(e)[:200])
                return
        super()._deliver(message, queue)  # type: ignore[no-untyped-call]
