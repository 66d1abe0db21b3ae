"""`raftar model`: fit the churn model to the workspace's own customers, and see how good each version is."""

from time import sleep
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from services.cli.errors import REFUSED, CommandError
from services.cli.house import House
from services.cli.printing import moment, percent, print_json

POLL_SECONDS = 0.5
RUNNING, PUBLISHED, LOOKED, UNCHANGED = "running", "published", "looked", "unchanged"
_PHASES = {"reading": "reading customers", "fitting": "fitting", "publishing": "publishing the new version"}


class NotFitted(CommandError):
    """There is no new version, and the house says why."""

    exit_code = REFUSED


def fit(house: House, look: bool, out: Console, err: Console, as_json: bool) -> None:
    """Fit, wait for the end with progress on a terminal, and show the figures. Raises Refused, NotFitted."""
    with house.scoring() as scoring:
        run = dict(scoring.post("/v1/models/fit", {"publish": not look}))
        with err.status("reading customers") as status:
            while run["state"] == RUNNING:
                status.update(f"{_PHASES.get(run['phase'], run['phase'])}: {run['customers']:,} customers")
                sleep(POLL_SECONDS)
                run = dict(scoring.get("/v1/models")["last_fit"])
    if as_json:
        print_json(out, run)
    if run["state"] not in (PUBLISHED, LOOKED, UNCHANGED):
        raise NotFitted(f"no new version: {run['reason']}", "the model in force stays; see `raftar model list`")
    if not as_json:
        _show(run, out)


def list_versions(house: House, out: Console, as_json: bool) -> None:
    """Every version of the model and the last fit."""
    with house.scoring() as scoring:
        answer = dict(scoring.get("/v1/models"))
    if as_json:
        print_json(out, answer)
        return
    names = ("", Column("version", justify="right"), Column("from", no_wrap=True), "r", "alpha", "a", "b", "customers")
    table = Table(*names, "holdout (Brier, before)", box=None)
    for one in answer["items"]:
        figures, own = one["fit"] or {}, one["parameters"]
        table.add_row(
            "*" if one["in_force"] else "",
            str(one["version"]),
            moment(one["effective_at"]),
            *(f"{own[name]:.4g}" for name in ("r", "alpha", "a", "b")),
            f"{figures['customers']:,}" if figures else "as shipped",
            _holdout(figures),
        )
    out.print(table)
    if last := answer["last_fit"]:
        why = f": {last['reason']}" if last["reason"] else ""
        out.print(f"last fit {last['state']} at {moment(last['last_sign_at'])}{why}", highlight=False, soft_wrap=True)
    if answer["refit_at"]:
        out.print(f"next by the schedule {moment(answer['refit_at'])}", highlight=False)


def _holdout(figures: dict[str, Any]) -> str:
    held = figures.get("holdout") if figures else None
    return f"{held['brier']:.4f} ({held['brier_before']:.4f}) over {held['days']:g} d" if held else ""


def _show(run: dict[str, Any], out: Console) -> None:
    figures = dict(run["figures"] or {})
    said = f"version {run['version']} is published" if run["state"] == PUBLISHED else run["reason"]
    out.print(f"[bold]{said}[/bold]", highlight=False, soft_wrap=True)
    table = Table(show_header=False, box=None)
    table.add_row("customers", f"{figures['customers']:,}, {figures['repeat_purchases']:,} repeat purchases")
    gain = figures["log_likelihood"] - figures["log_likelihood_before"]
    table.add_row("log-likelihood", f"{figures['log_likelihood']:,.1f}, {gain:+,.1f} against the model in force")
    table.add_row("risks move by", f"{percent(figures['change'])} on the average")
    for limit in figures["limits"]:
        table.add_row("note", limit)
    if held := figures["holdout"]:
        table.add_row("holdout", f"the last {held['days']:g} days, fitted without them:")
        table.add_row(
            "", f"{held['purchases_predicted']:,.0f} purchases predicted, {held['purchases_observed']:,} made"
        )
        table.add_row("", f"Brier {held['brier']:.4f} ({held['brier_before']:.4f} before), AUC {held['auc']:.3f}")
    else:
        table.add_row("holdout", f"none: {figures['no_holdout']}")
    out.print(table)
    if held:
        out.print(_calibration(held["calibration"]))


def _calibration(rows: list[dict[str, Any]]) -> Table:
    """P(a purchase in the holdout) by tenths of customers."""
    columns = [Column(name, justify="right") for name in ("tenth", "customers", "predicted", "bought")]
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(row["group"], f"{row['customers']:,}", f"{row['predicted']:.3f}", f"{row['observed']:.3f}")
    return table
