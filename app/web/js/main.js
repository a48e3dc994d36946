// The page's frame: which view is shown, light or dark, the key if one is wanted, and the model's name.

import { Problem, key } from "./api.js";
import { h, icon, say } from "./dom.js";
import { card, loadCard } from "./model.js";
import { problem } from "./parts.js";
import "./timeline.js";

const VIEWS = {
  video: async () => (await import("./views/video.js")).videoView(),
  camera: async (name) => (await import("./views/camera.js")).cameraView(name),
  streams: async () => (await import("./views/streams.js")).streamsView(),
  stream: async (name) => (await import("./views/stream.js")).streamView(name),
  help: async () => (await import("./views/help.js")).helpView(),
};
const TITLES = { video: "Video", camera: "Camera", streams: "Streams", stream: "Stream", help: "Help" };
const main = document.getElementById("main");
const notice = document.getElementById("notice");
let shown = null;
let turn = 0;

async function route({ first = false } = {}) {
  const [, name = "video", rest = ""] = location.hash.match(/^#([a-z]+)(?:\/(.*))?$/) ?? [];
  const view = VIEWS[name] ? name : "video";
  const mine = ++turn;
  for (const link of document.querySelectorAll("header nav a")) {
    const here = link.hash === `#${view === "stream" ? "streams" : view}`;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${TITLES[view]} · crt-stream`;
  // Before anything with a label is drawn: colours come from the model's card.
  await ready();
  const made = await VIEWS[view](decodeURIComponent(rest));
  if (mine !== turn) {
    made.leave?.();
    return;
  }
  shown?.leave?.();
  shown = made;
  main.replaceChildren(made.element);
  if (!first) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

async function ready() {
  try {
    await loadCard();
    say(document.getElementById("model-name"), `${card.name}, ${card.labels.length} labels, memory of ${card.memory_bytes / 1024} KB`);
    notice.replaceChildren();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status !== 401) notice.replaceChildren(problem(error, h("button", { type: "button", onclick: () => route() }, "Try again")));
  }
}

function askForKey() {
  if (notice.querySelector("form")) return;
  const input = h("input", { type: "password", name: "key", required: true, autocomplete: "off", "aria-label": "API key" });
  const keep = h("input", { type: "checkbox", name: "keep" });
  const save = (event) => {
    event.preventDefault();
    key.set(input.value.trim(), { keep: keep.checked });
    notice.replaceChildren();
    route();
  };
  notice.replaceChildren(h("form", { class: "problem mild", onsubmit: save },
    h("p", {}, h("strong", {}, key.get() ? "The service does not know this key." : "This service asks for a key."), " Whoever runs it has one for you."),
    h("div", { class: "row" }, input, h("label", { class: "tick" }, keep, "Keep it in this browser"), h("button", { type: "submit", class: "main" }, "Go on"))));
}

const SCHEMES = ["", "light", "dark"];
const toggle = document.getElementById("theme");
function scheme(chosen) {
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
  toggle.replaceChildren(icon({ "": "half", light: "sun", dark: "moon" }[chosen]));
  const words = { "": "as the device", light: "light", dark: "dark" }[chosen];
  toggle.setAttribute("aria-label", `Light or dark: now ${words}`);
  toggle.title = `Colours: ${words}`;
  window.dispatchEvent(new Event("crt-scheme"));
}
toggle.addEventListener("click", () => {
  const next = SCHEMES[(SCHEMES.indexOf(localStorage.getItem("crt-theme") ?? "") + 1) % SCHEMES.length];
  localStorage.setItem("crt-theme", next);
  scheme(next);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => window.dispatchEvent(new Event("crt-scheme")));
scheme(localStorage.getItem("crt-theme") ?? "");

window.addEventListener("crt-key-wanted", askForKey);
window.addEventListener("hashchange", () => route());
route({ first: true });
