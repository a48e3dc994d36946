// What one can do to a stream's memory: begin anew, go back to a segment, go on from one under another name.

import { get, post, stream } from "./api.js";
import { announce, ask, h, say } from "./dom.js";
import { count, span } from "./format.js";
import { problem } from "./parts.js";

const ID = "[A-Za-z0-9._:\\-]{1,128}";

// selected(): the segment that is chosen in the timeline, or null; exists(): whether the stream is there yet; changed(segment): it is back
// at so many segments.
export function memoryTools(id, { selected, exists = () => true, changed = () => {} }) {
  const where = h("p", { class: "muted" });
  const trouble = h("div");
  let ring = [];
  let segments = 0;
  const button = (text, act) => h("button", { type: "button", onclick: () => attempt(act) }, text);
  const back = button("Rewind", rewind);
  const fork = button("Fork", branch);
  const reset = button("Reset", begin);

  async function attempt(act) {
    trouble.replaceChildren();
    try {
      await act();
    } catch (error) {
      trouble.replaceChildren(problem(error));
    }
    refresh();
  }

  async function begin() {
    const sure = await ask({
      title: "Reset the memory?", action: "Reset", grave: true,
      text: `All that “${id}” remembers is forgotten, and it begins at segment 0. Its name and options stay.`,
    });
    if (sure) await goBack(0);
  }

  async function rewind() {
    const to = target();
    const sure = await ask({
      title: `Rewind to segment ${to}?`, action: "Rewind", grave: true,
      text: `“${id}” goes on from the memory it had then. What came after is forgotten.`,
    });
    if (sure) await goBack(to);
  }

  async function goBack(segment) {
    await post(`${stream(id)}/rewind?takeover=true`, { segment });
    announce(segment ? `Back at segment ${segment}.` : "The memory is as at the beginning.");
    changed(segment);
  }

  async function branch() {
    const to = target();
    const answer = await ask({
      title: `Fork after segment ${to}`, action: "Fork", text: "A stream of another name goes on from this memory. This one stays as it is.",
      fields: [{ name: "name", label: "Its name", value: `${id}-${to}`.slice(0, 128), pattern: ID }],
    });
    if (!answer) return;
    const shown = await get(stream(id));
    const { state } = await get(`${stream(id)}/state?segment=${to}`);
    await post("/v1/streams", { ...shown.options, id: answer.name, state });
    location.hash = `#stream/${encodeURIComponent(answer.name)}`;
  }

  // Number of finished segments to go back to: after the chosen one, or all.
  function target() {
    const chosen = selected();
    return chosen ? chosen.index + 1 : segments;
  }

  function draw() {
    const to = target();
    const kept = to === segments || to === 0 || (ring.length && to >= ring[0] && to <= ring[1]);
    back.disabled = !kept || to >= segments;
    fork.disabled = !kept || !segments;
    reset.disabled = !segments;
    const chosen = selected();
    const place = chosen ? `After segment ${count(chosen.index)}, ${span(chosen.start, chosen.end)}` : "At the latest segment";
    const there = kept ? "" : ring.length ? ` States are kept of segments ${count(ring[0])} to ${count(ring[1])}.` : " No earlier states are kept of this stream.";
    say(where, `${place}.${there} Choose another in the timeline.`);
  }

  async function refresh() {
    if (!exists()) return;
    try {
      const shown = await get(stream(id));
      [ring, segments] = [shown.checkpoints, shown.segment];
      draw();
    } catch {
      // whoever shows the stream says what is wrong with it
    }
  }

  draw();
  const timer = setInterval(refresh, 4000);
  refresh();
  return {
    element: h("div", { class: "stack" }, h("h2", {}, "Its memory"), where, h("div", { class: "row" }, back, fork, reset), trouble),
    draw,
    leave: () => clearInterval(timer),
  };
}
