// What the pages need beyond htmx: a notice when the server is gone, signing in again, and times in the reader's zone.
"use strict";

(() => {
  const banner = document.getElementById("connection");
  let about = null; // what the notice is about: "watching" (goes away when an answer comes) or "starting"

  function say(subject, text) {
    if (about === "starting" && subject === "watching") return;
    about = subject;
    if (banner.firstElementChild.textContent !== text) banner.firstElementChild.textContent = text;
    banner.hidden = false;
  }

  function subjectOf(event) {
    return event.detail.requestConfig?.verb === "get" ? "watching" : "starting";
  }

  function noAnswer(event) {
    if (subjectOf(event) === "watching") say("watching", "The web server does not answer; trying again.");
    else say("starting", "The web server does not answer. Nothing may have been started; try again in a moment.");
  }

  document.addEventListener("htmx:sendError", noAnswer);
  document.addEventListener("htmx:timeout", noAnswer);

  document.addEventListener("htmx:responseError", (event) => {
    const { status } = event.detail.xhr;
    if (status === 403) say("starting", "This is not allowed, or the page is too old. Reload the page.");
    else if (subjectOf(event) === "watching") {
      if (status === 404) location.reload(); // what was watched has been deleted
      else say("watching", "The web server cannot show the latest state; trying again. Details are in its log.");
    } else say("starting", "This could not be started. Details are in the web server’s log.");
  });

  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr, pathInfo } = event.detail;
    if (xhr.status === 429) Object.assign(event.detail, { shouldSwap: true, isError: false }); // the card says why
    const [asked, answered] = [pathInfo.finalRequestPath, pathInfo.responsePath].map((path) => path?.split("?")[0]);
    // A session that has ended answers with the page for signing in: show that as a page, not inside this one.
    if (answered && answered !== asked) {
      event.detail.shouldSwap = false;
      location.reload();
    } else if (xhr.status < 400 && (about === "watching" || subjectOf(event) === "starting")) {
      about = null;
      banner.hidden = true;
    }
  });

  function localTimes(root) {
    const today = new Date().toDateString();
    for (const element of root.querySelectorAll("time[datetime]")) {
      const moment = new Date(element.dateTime);
      const options = moment.toDateString() === today ? { timeStyle: "medium" } : { dateStyle: "medium", timeStyle: "medium" };
      element.title = element.title || element.textContent;
      element.textContent = moment.toLocaleString(undefined, options);
    }
  }

  localTimes(document);
  document.addEventListener("htmx:afterSwap", (event) => {
    localTimes(document);
    // A verdict that has just arrived is written once more, so that its live region reads it out.
    const words = event.detail.target.id && document.getElementById(event.detail.target.id)?.querySelector(".verdict span");
    if (words) setTimeout(() => (words.textContent = words.textContent), 100);
  });
})();
