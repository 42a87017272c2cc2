"""Which model answers, whether the server lives, and its numbers."""

from __future__ import annotations

import time

from fastapi import APIRouter, Response

from videoxl.server.backend import Backend
from videoxl.server.problems import ApiError
from videoxl.server.schemas import Health, HealthStatus, Model, ModelList, WorkerHealth
from videoxl.server.services import Serving
from videoxl.server.worker_process import WorkerProcess

router = APIRouter(tags=["about"])
STARTED = int(time.time())


def _model(serving: Serving) -> Model:
    ready = serving.backend.ready
    if ready is None:
        raise ApiError("the model is being loaded", "worker_starting", retry_after=10)
    return Model(
        id=serving.settings.model, created=STARTED, family=ready.family, device=ready.device, dtype=ready.dtype
    )


@router.get("/v1/models")
def list_models(serving: Serving) -> ModelList:
    """The model that this server asks."""
    return ModelList(data=[_model(serving)])


@router.get("/v1/models/{model_id:path}")
def get_model(model_id: str, serving: Serving) -> Model:
    """The model that this server asks, by name."""
    if model_id != serving.settings.model:
        raise ApiError(f"this server asks {serving.settings.model}, not {model_id!r:.100}", "model_not_found")
    return _model(serving)


@router.get("/health")
def health(serving: Serving, response: Response) -> Health:
    """Whether questions can be answered. 503 while they cannot."""
    backend = serving.backend
    status = _status(backend)
    response.status_code = 200 if status == "ok" else 503
    return Health(
        status=status,
        questions=backend.questions,
        readings_waiting=serving.store.waiting(),
        worker_restarts=backend.restarts,
        workers=[
            WorkerHealth(device=one.device, status=_status(one), questions=one.questions, restarts=one.restarts)
            for one in backend.workers
        ],
    )


def _status(of: Backend | WorkerProcess) -> HealthStatus:
    return "failed" if of.gave_up else "ok" if of.ready else "starting"
