// #camera or #camera/NAME: the camera as a stream. It can be left here and gone on with in any other browser.

import { Problem, key, stream } from "../api.js";
import { Camera, cameras } from "../capture.js";
import { announce, h, icon, say } from "../dom.js";
import { Feed, client } from "../feed.js";
import { count, lasting } from "../format.js";
import { memoryTools } from "../memory-tools.js";
import { downloads, eventList, overlay, problem, segmentTable, snippets } from "../parts.js";
import { Record } from "../record.js";

const ID = "[A-Za-z0-9._:\\-]{1,128}";
const KEPT = { "0": "none", "300": "10 minutes", "1800": "1 hour", "10000": "5 hours" };

export function cameraView(name) {
  const root = h("div", { class: "view" });
  let running = null;

  async function offer(error) {
    running?.close();
    running = null;
    const id = h("input", { name: "id", required: true, pattern: ID, autocomplete: "off", spellcheck: "false", value: name || localStorage.getItem("crt-stream") || made(), "aria-describedby": "id-note" });
    const device = h("select", { name: "device" }, h("option", { value: "" }, "The usual one"));
    const kept = h("select", { name: "kept" }, Object.entries(KEPT).map(([value, text]) => h("option", { value, selected: value === "300" }, text)));
    cameras().then((found) => device.append(...found.filter((one) => one.id).map((one) => h("option", { value: one.id }, one.name))));
    const submit = (event) => [event.preventDefault(), begin({ id: id.value, device: device.value, kept: kept.value })];
    root.replaceChildren(...[error && trouble(error, () => begin({ id: id.value, device: device.value, kept: kept.value, takeover: true })),
      h("section", { class: "drop", "aria-labelledby": "camera-title" },
        h("div", { class: "drop-mark" }, icon("camera")),
        h("h1", { id: "camera-title" }, "Watch through this camera"),
        h("p", { class: "lead" }, "Labels come as things happen. The stream lives under its name: leave it, and go on from any browser."),
        h("form", { class: "start", onsubmit: submit },
          h("label", { class: "field" }, h("span", {}, "Name of the stream"), id),
          h("label", { class: "field" }, h("span", {}, "Camera"), device),
          h("label", { class: "field" }, h("span", {}, "Keep states for going back"), kept),
          h("button", { type: "submit", class: "main" }, icon("camera"), "Start")),
        h("p", { class: "muted small", id: "id-note" }, "Letters, digits, . _ - and : make a name. Pictures go to this service alone; what it keeps is the memory, a few KB."))].filter(Boolean));
  }

  function trouble(error, takeover) {
    const take = error.code === "stream_owned" ? h("button", { type: "button", class: "main", onclick: takeover }, "Take it over") : null;
    return problem(error, ...(take ? [take] : []));
  }

  async function begin({ id, device, kept, takeover = false }) {
    localStorage.setItem("crt-stream", id);
    const video = h("video", { playsinline: true, muted: true, "aria-label": "The camera's picture" });
    try {
      const camera = await Camera.open(video, device);
      running = live({ id, video, camera, options: kept === "0" ? {} : { checkpoints: kept }, takeover });
      root.replaceChildren(running.element);
      running.element.querySelector("h1").focus();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      offer(error);
    }
  }

  function live({ id, video, camera, options, takeover }) {
    const record = new Record();
    const feed = new Feed(id, { client: client(), options, takeover });
    const over = overlay();
    const line = h("crt-timeline");
    const tools = memoryTools(id, { selected: () => (line.playhead === null ? null : line.selected), exists: () => feed.ready !== null, changed: () => line.latest() });
    const state = h("span", { class: "pill", role: "status" }, "Connecting");
    const why = h("p", { class: "muted", id: "why" });
    const facts = Object.fromEntries(["Latency", "Sent", "Dropped", "Waiting", "Breaks"].map((one) => [one, h("dd", {}, "–")]));
    const ticker = new Worker("/web/js/ticker.js");
    let grabbing = false;
    ticker.onmessage = async () => {
      if (grabbing || !feed.ready) return;
      grabbing = true;
      const picture = await camera.grab({ ...feed.ready.frame_size, quality: feed.quality });
      if (picture) feed.offer(picture);
      grabbing = false;
    };
    feed.addEventListener("message", ({ detail }) => record.take(detail));
    feed.addEventListener("state", draw);
    record.addEventListener("change", () => [over.show(record.last), draw()]);
    line.addEventListener("seek", () => tools.draw());
    camera.onended(() => close(new Problem({ code: "camera_missing", detail: "The camera gives no more pictures." })));
    let before = "";

    function draw() {
      const { state: now } = feed;
      if (now === "live" && before !== "live") ticker.postMessage(1000 / feed.ready.rate);
      if (now !== before && ["live", "waiting"].includes(now)) announce(now === "live" ? "Live." : "The connection was lost; it is tried again.");
      before = now;
      if (now === "refused") return close(feed.problem);
      if (now === "ended") return close();
      state.className = `pill ${now === "live" ? "live" : now === "waiting" || feed.breaks ? "wait" : ""}`;
      say(state, { live: "Live", connecting: feed.breaks ? "Reconnecting" : "Connecting", waiting: "Reconnecting", left: "Left" }[now]);
      say(why, now === "live"
        ? `${feed.ready.rate} frames a second, ${feed.ready.frame_size.width} × ${feed.ready.frame_size.height}. Go on elsewhere: ${location.host}/#camera/${id}`
        : `${feed.problem?.detail ?? "The connection is being made."} Pictures of the last minute are kept and sent then.`);
      say(facts.Latency, record.latency === null ? "–" : lasting(record.latency));
      say(facts.Sent, count(feed.sent));
      say(facts.Dropped, count(feed.dropped));
      say(facts.Waiting, count(feed.waiting));
      say(facts.Breaks, count(feed.breaks));
    }

    function stop() {
      ticker.terminate();
      feed.leave();
      camera.close();
      tools.leave();
    }

    function close(error) {
      if (running?.element !== element) return;
      name = id;
      offer(error);
    }

    const element = h("div", { class: "stack" },
      h("div", { class: "row apart" },
        h("div", { class: "row" }, h("h1", { tabindex: "-1" }, id), state),
        h("div", { class: "row" },
          h("button", { type: "button", onclick: () => feed.end() }, "End the stream"),
          h("button", { type: "button", class: "main", onclick: () => [close(), announce("Left. The stream keeps its memory.")] }, "Leave"))),
      h("div", { class: "watch" },
        h("section", { class: "card player", "aria-label": "Camera" }, video, over.element),
        h("section", { class: "card side", "aria-labelledby": "happened" },
          h("div", { class: "progress-box" }, h("dl", { class: "facts" }, Object.entries(facts).map(([title, value]) => h("div", { class: "fact" }, h("dt", {}, title), value))), why),
          h("h2", { id: "happened" }, "What happened"), eventList(record, (event) => [(line.playhead = event.start + 1e-3), line.draw(), tools.draw()]))),
      h("section", { class: "card pad", "aria-label": "Timeline" }, line),
      h("section", { class: "card pad two" }, tools.element,
        h("div", {}, h("h2", {}, "Take it along"), h("p", { class: "muted" }, "What this browser has heard of the stream so far."), downloads(() => id, record, { origin: () => record.start }))),
      h("section", { class: "card pad stack" }, segmentTable(record), code(id)));
    line.show(record, { live: true });
    draw();
    return { element, close: stop };
  }

  offer();
  return { element: root, leave: () => running?.close() };
}

// The same stream from elsewhere.
export const code = (id) => snippets({
  "Go on with a camera": () => `${key.get() ? "CRT_CLIENT_KEY=... " : ""}.venv/bin/python -m app.client 0 --stream ${id} --server ${location.origin}`,
  "Follow it with curl": () => `curl -N${key.get() ? ' -H "Authorization: Bearer $CRT_KEY"' : ""} '${location.origin}${stream(id)}/follow?memory=true'`,
  "Follow it from Python": () => `import json\nimport httpx\n\nwith httpx.stream("GET", "${location.origin}${stream(id)}/follow", timeout=None${key.get() ? ', headers={"Authorization": f"Bearer {key}"}' : ""}) as answer:\n    for line in answer.iter_lines():\n        if line.startswith("data: "):\n            print(json.loads(line[6:]))`,
});

const made = () => `camera-${Math.random().toString(36).slice(2, 6)}`;
