// #help: the key, the model's card, its labels, and where to read on.

import { key } from "../api.js";
import { h, say } from "../dom.js";
import { card, loadCard } from "../model.js";
import { dot, snippets } from "../parts.js";

export function helpView() {
  return {
    element: h("div", { class: "view" }, h("h1", {}, "Settings and help"),
      h("div", { class: "cards" }, keyCard(), readOn()), how(),
      card ? h("div", { class: "cards" }, modelCard(), labels()) : null,
      h("section", { class: "card pad" }, examples())),
  };
}

function keyCard() {
  const input = h("input", { type: "password", value: key.get(), autocomplete: "off", id: "api-key" });
  const keep = h("input", { type: "checkbox" });
  const told = h("p", { class: "muted", role: "status" }, key.get() ? "A key is set." : "No key is set; most services at home want none.");
  const save = async (event) => {
    event.preventDefault();
    key.set(input.value.trim(), { keep: keep.checked });
    try {
      const response = await fetch("/v1/model", { headers: key.headers(), cache: "no-store" });
      say(told, response.status === 401 ? "The service does not know this key. Ask whoever runs it for one of its CRT_API_KEYS." : key.get() ? "The service takes this key." : "The key is gone from this browser.");
      if (response.ok) await loadCard();
    } catch {
      say(told, "The key is set, but the service does not answer. Check that it runs.");
    }
  };
  return h("form", { class: "card pad stack", onsubmit: save }, h("h2", {}, "API key"),
    h("label", { class: "field", for: "api-key" }, h("span", {}, "One of the service's CRT_API_KEYS, if it asks for one"), input),
    h("div", { class: "row apart" }, h("label", { class: "tick" }, keep, "Keep it in this browser"), h("button", { type: "submit", class: "main" }, "Set")), told);
}

function readOn() {
  const link = (href, text, note) => h("li", {}, h("a", { href }, text), h("br"), h("span", { class: "muted small" }, note));
  return h("section", { class: "card pad stack" }, h("h2", {}, "Read on"), h("ul", { class: "stack" },
    link("/docs", "The API, to try out", "every request, with examples and errors"),
    link("/redoc", "The API, to read", "the same as one page"),
    link("/protocol.md", "The streams' protocol", "WebSocket, following, going back and moving"),
    link("/metrics", "Metrics", "what the service counts, for Prometheus")));
}

function how() {
  const words = [
    ["Segment", `${card?.segment_seconds ?? 2} seconds of video, which get one label in the light of all before.`],
    ["Memory", "One vector that each segment hands to the next: all that the model knows of what came before."],
    ["Read", "How much of its attention a label gave to the memory, rather than to what is seen now."],
    ["Changed", "How much of the memory a segment wrote anew. A long bar: something new happened."],
    ["Without memory", "What the label would have been if the stream had begun with this segment."],
    ["Event", "A run of one label, with its start, its end and how sure the model was."],
  ];
  return h("section", { class: "card pad stack" }, h("h2", {}, "The words"), h("dl", { class: "words" }, words.map(([word, text]) => h("div", {}, h("dt", {}, word), h("dd", { class: "muted" }, text)))));
}

function modelCard() {
  const { card: told } = card;
  const facts = [
    ["Name", card.name], ["Rate", `${card.rate} frames a second`], ["Picture", `${card.frame_size.width} × ${card.frame_size.height}`],
    ["Segment", `${card.segment_clips} clips, ${card.segment_seconds} s`], ["Memory", `${card.memory_bytes} bytes`], ["Digest", card.digest],
  ];
  return h("section", { class: "card pad stack" }, h("h2", {}, "The model"),
    told.summary ? h("p", {}, h("strong", {}, told.summary)) : null,
    h("dl", { class: "pairs" }, facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    told.limits ? h("p", { class: "muted" }, told.limits) : null,
    h("details", { class: "fold" }, h("summary", {}, "All of its card"), h("pre", { class: "code", tabindex: "0", role: "group", "aria-label": "Model card" }, JSON.stringify(told, null, 2))));
}

function labels() {
  return h("section", { class: "card pad stack" }, h("h2", {}, `Its ${card.labels.length} labels`),
    h("ul", { class: "chips" }, card.labels.map((one) => h("li", { class: "chip" }, dot(one), one))),
    h("p", { class: "muted" }, card.background ? `${card.background} says that nothing of the rest happens.` : ""));
}

function examples() {
  const bearer = key.get() ? ' -H "Authorization: Bearer $CRT_KEY"' : "";
  return snippets({
    "Label a video": () => `curl${bearer} -F video=@examples/kitchen.mp4 '${location.origin}/v1/clips?top_k=3'`,
    "Stream a camera": () => `${key.get() ? "CRT_CLIENT_KEY=... " : ""}.venv/bin/python -m app.client 0 --stream kitchen --server ${location.origin}`,
    "Label a video from Python": () => `import httpx\n\nwith open("examples/kitchen.mp4", "rb") as video:\n    answer = httpx.post("${location.origin}/v1/clips", files={"video": video}, timeout=None${key.get() ? ', headers={"Authorization": f"Bearer {key}"}' : ""})\nfor event in answer.json()["events"]:\n    print(event)`,
  });
}
