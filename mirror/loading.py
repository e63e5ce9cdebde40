"""What is to be loaded from a source: rows that its log does not tell of, or that shall be told anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from django.db import transaction

from mirror.models import Again, Loaded, Loading, LoadingState, Source

__all__ = ["begin", "cover"]


def begin(
    source: Source,
    models: Iterable[str],
    *,
    anew: bool,
    sweep: bool,
    untold: Mapping[str, int] | None = None,
) -> None:
    """Have these models loaded from their beginning; a process that follows the source does it.

    ``anew``: the log does not lead here from what was applied before, so that its changes mean nothing until
    a model's turn comes. A model of which that was true already, and is not loaded yet, stays so. ``sweep``:
    what is here and not at the source is deleted, since it came from there.
    ``untold``: see ``cover``.
    """
    using = source._state.db
    models = list(models)
    if not models:
        return
    with transaction.atomic(using=using):
        unloaded = Loading.objects.using(using).filter(source=source).exclude(state=LoadingState.DONE)
        still = set(unloaded.filter(anew=True).values_list("model", flat=True))
        for of_source in (Loading, Again, Loaded):
            of_source.objects.using(using).filter(source=source, model__in=models).delete()
        Loading.objects.using(using).bulk_create(
            Loading(
                source=source,
                model=model,
                state=LoadingState.WAITING,
                anew=anew or model in still,
                sweep=sweep,
                untold_since=(untold or {}).get(model, 0),
            )
            for model in models
        )


def cover(source: Source, models: Iterable[str], untold: Mapping[str, int]) -> None:
    """Have loaded what the source's log does not tell, or told before the model was listed here.

    ``models`` are all that are mirrored here; ``untold`` says since when, by the source's clock in epoch
    microseconds, the log lacks rows of a model. Each model has its entry once its rows are here, or on their
    way. A source that is followed from a later time alone has none.
    """
    using = source._state.db
    known = {row.model: row for row in Loading.objects.using(using).filter(source=source)}
    if source.begin != "start" and not any(row.anew for row in known.values()):
        return
    covered, first, again = [], [], []
    for model in models:
        since, row = untold.get(model, 0), known.get(model)
        if row is None and (known or since):
            first.append(model)
        elif row is None:
            covered.append(
                Loading(source=source, model=model, state=LoadingState.DONE, anew=False, sweep=False)
            )
        elif since > row.untold_since and row.state == LoadingState.WAITING:
            Loading.objects.using(using).filter(pk=row.pk).update(untold_since=since)
        elif since > row.untold_since:
            again.append(model)
    with transaction.atomic(using=using):
        Loading.objects.using(using).bulk_create(covered)
        begin(source, first, anew=True, sweep=False, untold=untold)
        begin(source, again, anew=True, sweep=True, untold=untold)
