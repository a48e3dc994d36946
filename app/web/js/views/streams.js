// #streams: all sessions that the service keeps, live and at rest.

import { Problem, get } from "../api.js";
import { h, say } from "../dom.js";
import { bytes, count, lasting, percent, since } from "../format.js";
import { dot, problem } from "../parts.js";

const EVERY = 2000;

export function streamsView() {
  const body = h("tbody");
  const total = h("p", { class: "muted", role: "status" }, "Looking");
  const trouble = h("div");
  const empty = h("div", { class: "pad stack", hidden: true },
    h("p", {}, "There are no streams yet."), h("p", { class: "muted" }, "A stream begins with a camera's first frame, here or from the command line, and is kept until nothing has come for a day."),
    h("div", { class: "row" }, h("a", { class: "button main", href: "#camera" }, "Start the camera")));
  const rows = new Map();
  const stop = new AbortController();
  const table = h("table", {},
    h("thead", {}, h("tr", {}, ["Stream", "Now", "", "Age", "Rate", "Latency", "State", ""].map((one, i) => h("th", { scope: "col" }, one || h("span", { class: "unseen" }, i === 2 ? "Live" : "Open"))))), body);
  let pages = 1;
  const more = h("button", { type: "button", hidden: true, onclick: () => [pages++, look()] }, "Show more");

  async function look() {
    try {
      const found = [];
      let after = null;
      let all = 0;
      for (let page = 0; page < pages; page++) {
        const list = await get(`/v1/streams?full=true&limit=100${after === null ? "" : `&after=${encodeURIComponent(after)}`}`, { signal: stop.signal });
        found.push(...list.streams);
        [after, all] = [list.next, list.count];
        if (after === null) break;
      }
      more.hidden = after === null;
      draw(found, all);
      trouble.replaceChildren();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Problem)) throw error;
      if (!trouble.firstChild) trouble.replaceChildren(problem(error));
    }
  }

  // Those that are live first, then the latest; a row stays where it is until the list is opened again, so that none moves under a finger.
  function draw(found, all) {
    say(total, `${count(found.filter((one) => one.writer).length)} live, ${count(all)} kept`);
    empty.hidden = found.length > 0;
    table.hidden = !found.length;
    const ids = new Set(found.map((one) => one.id));
    for (const [id, row] of rows) if (!ids.has(id)) [row.element.remove(), rows.delete(id)];
    const sorted = [...found].sort((a, b) => Boolean(b.writer) - Boolean(a.writer) || b.touched - a.touched);
    for (const one of sorted) {
      if (!rows.has(one.id)) {
        const row = line(one.id);
        rows.set(one.id, row);
        body.append(row.element);
      }
      rows.get(one.id).show(one);
    }
  }

  look();
  const timer = setInterval(() => document.hidden || look(), EVERY);
  return {
    element: h("div", { class: "view" },
      h("div", { class: "row apart" }, h("h1", {}, "Streams"), total), trouble,
      h("section", { class: "card streams scroll", "aria-label": "All streams" }, table, empty), h("div", { class: "row centre" }, more)),
    leave: () => [stop.abort(), clearInterval(timer)],
  };
}

function line(id) {
  const cells = Object.fromEntries(["age", "rate", "latency", "state"].map((name) => [name, h("td", { "data-name": name[0].toUpperCase() + name.slice(1) }, "–")]));
  const pill = h("span", { class: "pill" });
  const label = h("span", { class: "label" });
  let shown = "";
  const open = `#stream/${encodeURIComponent(id)}`;
  return {
    element: h("tr", {},
      h("th", { scope: "row", class: "name wide" }, h("a", { href: open }, id)),
      h("td", { class: "wide" }, label), h("td", { class: "wide" }, pill),
      cells.age, cells.rate, cells.latency, cells.state,
      h("td", { class: "act wide" }, h("a", { class: "button", href: open, "aria-label": `Open ${id}` }, "Open"))),
    show(one) {
      const best = one.labels?.[0];
      const text = best ? `${best.label} ${percent(best.score)}` : "nothing yet";
      if (text !== shown) label.replaceChildren(...[best && dot(best.label), h("span", {}, text)].filter(Boolean));
      shown = text;
      pill.className = `pill ${one.writer ? "live" : ""}`;
      say(pill, one.writer ? "Live" : `Resting, ${since(one.touched)}`);
      say(cells.age, lasting(one.age));
      say(cells.rate, one.live ? `${one.live.rate.toFixed(1)}/s` : "–");
      say(cells.latency, lasting(one.live?.latency));
      say(cells.state, bytes(one.state_bytes));
    },
  };
}
