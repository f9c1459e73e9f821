// Keeps django-unfold's pages from writing styles into themselves, which the site's Content-Security-Policy forbids.
"use strict";

htmx.config.includeIndicatorStyles = false; // the admin shows no indicators

// Alpine sets a style that is given as text by an attribute, and one that is given as an object property by property.
document.addEventListener("alpine:init", () => {
  document.getElementById("changelist-actions")?.setAttribute("x-bind:style", "{ width: changeListWidth + 'px' }");
});
