{
  const element = id => document.getElementById(id);
  const page = document.querySelector("main").dataset;
  const difficulty = Number(page.difficulty);
  const expectedAttempts = 2 ** difficulty;

  // So that the page answers to its user in between.
  const SLICE_MS = 20;
  const SHOW_EVERY_MS = 250;
  const RATE_KNOWN_AFTER_MS = 1000;
  const ATTEMPTS_PER_LOOK_AT_THE_CLOCK = 200;
  const MOST_FAILURES = 3;
  const FAILURES = "failed proofs of work";

  const search = nonceSearch(page.challengeId);
  const start = performance.now();
  const end = start + Number(page.lifetimeMs);
  const nextSlice = new MessageChannel();
  let attempts = 0;
  let shownAt = 0;
  let rateIsTold = false;

  const say = text => { element("status").textContent = text; };

  const duration = seconds => {
    if (seconds < 1.5) return "about a second";
    if (seconds < 100) return `about ${Math.round(seconds)} seconds`;
    return `about ${Math.round(seconds / 60)} minutes`;
  };

  const show = now => {
    shownAt = now;
    // The chance of having found one by now: whatever was tried in vain tells nothing of what is left.
    element("progress").value = 1 - Math.exp(-attempts / expectedAttempts);
    element("attempts").textContent = `${attempts.toLocaleString("en")} tries`;
    if (!rateIsTold && now - start >= RATE_KNOWN_AFTER_MS) {
      rateIsTold = true;
      say(`Takes ${duration((now - start) * expectedAttempts / attempts / 1000)} on average`);
    }
  };

  const isWorthComingBack = isAccepted => {
    try {
      const failures = isAccepted ? 0 : Number(sessionStorage.getItem(FAILURES)) + 1;
      sessionStorage.setItem(FAILURES, failures);
      return failures < MOST_FAILURES;
    } catch {
      return isAccepted;
    }
  };

  const submit = async () => {
    element("progress").value = 1;
    say("Solved. Opening the page…");
    const form = element("answer");
    element("nonce").value = search.nonce();
    const body = new URLSearchParams(new FormData(form));
    let isAccepted = false;
    try {
      const answer = await fetch(form.action, { method: "POST", body, redirect: "manual" });
      isAccepted = answer.type === "opaqueredirect";
    } catch {
      // The network's failures are shown by the submission below.
    }
    if (isWorthComingBack(isAccepted)) {
      comeBack(page);
    } else {
      form.submit();
    }
  };

  const giveUp = () => {
    element("work").hidden = true;
    element("too-late").hidden = false;
  };

  const work = () => {
    const sliceEnd = performance.now() + SLICE_MS;
    let now;
    do {
      for (let count = 0; count < ATTEMPTS_PER_LOOK_AT_THE_CLOCK; count++) {
        attempts++;
        if (Math.clz32(search.firstWord()) >= difficulty) {
          submit();
          return;
        }
        search.advance();
      }
      now = performance.now();
    } while (now < sliceEnd);
    if (now >= end) {
      giveUp();
      return;
    }
    if (now - shownAt >= SHOW_EVERY_MS) show(now);
    // Not a timer: those of pages in the background run once a second.
    nextSlice.port2.postMessage(null);
  };

  // From the back-forward cache it would stand still.
  addEventListener("pageshow", event => event.persisted && comeBack(page));

  if (navigator.cookieEnabled) {
    element("work").hidden = false;
    nextSlice.port1.onmessage = work;
    nextSlice.port2.postMessage(null);
  } else {
    element("no-cookies").hidden = false;
  }
}
