
"use strict";
// To the page that was asked for, where it turns out what this browser has solved, in this tab or another:
// tabs that open at once share one cookie, so that not every tab's own answer finds its challenge again.
function comeBack({ returnUrl, verifyUrl }) {
  // Else a fragment would make this a move within this page, and nothing would be loaded.
  if (location.hash) history.replaceState(null, "", verifyUrl + location.hash);
  location.replace(returnUrl + location.hash);
}
