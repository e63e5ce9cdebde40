"""Find a row's changes by a number instead of by two texts; no constraint from the oplog to its stream."""

from typing import Any

import django.db.models.deletion
from django.db import migrations, models

from mirror.oplog import row_number

_PAGE = 2000


def number_rows(apps: Any, schema_editor: Any) -> None:
    entries = apps.get_model("mirror", "Oplog").objects.using(schema_editor.connection.alias)
    last = 0
    while page := list(entries.filter(pk__gt=last).order_by("pk").only("model", "key")[:_PAGE]):
        for entry in page:
            entry.row = row_number(entry.model, entry.key)
        entries.bulk_update(page, ["row"], batch_size=200)
        last = page[-1].pk


class Migration(migrations.Migration):
    dependencies = [("mirror", "0002_hole")]

    operations = [
        migrations.RemoveIndex("oplog", "mirror_oplog_row"),
        migrations.AddField("oplog", "row", models.BigIntegerField(default=0, editable=False)),
        migrations.AlterField(
            "oplog",
            "stream",
            models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="changes",
                to="mirror.stream",
            ),
        ),
        migrations.RunPython(number_rows, migrations.RunPython.noop),
        migrations.AddIndex("oplog", models.Index(fields=["row", "ts"], name="mirror_oplog_row_ts")),
    ]
