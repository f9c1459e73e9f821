"""What a browser may load and run on this site's pages: their own files, and nothing that is written into a page.

So whatever gets into a page by mistake, such as the text of an entry or of an error, is never run as a script.
"""

from typing import Any

from csp.constants import NONE, SELF, UNSAFE_EVAL
from csp.middleware import CSPMiddleware, PolicyParts
from django.http import HttpRequest, HttpResponseBase

POLICY: dict[str, Any] = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
        "form-action": [SELF],
    }
}
#: django-unfold's pages say in attributes what they do, and Alpine makes functions of that.
ADMIN_SCRIPTS = [SELF, UNSAFE_EVAL]


class ContentSecurityPolicy(CSPMiddleware):
    """Sends the policy with everything that this site answers."""

    def get_policy_parts(
        self, request: HttpRequest, response: HttpResponseBase, report_only: bool = False
    ) -> PolicyParts:
        parts = super().get_policy_parts(request, response, report_only)
        found = request.resolver_match
        if found is not None and "admin" in found.app_names:
            parts.replace = {**(parts.replace or {}), "script-src": ADMIN_SCRIPTS}
        return parts
