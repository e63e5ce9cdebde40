
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("mirror", "0006_loading"),
    ]

    operations = [
        migrations.CreateModel(
            name="Difference",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("model", models.CharField(max_length=200)),
                ("key", models.CharField(max_length=200)),
                (
                    "kind",
                    models.CharField(
                        choices=[("missing", "missing"), ("different", "different"), ("extra", "extra")],
                        max_length=20,
                    ),
                ),
                ("fields", models.TextField(blank=True)),
                ("cursor", models.BigIntegerField()),
                ("found_at", models.DateTimeField()),
                ("repaired", models.BooleanField(default=False)),
                (
                    "source",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="differences",
                        to="mirror.source",
                    ),
                ),
            ],
            options={
                "verbose_name": "difference",
                "verbose_name_plural": "differences",
                "indexes": [models.Index(fields=["source", "model"], name="mirror_difference_model")],
            },
        ),
        migrations.CreateModel(
            name="Verification",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("model", models.CharField(max_length=200)),
                (
                    "state",
                    models.CharField(
                        choices=[("waiting", "waiting"), ("comparing", "comparing"), ("done", "done")],
                        default="waiting",
                        max_length=20,
                    ),
                ),
                ("repair", models.BooleanField(default=False)),
                ("rows", models.BigIntegerField(default=0)),
                ("total", models.BigIntegerField(null=True)),
                ("missing", models.BigIntegerField(default=0)),
                ("different", models.BigIntegerField(default=0)),
                ("extra", models.BigIntegerField(default=0)),
                ("cursor", models.BigIntegerField(default=0)),
                ("refused", models.CharField(blank=True, max_length=50)),
                ("began_at", models.DateTimeField(null=True)),
                ("ended_at", models.DateTimeField(null=True)),
                (
                    "source",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="verifications",
                        to="mirror.source",
                    ),
                ),
            ],
            options={
                "verbose_name": "verification",
                "verbose_name_plural": "verifications",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("source", "model"), name="mirror_verification_source_model"
                    )
                ],
            },
        ),
    ]
