// Keeps the page current: asks for this very page again and puts its main part in place of the old one. Reads the graph's
// values out, by pointer and keyboard.
// Everything else works without it. Nothing is written as HTML here: the server has escaped what it wrote.
"use strict";
(() => {
  const EVERY = 2000; // milliseconds between two updates
  const status = document.getElementById("status");
  const pause = document.getElementById("pause");
  let paused = false;
  let pressed = false; // a pointer is down: what it is on must not be replaced
  let chosen = null; // the interval whose values are shown, null for the last one

  // The values of the graph's intervals: the server wrote them as titles, which a keyboard does not reach.
  function readOut() {
    const slider = document.getElementById("moment");
    if (!slider) return;
    const plot = document.querySelector(".plot");
    const columns = [...plot.querySelectorAll(".column")].map((column) => {
      const [x, width] = ["x", "width"].map((name) => Number(column.getAttribute(name)));
      const title = column.querySelector("title");
      title.remove();
      return {x, middle: x + width / 2, said: title.textContent};
    });

    function show(number) {
      const column = columns[number];
      slider.value = number;
      slider.setAttribute("aria-valuetext", column.said);
      document.getElementById("reading").textContent = column.said;
      document.getElementById("cursor").setAttribute("d", chosen === null ? "" : `M${column.middle} 0V1000`);
    }

    function choose(number) {
      chosen = number === columns.length - 1 ? null : columns[number].said.slice(0, 20);
      show(number);
    }

    function point(event) {
      const box = plot.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * 600;
      const after = columns.findIndex((column) => column.x > x);
      choose(after < 0 ? columns.length - 1 : Math.max(after - 1, 0));
    }

    slider.addEventListener("input", () => choose(Number(slider.value)));
    plot.addEventListener("pointermove", point);
    plot.addEventListener("pointerdown", point);
    slider.parentElement.hidden = false;
    const still = columns.findIndex((column) => chosen !== null && column.said.startsWith(chosen));
    if (still < 0) chosen = null;
    show(still < 0 ? columns.length - 1 : still);
  }

  // A reader is not interrupted: neither what is unfolded nor the place of the keyboard gets lost.
  function put(fresh) {
    const old = document.getElementById("main");
    const place = old.contains(document.activeElement) ? document.activeElement : null;
    const name = place && nameOf(place);
    for (const one of old.querySelectorAll("details[id]")) {
      const again = fresh.querySelector(`#${one.id}`);
      if (again) again.open = one.open;
    }
    old.replaceWith(fresh);
    readOut();
    if (!name) return;
    for (const one of fresh.querySelectorAll("a, input, summary")) {
      if (nameOf(one) === name) return one.focus({preventScroll: true});
    }
  }

  function nameOf(one) {
    return one.id || one.getAttribute("href") || one.parentElement.id;
  }

  // Without the question about a packet: the answer is above the main part, and is not asked for again.
  function place() {
    const here = new URL(location.href);
    for (const name of ["peer", "way", "protocol", "port", "source-port"]) here.searchParams.delete(name);
    return here;
  }

  async function update() {
    const selected = document.getSelection();
    if (paused || pressed || document.hidden || (selected && !selected.isCollapsed)) return;
    try {
      const answer = await fetch(place(), {signal: AbortSignal.timeout(15000)});
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("main");
      if (!fresh) throw new Error(`the answer is ${answer.status}`);
      if (paused || pressed) return;
      put(document.adoptNode(fresh));
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
  for (const kind of ["pointerdown", "pointermove", "pointerup", "pointercancel"]) {
    document.addEventListener(kind, (event) => { pressed = event.buttons !== 0; });
  }
  document.querySelector(".live-bar").hidden = false;
  say("live", "");
  readOut();
  (async () => {
    for (;;) {
      await new Promise((done) => setTimeout(done, EVERY));
      await update();
    }
  })();
})();
