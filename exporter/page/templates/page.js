// Keeps the page current: asks for this very page again and puts its main part in place of the old one.
// Everything else works without it. Nothing is written as HTML here: the server has escaped what it wrote.
"use strict";
(() => {
  const EVERY = 2000; // milliseconds between two updates
  const MAX_POINTS = 90; // points of a trend: three minutes
  const FEW = 20; // fewer than these do not fill its width
  const SVG = "http://www.w3.org/2000/svg";
  const trends = new Map(); // an endpoint's direction -> packets dropped per second, oldest first
  const status = document.getElementById("status");
  const pause = document.getElementById("pause");
  let paused = false;

  function draw() {
    const seen = new Set();
    for (const row of document.querySelectorAll("tr[data-key]")) {
      const key = row.dataset.key;
      seen.add(key);
      const points = trends.get(key) || [];
      if (row.dataset.dropped !== "") points.push(Number(row.dataset.dropped));
      trends.set(key, points.slice(-MAX_POINTS));
      row.querySelector(".trend").append(line(trends.get(key)));
    }
    for (const key of trends.keys()) if (!seen.has(key)) trends.delete(key);
  }

  function line(points) {
    const most = Math.max(...points, 0);
    const picture = document.createElementNS(SVG, "svg");
    picture.setAttribute("viewBox", `0 0 ${Math.max(points.length, FEW) - 1} 20`);
    picture.setAttribute("preserveAspectRatio", "none");
    picture.setAttribute("role", "img");
    const steps = points.map((value, place) => `${place} ${most ? 18 - (16 * value) / most : 18}`);
    const said = `dropped per second since the page was opened: at most ${most.toPrecision(2)}`;
    picture.setAttribute("aria-label", most ? said : "no drops since the page was opened");
    if (most && steps.length > 1) {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("d", `M${steps.join(" L")}`);
      picture.append(path);
    }
    return picture;
  }

  // A reader is not interrupted: neither a selection nor the place of the keyboard gets lost.
  function put(fresh) {
    const old = document.getElementById("main");
    const place = old.contains(document.activeElement) ? document.activeElement : null;
    const name = place && (place.getAttribute("href") || place.getAttribute("aria-label"));
    const scrolled = [...old.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
    old.replaceWith(fresh);
    fresh.querySelectorAll(".scroll").forEach((one, number) => { one.scrollLeft = scrolled[number] || 0; });
    if (!name) return;
    for (const one of fresh.querySelectorAll("a, [tabindex]")) {
      if ((one.getAttribute("href") || one.getAttribute("aria-label")) === name) return one.focus({preventScroll: true});
    }
  }

  // Without the question about a packet: the answer is above the main part, and is not asked for again.
  function place() {
    const here = new URL(location.href);
    for (const name of ["peer", "way", "protocol", "port"]) here.searchParams.delete(name);
    return here;
  }

  async function update() {
    const selected = document.getSelection();
    if (paused || document.hidden || (selected && !selected.isCollapsed)) return;
    try {
      const answer = await fetch(place(), {signal: AbortSignal.timeout(15000)});
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("main");
      if (!fresh) throw new Error(`the answer is ${answer.status}`);
      if (paused) return;
      put(document.adoptNode(fresh));
      draw();
      say("live", `as of ${new Date().toLocaleTimeString()}`);
    } catch (error) {
      say("not live", `no answer (${error.message}); trying again`);
    }
  }

  // A screen reader hears changes of state and not the clock.
  function say(state, more) {
    if (status.dataset.state !== state) status.textContent = state;
    status.dataset.state = state;
    status.title = more;
    document.getElementById("pause").title = more;
  }

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
    say(paused ? "paused" : "live", "");
  });
  document.documentElement.classList.add("live");
  document.querySelector(".live-bar").hidden = false;
  say("live", "");
  draw();
  (async () => {
    for (;;) {
      await new Promise((done) => setTimeout(done, EVERY));
      await update();
    }
  })();
})();
