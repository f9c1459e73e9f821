"""The look of the admin: django-unfold's where it is installed, Django's own otherwise. All of that choice is here."""

from typing import TYPE_CHECKING, Any

from django.apps import apps

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin as _ModelAdmin
    from django.contrib.admin import TabularInline as _TabularInline
    from django.contrib.admin.views.main import ChangeList
    from django.forms import Select, TextInput

    ModelAdmin = _ModelAdmin[Any]
    TabularInline = _TabularInline[Any, Any]
elif apps.is_installed("unfold"):
    from unfold.admin import ModelAdmin, TabularInline
    from unfold.views import ChangeList
    from unfold.widgets import UnfoldAdminSelectWidget as Select
    from unfold.widgets import UnfoldAdminTextInputWidget as TextInput
else:
    from django.contrib.admin import ModelAdmin, TabularInline
    from django.contrib.admin.views.main import ChangeList
    from django.contrib.admin.widgets import AdminTextInputWidget as TextInput
    from django.forms import Select

__all__ = ["ChangeList", "ModelAdmin", "Select", "TabularInline", "TextInput", "library_template", "themed"]


def themed(widget: type[Any]) -> type[Any]:
    """A select widget of another library, in the look of this theme."""
    return widget if issubclass(widget, Select) else type(widget.__name__, (Select, widget), {})


def library_template(name: str | None) -> str | None:
    """A template of another library, or None with django-unfold: it is made for Django's own look."""
    return None if apps.is_installed("unfold") else name
