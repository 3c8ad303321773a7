{
  const element = id => document.getElementById(id);
  const page = document.querySelector("main").dataset;
  const { waitMs, remainingMs } = page;
  const end = performance.now() + Number(remainingMs);

  const clock = seconds =>
    seconds < 100 ? String(seconds) : `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;

  const show = () => {
    const leftMs = Math.max(end - performance.now(), 0);
    const time = clock(Math.ceil(leftMs / 1000));
    element("time-left").textContent = time;
    element("time-left").classList.toggle("long", time.length > 3);
    element("left").style.strokeDashoffset = 1 - leftMs / Number(waitMs);
  };

  const finish = () => {
    // A timer may be a little early.
    const leftMs = end - performance.now();
    if (leftMs > 0) {
      setTimeout(finish, leftMs);
      return;
    }
    element("status").textContent = "Opening the page…";
    comeBack(page);
  };

  // From the back-forward cache it would stand still.
  addEventListener("pageshow", event => event.persisted && comeBack(page));

  if (navigator.cookieEnabled) {
    show();
    element("countdown").hidden = false;
    element("status").textContent = "The page opens by itself.";
    setInterval(show, 250);
    setTimeout(finish, Number(remainingMs));
  } else {
    element("no-cookies").hidden = false;
    element("status").hidden = true;
    element("way-on").hidden = true;
  }
}
