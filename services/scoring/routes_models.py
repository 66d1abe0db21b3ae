"""REST of models: fit one to the workspace's own customers, and see which versions there are and how good they are."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from services.scoring.domain.definitions import DEFAULT_MODEL, FIGURES, in_force
from services.scoring.fit_runs import Run
from services.scoring.fits import HOUR_MS, Fits
from services.scoring.showing import moment
from services.scoring.wire import FitShown, Models, ModelShown, NewFit
from shared.access import ADMIN, READ, Key
from shared.httpd import Auth


def model_routes(fits: Fits, auth: Auth) -> APIRouter:
    """Versions of the model (`read`) and fitting the next one (`admin`)."""
    router = APIRouter(prefix="/v1/models", tags=["models"])
    reader, admin = Depends(auth.needs(READ)), Depends(auth.needs(ADMIN))

    @router.get("", summary="All versions of the model, oldest first, and the last fit.")
    async def listed(key: Annotated[Key, reader]) -> Models:
        return await _models(fits, key.workspace)

    @router.post("/fit", status_code=202, summary="Fit the model to the workspace's own customers. 409 while one runs.")
    async def fit(wanted: NewFit, key: Annotated[Key, admin]) -> FitShown:
        return _run_shown(await fits.ask(key.workspace, wanted.publish))

    return router


async def _models(fits: Fits, workspace: str) -> Models:
    now = fits.clock.now_ms()
    current = in_force(fits.rulebook.definitions(workspace), now).version
    run = await fits.runs.find(workspace)
    refit_at = None
    if run is not None and fits.terms.refit_hours:
        refit_at = moment(run.beat_at + round(fits.terms.refit_hours * HOUR_MS))
    items = [
        ModelShown(
            version=edition.fact.version,
            effective_at=moment(edition.fact.effective_at),
            in_force=edition.fact.version == current,
            parameters=_parameters(edition.fact.model),
            fit=edition.fact.model.get(FIGURES),
        )
        for edition in fits.rulebook.editions(workspace)
        if not edition.refused
    ]
    shown = _run_shown(run) if run is not None and run.run else None
    return Models(items=items, last_fit=shown, refit_at=refit_at)


def _parameters(model: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter, also those that were left out."""
    return {name: model.get(name, value) for name, value in DEFAULT_MODEL.items()}


def _run_shown(run: Run) -> FitShown:
    return FitShown(
        state=run.state,
        phase=run.phase,
        customers=run.customers,
        started_at=moment(run.started_at),
        last_sign_at=moment(run.beat_at),
        version=run.version or None,
        reason=run.report.reason or None,
        figures=run.report.figures,
    )
