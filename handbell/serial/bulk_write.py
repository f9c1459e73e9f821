"""Writing many changed rows of a model with few statements."""

from collections.abc import Sequence
from typing import Any

from django.db import connection, models

from handbell.models import SerialModel, outside_lanes


def write_changed(
    model: type[SerialModel], rows: Sequence[SerialModel], stored: Sequence[dict[str, Any] | None]
) -> None:
    """Insert the rows that are not `stored` yet, and update the changed fields of the others."""
    new = [row for row, before in zip(rows, stored, strict=True) if before is None]
    old = [(row, before) for row, before in zip(rows, stored, strict=True) if before is not None]
    if new:
        with outside_lanes():
            model._base_manager.bulk_create(new)
    fields = [
        field
        for field in model._meta.concrete_fields
        if not field.primary_key
        and any(row.__dict__.get(field.attname) != before.get(field.attname) for row, before in old)
    ]
    if old and fields:
        _update(model, [row for row, _ in old], fields)


def _update(model: type[SerialModel], rows: Sequence[SerialModel], fields: Sequence["models.Field[Any, Any]"]) -> None:
    meta, quote = model._meta, connection.ops.quote_name
    table, key = quote(meta.db_table), meta.pk
    columns = [quote(str(field.column)) for field in fields]
    values = [(*(_prepared(field, row) for field in fields), key.get_db_prep_value(row.pk, connection)) for row in rows]
    with connection.cursor() as cursor:
        if connection.vendor != "postgresql" or len(rows) == 1:
            sets = ", ".join(f"{column} = %s" for column in columns)
            cursor.executemany(f"UPDATE {table} SET {sets} WHERE {quote(str(key.column))} = %s", values)
            return
        types = [field.db_type(connection) for field in fields] + [key.rel_db_type(connection)]
        row_sql = f"({', '.join(f'%s::{kind}' for kind in types)})"
        sets = ", ".join(f"{column} = changed.f{number}" for number, column in enumerate(columns))
        names = ", ".join([*(f"f{number}" for number in range(len(columns))), "pk"])
        cursor.execute(
            f"UPDATE {table} SET {sets} FROM (VALUES {', '.join([row_sql] * len(rows))}) AS changed({names}) "
            f"WHERE {table}.{quote(str(key.column))} = changed.pk",
            [value for row in values for value in row],
        )


def _prepared(field: "models.Field[Any, Any]", row: SerialModel) -> Any:
    return field.get_db_prep_save(getattr(row, field.attname), connection)
