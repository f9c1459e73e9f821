"""What the admin classes share: read-only pages, and lists that stay fast however long they are."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from django.contrib import messages
from django.contrib.admin import ShowFacets
from django.core.paginator import Paginator
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.utils.functional import cached_property

from handbell.admin import display
from handbell.admin.theme import ChangeList, ModelAdmin
from handbell.errors import HandbellError

Row = TypeVar("Row", bound=Model)
MAX_COUNTED_ROWS = 10_000


class CappedCount(int):
    """The number at which counting stopped: there are at least this many rows."""

    def __str__(self) -> str:
        return f"{int(self):,}+"


class CappedPaginator(Paginator):  # type: ignore[type-arg]  # generic in the stubs only
    """Counts the first rows only: a million more would take seconds, and nobody turns that many pages."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        counted: int = rows.order_by()[: MAX_COUNTED_ROWS + 1].count()
        return CappedCount(MAX_COUNTED_ROWS) if counted > MAX_COUNTED_ROWS else counted


class LargeTableChangeList(ChangeList):
    def get_results(self, request: HttpRequest) -> None:
        """Without a filter, the full count is the count of the results, so it is not shown a second time."""
        super().get_results(request)
        if not self.has_active_filters and not self.query:
            self.full_result_count = self.result_count


class NamedRow:
    """A row with a name for the heading of its page, instead of the model's `str()`."""

    def __init__(self, row: Model, name: str) -> None:
        self.pk = row.pk
        self._meta = row._meta
        self.name = name

    def __str__(self) -> str:
        return self.name


def steer_each(request: HttpRequest, rows: Iterable[Row], steer: Callable[[Row], object], done: str) -> None:
    """Steer each row; say how many went well, and of the others why they were refused."""
    count = 0
    for row in rows:
        try:
            steer(row)
        except HandbellError as refusal:
            messages.warning(request, str(refusal))
        else:
            count += 1
    if count:
        messages.success(request, f"{count} {done}.")


class LargeTableAdmin(ModelAdmin):
    """For tables that may hold millions of rows."""

    class Media:
        css = {"all": ["handbell/admin.css"]}

    empty_value_display = display.EMPTY_VALUE
    show_full_result_count = False
    show_facets = ShowFacets.NEVER  # the counts beside the filters would read every row
    paginator = CappedPaginator
    list_disable_select_all = True  # "all" would load every row to delete it; results are deleted by `delete_finished`
    list_per_page = 100

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return LargeTableChangeList

    def is_list(self, request: HttpRequest) -> bool:
        """Whether the list is asked for: it leaves out the large columns, which a row's own page shows."""
        match = request.resolver_match
        return match is not None and (match.url_name or "").endswith("_changelist")


class ReadOnlyAdmin(LargeTableAdmin):
    """Rows that the system writes: they can be viewed and deleted here, not edited."""

    def name_of(self, row: Any) -> str:
        return str(row)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        if obj is not None:
            name = self.name_of(obj)
            context.update(original=NamedRow(obj, name), subtitle=name, show_history=False)
        return super().render_change_form(request, context, add, change, form_url, obj)
