"""The tables: what was captured, in what order it happened, who may follow it, whom we follow."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.translation import gettext_lazy as _

from mirror.changes import Op


class UUIDModel(models.Model):
    """A model whose rows merge from many sources: ``id`` is the same everywhere, ``pkid`` is local."""

    pkid = models.BigAutoField(primary_key=True, editable=False)
    id = models.UUIDField(default=uuid.uuid4, editable=False, unique=True)

    class Meta:
        abstract = True


class Stream(models.Model):
    """One source's oplog history, recorded here or copied from elsewhere."""

    uuid = models.UUIDField(_("stream"), default=uuid.uuid4, unique=True, editable=False)
    #: True for the stream that is recorded here. NULL, not False, for the others, so that ``unique``
    #: admits one True on every engine (MySQL has no conditional constraints).
    local = models.BooleanField(null=True, unique=True, editable=False)
    #: Timestamp of the newest change.
    head = models.BigIntegerField(default=0, editable=False)
    #: How many changes the stream has ever had: the position of the head.
    position = models.BigIntegerField(default=0, editable=False)
    #: Timestamp, mark and position of the newest change that was pruned.
    anchor = models.BigIntegerField(default=0, editable=False)
    anchor_mark = models.CharField(max_length=16, blank=True, editable=False)
    anchor_position = models.BigIntegerField(default=0, editable=False)
    #: Up to where the "oplogger" logger has been told.
    logged = models.BigIntegerField(default=0, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = _("stream")
        verbose_name_plural = _("streams")

    def __str__(self) -> str:
        return str(self.uuid)


class OutboxKey(models.BigAutoField):  # type: ignore[type-arg]
    """Ascending among those that wait. SQLite's AUTOINCREMENT would make it ascend for ever, at the price of
    a second table that every captured change writes to.
    """

    def db_type_suffix(self, connection: BaseDatabaseWrapper) -> str | None:
        return None if connection.vendor == "sqlite" else super().db_type_suffix(connection)


class Outbox(models.Model):
    """A committed change without a place in the order yet, written by triggers or ``CAPTURE: "signals"``."""

    id = OutboxKey(primary_key=True)
    op = models.CharField(max_length=6)
    model = models.CharField(max_length=200)
    #: Epoch microseconds.
    captured_at = models.BigIntegerField()
    #: The row's columns as the database stores them, as JSON; or, from "signals", the row as it travels.
    payload = models.TextField()

    class Meta:
        verbose_name = _("outbox entry")
        verbose_name_plural = _("outbox")

    def __str__(self) -> str:
        return f"{self.op} {self.model}"


class Hole(models.Model):
    """A write that ``CAPTURE: "signals"`` noticed and could not capture."""

    kind = models.CharField(max_length=20)
    model = models.CharField(max_length=200)
    #: One of the statements, without its values.
    sample = models.TextField(blank=True)
    #: At least so many.
    count = models.BigIntegerField(default=0)
    first_seen = models.DateTimeField()
    last_seen = models.DateTimeField()

    class Meta:
        verbose_name = _("hole")
        verbose_name_plural = _("holes")
        constraints = [models.UniqueConstraint(fields=["kind", "model"], name="mirror_hole_kind_model")]

    def __str__(self) -> str:
        return f"{self.kind} {self.model}"


class Untold(models.Model):
    """A model whose rows the oplog does not all tell of: some were there before their capture began."""

    model = models.CharField(max_length=200, unique=True)
    #: When its capture began.
    since = models.DateTimeField()

    class Meta:
        verbose_name = _("untold model")
        verbose_name_plural = _("untold models")

    def __str__(self) -> str:
        return self.model


class Oplog(models.Model):
    """A change in its place. ``body`` is the JSON object exactly as it travels."""

    id = models.BigAutoField(primary_key=True)
    #: Without a constraint in the database, which would look the stream up again for every change.
    stream = models.ForeignKey(
        Stream, models.CASCADE, related_name="changes", db_index=False, db_constraint=False
    )
    ts = models.BigIntegerField(_("timestamp"))
    position = models.BigIntegerField()
    op = models.CharField(_("operation"), max_length=6, choices=[(op.value, op.value) for op in Op])
    model = models.CharField(max_length=200)
    #: What identifies the row on every server: the UUID, or the primary key.
    key = models.CharField(max_length=200)
    #: A number for ``model`` and ``key``, see ``oplog.row_number``: an index of their texts cost more than
    #: all the rest of writing a change.
    row = models.BigIntegerField(default=0, editable=False)
    #: True for the last change of a group: only there a mirror may commit.
    ends_group = models.BooleanField()
    body = models.TextField()

    class Meta:
        verbose_name = _("oplog entry")
        verbose_name_plural = _("oplog")
        constraints = [models.UniqueConstraint(fields=["stream", "ts"], name="mirror_oplog_stream_ts")]
        indexes = [models.Index(fields=["row", "ts"], name="mirror_oplog_row_ts")]

    def __str__(self) -> str:
        return f"{self.ts} {self.op} {self.model} {self.key}"


class Token(models.Model):
    """What a mirror shows to be let in. Only the hash of its secret is kept."""

    name = models.CharField(max_length=100, unique=True)
    #: The public half, by which the row is found.
    prefix = models.CharField(max_length=16, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(null=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("token")
        verbose_name_plural = _("tokens")

    def __str__(self) -> str:
        return self.name


class Mirror(models.Model):
    """A server that follows a stream kept here, how far it has committed, and when it was seen last."""

    stream = models.ForeignKey(Stream, models.CASCADE, related_name="mirrors")
    #: The name of the token that it showed.
    token = models.CharField(max_length=100)
    #: What it calls itself: several may show the same token.
    mirror = models.CharField(max_length=100)
    cursor = models.BigIntegerField()
    position = models.BigIntegerField()
    first_seen = models.DateTimeField()
    last_seen = models.DateTimeField()

    class Meta:
        verbose_name = _("mirror")
        verbose_name_plural = _("mirrors")
        constraints = [
            models.UniqueConstraint(fields=["stream", "token", "mirror"], name="mirror_mirror_stream_token")
        ]

    def __str__(self) -> str:
        return f"{self.token} {self.mirror}"


class SourceState(models.TextChoices):
    NEW = "new", _("not followed yet")
    CONNECTING = "connecting", _("connecting")
    CATCHING_UP = "catching_up", _("catching up")
    LOADING = "loading", _("loading")
    LIVE = "live", _("live")
    STALLED = "stalled", _("stalled")
    REFUSED = "refused", _("refused")
    HALTED = "halted", _("halted")
    STOPPED = "stopped", _("stopped")


class Source(models.Model):
    """A server that this one mirrors, how far it got, and how it fares."""

    name = models.SlugField(max_length=100, unique=True)
    url = models.CharField(max_length=500)
    token = models.CharField(max_length=200)
    #: Where a new mirror begins: "start", "now", or the epoch microseconds since when.
    begin = models.CharField(max_length=20, default="start")
    created_at = models.DateTimeField(auto_now_add=True)

    #: Where the mirror is. These four change only in the transaction that applies.
    stream = models.OneToOneField(Stream, models.SET_NULL, null=True, editable=False, related_name="source")
    cursor = models.BigIntegerField(default=0, editable=False)
    position = models.BigIntegerField(default=0, editable=False)
    mark = models.CharField(max_length=16, blank=True, editable=False)
    #: Identifies this mirror to its source, and the process that may commit for it.
    mirror = models.UUIDField(default=uuid.uuid4, editable=False)
    fence = models.BigIntegerField(default=0, editable=False)

    state = models.CharField(
        max_length=20, choices=SourceState.choices, default=SourceState.NEW, editable=False
    )
    state_since = models.DateTimeField(null=True, editable=False)
    #: The newest that the source said of itself, and when (the clock of this server).
    head = models.BigIntegerField(default=0, editable=False)
    head_position = models.BigIntegerField(default=0, editable=False)
    heard_at = models.DateTimeField(null=True, editable=False)
    #: The source's clock minus ours, microseconds, when last heard.
    clock_offset = models.BigIntegerField(default=0, editable=False)
    error_code = models.CharField(max_length=50, blank=True, editable=False)
    error_text = models.TextField(blank=True, editable=False)
    attempts = models.PositiveIntegerField(default=0, editable=False)
    next_try_at = models.DateTimeField(null=True, editable=False)
    #: Changes of models that are not listed in MIRROR["MODELS"] here.
    skipped = models.BigIntegerField(default=0, editable=False)

    class Meta:
        verbose_name = _("source")
        verbose_name_plural = _("sources")

    def __str__(self) -> str:
        return self.name

    @property
    def changes_behind(self) -> int:
        return max(0, self.head_position - self.position)


class ModelOwner(models.Model):
    """Which source writes a model whose rows are matched by integer keys: those can't be merged."""

    model = models.CharField(max_length=200, unique=True)
    source = models.ForeignKey(Source, models.CASCADE, related_name="owned_models")

    class Meta:
        verbose_name = _("model owner")
        verbose_name_plural = _("model owners")

    def __str__(self) -> str:
        return f"{self.model}: {self.source}"


class LoadingState(models.TextChoices):
    #: Nothing of it is copied yet.
    WAITING = "waiting", _("waiting")
    #: Chunk by chunk. Changes of its rows are passed over: each such row is asked for again.
    COPYING = "copying", _("copying")
    #: Every row was asked for once. Changes are passed over still, until all that was met is known.
    COPIED = "copied", _("copied")
    #: Some rows are asked for again. Changes of the others are applied.
    SETTLING = "settling", _("settling")
    DONE = "done", _("done")


class Loading(models.Model):
    """A model whose rows are copied from a source as they are, since its log does not tell of them."""

    source = models.ForeignKey(Source, models.CASCADE, related_name="loading")
    model = models.CharField(max_length=200)
    state = models.CharField(max_length=20, choices=LoadingState.choices, default=LoadingState.WAITING)
    #: Whether its changes mean nothing here before its turn comes, since what they follow is missing.
    anew = models.BooleanField()
    #: The newest mark of the source, by its clock in epoch microseconds, that this makes up for.
    untold_since = models.BigIntegerField(default=0)
    #: Whether rows that are here and not at the source are deleted.
    sweep = models.BooleanField(default=False)
    #: The source's primary key, as JSON, of the last row that was copied.
    after = models.TextField(blank=True)
    rows = models.BigIntegerField(default=0)
    #: How many rows the source had at the beginning.
    total = models.BigIntegerField(null=True)
    began_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = _("model that is loaded")
        verbose_name_plural = _("models that are loaded")
        constraints = [
            models.UniqueConstraint(fields=["source", "model"], name="mirror_loading_source_model")
        ]

    def __str__(self) -> str:
        return f"{self.model} of {self.source}"


class Again(models.Model):
    """A row that is asked for again while its model is loaded."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    source = models.ForeignKey(Source, models.CASCADE, related_name="asked_again")
    model = models.CharField(max_length=200)
    #: The source's primary key, as JSON.
    pk_there = models.TextField()
    #: False while all that is known of the row is that it has changes which are still to come.
    known = models.BooleanField()

    class Meta:
        verbose_name = _("row that is asked for again")
        verbose_name_plural = _("rows that are asked for again")

    def __str__(self) -> str:
        return f"{self.model} {self.pk_there}"


class Loaded(models.Model):
    """A row that was loaded, so that those that were here before and are gone there are found."""

    id = models.BigAutoField(primary_key=True)
    source = models.ForeignKey(Source, models.CASCADE, related_name="loaded", db_index=False)
    model = models.CharField(max_length=200)
    #: Its key in this database, as the driver shows it.
    key = models.CharField(max_length=200)

    class Meta:
        verbose_name = _("row that was loaded")
        verbose_name_plural = _("rows that were loaded")
        indexes = [models.Index(fields=["source", "model", "key"], name="mirror_loaded_key")]

    def __str__(self) -> str:
        return f"{self.model} {self.key}"


class VerificationState(models.TextChoices):
    WAITING = "waiting", _("waiting")
    COMPARING = "comparing", _("comparing")
    DONE = "done", _("done")


class Verification(models.Model):
    """The last comparison of a model's rows here with those of a source, or the one under way."""

    source = models.ForeignKey(Source, models.CASCADE, related_name="verifications")
    model = models.CharField(max_length=200)
    state = models.CharField(
        max_length=20, choices=VerificationState.choices, default=VerificationState.WAITING
    )
    #: Whether what is missing or different is loaded again, and what is there only here is deleted.
    repair = models.BooleanField(default=False)
    #: Rows of the source that were compared, and how many it had at the beginning.
    rows = models.BigIntegerField(default=0)
    total = models.BigIntegerField(null=True)
    missing = models.BigIntegerField(default=0)
    different = models.BigIntegerField(default=0)
    extra = models.BigIntegerField(default=0)
    #: The cursor at which the last rows were compared.
    cursor = models.BigIntegerField(default=0)
    #: The code of the error for which rows could not be compared.
    refused = models.CharField(max_length=50, blank=True)
    began_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = _("verification")
        verbose_name_plural = _("verifications")
        constraints = [
            models.UniqueConstraint(fields=["source", "model"], name="mirror_verification_source_model")
        ]

    def __str__(self) -> str:
        return f"{self.model} of {self.source}"

    @property
    def differences(self) -> int:
        return self.missing + self.different + self.extra


class DifferenceKind(models.TextChoices):
    #: The source has it, and it is not here.
    MISSING = "missing", _("missing")
    DIFFERENT = "different", _("different")
    #: It is here, and the source does not have it.
    EXTRA = "extra", _("extra")


class Difference(models.Model):
    """A row that the last verification found to differ."""

    source = models.ForeignKey(Source, models.CASCADE, related_name="differences")
    model = models.CharField(max_length=200)
    #: What identifies the row on every server, cut to size.
    key = models.CharField(max_length=200)
    kind = models.CharField(max_length=20, choices=DifferenceKind.choices)
    #: The names of the fields that differ, where that is known: separated by commas.
    fields = models.TextField(blank=True)
    #: The cursor at which it was found.
    cursor = models.BigIntegerField()
    found_at = models.DateTimeField()
    #: Whether it was mended, or is about to be: the row is loaded again, or deleted.
    repaired = models.BooleanField(default=False)

    class Meta:
        verbose_name = _("difference")
        verbose_name_plural = _("differences")
        indexes = [models.Index(fields=["source", "model"], name="mirror_difference_model")]

    def __str__(self) -> str:
        return f"{self.model} {self.key}: {self.kind}"
