// #stream/NAME: follows a stream that somebody else writes to, or shows one that rests. Owns nothing.

import { Problem, events, get, stream } from "../api.js";
import { announce, ask, h, icon, say } from "../dom.js";
import { remove } from "../feed.js";
import { bytes, clock, count, lasting, percent, since } from "../format.js";
import { memoryTools } from "../memory-tools.js";
import { downloads, eventList, meter, problem, segmentTable } from "../parts.js";
import { Record } from "../record.js";
import { code } from "./camera.js";

export function streamView(id) {
  const record = new Record();
  const stop = new AbortController();
  const line = h("crt-timeline");
  const state = h("span", { class: "pill", role: "status" }, "Connecting");
  const trouble = h("div");
  const names = ["Segments", "Position", "Age", "Rate", "Latency", "State", "Expires in"];
  const facts = Object.fromEntries(names.map((one) => [one, h("dd", {}, "–")]));
  const scores = h("ol", { class: "meters", "aria-label": "The whole stream" });
  const now = h("p", { class: "status" }, "–");
  const tools = memoryTools(id, { selected: () => (line.playhead === null ? null : line.selected), changed: () => line.latest() });
  const watch = h("button", { type: "button", class: "main", onclick: () => (location.hash = `#camera/${encodeURIComponent(id)}`) }, icon("camera"), "Go on with this camera");

  async function follow() {
    let pause = 500;
    while (!stop.signal.aborted) {
      try {
        const last = record.segments.at(-1)?.index;
        for await (const message of events(`${stream(id)}/follow?memory=true`, { signal: stop.signal, after: last })) {
          pause = 500;
          if (message.type === "following") trouble.replaceChildren();
          if (message.type === "writer") wrote(message.writing);
          if (message.type === "problem") throw Problem.from(message.problem.status, message.problem);
          record.take(message);
        }
      } catch (error) {
        if (error.name === "AbortError") return;
        if (!(error instanceof Problem)) throw error;
        if ([404, 409, 410].includes(error.status)) return gone(error);
        wrote(null);
        trouble.replaceChildren(problem(error));
        if (error.status === 401) return; // the page asks for the key, and begins anew
      }
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(5000, pause * 2);
    }
  }

  // There is nothing to show, and will be nothing.
  function gone(error) {
    leave();
    element.replaceChildren(h("h1", {}, id), problem(error, h("a", { class: "button main", href: "#streams" }, "All streams")));
  }

  function wrote(writing) {
    state.className = `pill ${writing ? "live" : writing === null ? "wait" : ""}`;
    say(state, writing ? "Live" : writing === null ? "Reconnecting" : "Resting");
    announce(writing ? `${id} is live.` : `${id} rests.`);
  }

  async function look() {
    try {
      const shown = await get(stream(id), { signal: stop.signal });
      say(facts.Segments, count(shown.segment));
      say(facts.Position, clock(shown.position));
      say(facts.Age, lasting(shown.age));
      say(facts.Rate, shown.live ? `${shown.live.rate.toFixed(1)}/s` : "–");
      say(facts.Latency, lasting(shown.live?.latency));
      say(facts.State, bytes(shown.state_bytes));
      say(facts["Expires in"], lasting(Math.max(0, shown.expires - Date.now() / 1000)));
      const best = shown.labels[0];
      say(now, best ? `${best.label} ${percent(best.score)}, ${since(shown.touched)}` : "No segment yet");
      scores.replaceChildren(...shown.scores.filter((one) => one.score >= 0.005).slice(0, 5).map((one) => meter(one.label, one.score)));
    } catch (error) {
      if (error.name !== "AbortError" && !(error instanceof Problem)) throw error;
    }
  }

  async function forget() {
    const sure = await ask({ title: `Forget “${id}”?`, text: "Its memory and its states are deleted. Whoever writes to it is told.", action: "Forget", grave: true });
    if (!sure) return;
    try {
      await remove(id);
      location.hash = "#streams";
    } catch (error) {
      trouble.replaceChildren(problem(error));
    }
  }

  line.addEventListener("seek", () => tools.draw());
  const element = h("div", { class: "view" },
    h("div", { class: "row apart" },
      h("div", { class: "row" }, h("h1", {}, id), state),
      h("div", { class: "row" }, h("button", { type: "button", onclick: forget }, "Forget"), watch)),
    trouble,
    h("section", { class: "card pad stack", "aria-label": "How it is" }, now,
      h("dl", { class: "facts" }, Object.entries(facts).map(([title, value]) => h("div", { class: "fact" }, h("dt", {}, title), value)))),
    h("section", { class: "card pad", "aria-label": "Timeline" }, line),
    h("div", { class: "cards" },
      h("section", { class: "card pad stack", "aria-labelledby": "happened" }, h("h2", { id: "happened" }, "What happened"), eventList(record, (event) => [(line.playhead = event.start + 1e-3), line.draw(), tools.draw()])),
      h("section", { class: "card pad stack" }, h("h2", {}, "The whole stream so far"), h("div", { class: "whole" }, scores)),
      h("section", { class: "card pad stack" }, tools.element, downloads(() => id, record, { origin: () => record.start }))),
    h("section", { class: "card pad stack" }, segmentTable(record), code(id)));
  const timer = setInterval(look, 2000);
  function leave() {
    stop.abort();
    clearInterval(timer);
    tools.leave();
  }
  line.show(record, { live: true });
  follow();
  look();
  return { element, leave };
}
