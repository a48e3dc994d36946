// What several views are made of: the event list, the table of segments, downloads, errors, code to copy.

import { advice } from "./advice.js";
import { announce, h, icon, say } from "./dom.js";
import * as files from "./exports.js";
import { clock, percent, span } from "./format.js";
import { card, css } from "./model.js";

// An error: what was wrong and what to do next.
export function problem(error, ...actions) {
  announce(`${error.detail} ${advice(error)}`);
  return h("div", { class: "problem", role: "group", "aria-label": "Error" },
    h("div", {},
      h("p", {}, h("strong", {}, error.detail ?? String(error))),
      h("p", {}, advice(error))),
    actions.length ? h("div", { class: "row" }, actions) : null);
}

export function dot(label) {
  const made = h("span", { class: "dot", "aria-hidden": "true" });
  made.style.background = css(label);
  return made;
}

// Events as buttons, the newest last; kept as they are while others come.
export function eventList(record, onPick) {
  const list = h("ol", { class: "events", "aria-label": "Events" });
  const empty = h("p", { class: "muted pad-s" }, "Nothing has happened yet.");
  const kept = new Map();
  const draw = () => {
    const shown = record.shown(card ?? {});
    empty.hidden = shown.length > 0;
    const wanted = new Set(shown.map((one) => `${one.label} ${one.start.toFixed(3)}`));
    for (const [name, row] of kept) if (!wanted.has(name)) [row.item.remove(), kept.delete(name)];
    const at = (time) => clock(time, { tenths: true });
    const follow = list.parentElement && list.parentElement.scrollTop + list.parentElement.clientHeight > list.scrollHeight - 30;
    for (const one of shown.slice(-200)) {
      const name = `${one.label} ${one.start.toFixed(3)}`;
      let row = kept.get(name);
      if (!row) {
        const when = h("span", { class: "when" });
        const sure = h("span", { class: "sure" });
        const item = h("li", {}, h("button", { type: "button", class: "event", onclick: () => onPick(row.event) }, dot(one.label), h("span", { class: "what" }, one.label), sure, when));
        kept.set(name, (row = { item, when, sure }));
        list.append(item);
        if (one.open) announce(`${one.label} since ${clock(one.start)}`);
      }
      row.event = one;
      say(row.when, one.open ? `since ${at(one.start)}` : `${at(one.start)} to ${at(one.end)}`);
      say(row.sure, percent(one.confidence));
    }
    if (follow && list.parentElement) list.parentElement.scrollTop = list.scrollHeight;
  };
  record.addEventListener("change", draw);
  draw();
  return h("div", { class: "scroll events-box", tabindex: "0", role: "group", "aria-label": "What happened" }, empty, list);
}

// All numbers of the timeline, for eyes that want them and for screen readers. Made when it is opened.
export function segmentTable(record) {
  const body = h("tbody");
  const rows = new Map();
  const details = h("details", { class: "fold", ontoggle: () => draw() },
    h("summary", {}, "Segments as a table"),
    h("div", { class: "scroll table-box", tabindex: "0", role: "group", "aria-label": "Segments" },
      h("table", {},
        h("thead", {}, h("tr", {}, ["Time", "Label", "Sure", "Read from memory", "Changed", "Without memory"].map((one) => h("th", { scope: "col" }, one)))),
        body)));
  const draw = () => {
    if (!details.open) return;
    const shown = record.segments.slice(-500);
    const wanted = new Set(shown.map((one) => one.index));
    for (const [index, row] of rows) if (!wanted.has(index)) [row.remove(), rows.delete(index)];
    for (const one of shown) {
      if (rows.has(one.index)) continue;
      const { labels: [best], memory } = one;
      const row = h("tr", {},
        h("th", { scope: "row" }, span(one.start, one.end)), h("td", {}, best.label), h("td", {}, percent(best.score)),
        h("td", {}, percent(memory?.read)), h("td", {}, memory?.change?.toFixed(2) ?? "–"),
        h("td", {}, memory?.without ? `${memory.without.label} ${percent(memory.without.score)}` : "–"));
      rows.set(one.index, row);
      body.append(row);
    }
  };
  record.addEventListener("change", draw);
  return details;
}

export function downloads(name, record, { result = () => null, origin = () => 0 } = {}) {
  const button = (text, make, type, ending) =>
    h("button", { type: "button", onclick: () => files.save(`${name()}.${ending}`, make(), type) }, icon("save"), text);
  return h("div", { class: "row", role: "group", "aria-label": "Download" },
    button("JSON", () => files.json(record, result()), "application/json", "json"),
    button("CSV", () => files.csv(record), "text/csv", "csv"),
    button("WebVTT", () => files.vtt(record, card ?? {}, origin()), "text/vtt", "vtt"));
}

// The same by program: what is on the screen, as commands.
export function snippets(makers) {
  const body = h("div", { class: "stack" });
  const details = h("details", { class: "fold", ontoggle: () => details.open && draw() },
    h("summary", {}, "The same from a terminal or from Python"), body);
  const draw = () => body.replaceChildren(...Object.entries(makers).map(([title, make]) => {
    const code = h("code", {}, make());
    const copied = h("span", { class: "muted", role: "status" });
    return h("div", {},
      h("div", { class: "row apart" }, h("h3", {}, title), h("div", { class: "row" }, copied,
        h("button", { type: "button", class: "quiet", "aria-label": `Copy: ${title}`, onclick: async () => {
          // Not given to pages without https.
          await navigator.clipboard?.writeText(code.textContent).then(() => say(copied, "Copied"), () => {});
          if (!navigator.clipboard) [getSelection().selectAllChildren(code), say(copied, "Selected: press Ctrl+C")];
        } }, "Copy"))),
      h("pre", { class: "code", tabindex: "0", role: "group", "aria-label": title }, code));
  }));
  return details;
}

// How sure, as a bar with its number.
export function meter(label, share) {
  const fill = h("span", { class: "fill" });
  fill.style.inlineSize = `${share * 100}%`;
  fill.style.background = css(label);
  return h("li", { class: "meter" }, h("span", { class: "what" }, label), h("span", { class: "trough", "aria-hidden": "true" }, fill), h("span", { class: "sure" }, percent(share)));
}

// The label over the picture.
export function overlay() {
  const what = h("strong", {});
  const sure = h("span", {});
  const mark = h("span", { class: "dot", "aria-hidden": "true" });
  const made = h("div", { class: "overlay", hidden: true }, mark, what, sure);
  return {
    element: made,
    show(segment) {
      made.hidden = !segment;
      if (!segment) return;
      const [best] = segment.labels;
      say(what, best.label);
      say(sure, percent(best.score));
      mark.style.background = css(best.label);
    },
  };
}
