// #video: a file in, its labels over it as they are made. The file goes to this service alone, and is forgotten there.

import { Problem, key, label } from "../api.js";
import { announce, h, icon, say } from "../dom.js";
import { bytes, clock, lasting } from "../format.js";
import { card } from "../model.js";
import { downloads, eventList, meter, overlay, problem, segmentTable, snippets } from "../parts.js";
import { Record } from "../record.js";

export function videoView() {
  const root = h("div", { class: "view" });
  let stop = null;
  let url = null;

  function empty(error) {
    stop?.abort();
    const input = h("input", { type: "file", accept: "video/*,.mkv,.avi,.ts", class: "unseen", id: "file", onchange: () => input.files[0] && begin(input.files[0]) });
    const drop = h("section", { class: "drop", "aria-labelledby": "drop-title" },
      h("div", { class: "drop-mark" }, icon("film")),
      h("h1", { id: "drop-title" }, "What happens in your video?"),
      h("p", { class: "lead" }, "Drop it here, or choose a file. Labels appear while the rest is still being worked on."),
      h("div", { class: "row centre" }, input,
        h("label", { class: "button main", for: "file" }, icon("up"), "Choose a video"),
        h("button", { type: "button", onclick: example }, "Try the example")),
      h("p", { class: "muted small" }, "It goes to this service, nowhere else, and is forgotten once it is labelled."));
    root.replaceChildren(...[error && problem(error), drop, ideas()].filter(Boolean));
  }

  async function example() {
    try {
      const response = await fetch("/example.mp4");
      if (!response.ok) throw await Problem.of(response);
      await begin(new File([await response.blob()], "kitchen.mp4", { type: "video/mp4" }));
    } catch (error) {
      empty(error instanceof Problem ? error : Problem.unreachable());
    }
  }

  function take(event) {
    event.preventDefault();
    root.classList.remove("dragging");
    const file = event.dataTransfer?.files[0];
    if (file) begin(file);
  }

  async function begin(file) {
    stop?.abort();
    stop = new AbortController();
    if (url) URL.revokeObjectURL(url);
    url = URL.createObjectURL(file);
    const record = new Record();
    const shown = page(file, record);
    root.replaceChildren(shown.element);
    shown.element.querySelector("h1").focus();
    const began = performance.now();
    try {
      const result = await label(file, {
        signal: stop.signal, onUpload: shown.uploading,
        onSegment: (segment) => [record.take({ ...segment, final: true }), shown.labelling(segment.end)],
      });
      record.finish(result.events);
      shown.done(result, (performance.now() - began) / 1000);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Problem)) throw error;
      shown.failed(error, () => begin(file), record.segments.length > 0);
    }
  }

  function page(file, record) {
    const video = h("video", { src: url, controls: true, playsinline: true, muted: true, preload: "auto", "aria-label": file.name });
    const over = overlay();
    const unplayable = h("p", { class: "unplayable", hidden: true }, "This browser cannot play the file. Its labels are made all the same.");
    const line = h("crt-timeline");
    const status = h("p", { class: "status", role: "status" }, "Begins");
    const bar = h("progress", { max: "1", value: "0", "aria-label": "Progress" });
    const whole = h("ol", { class: "meters", "aria-label": "The whole video" });
    const fromMemory = h("p", { class: "muted" });
    const wholeBox = h("div", { class: "whole" }, h("h2", {}, "The whole video"), whole, fromMemory);
    const trouble = h("div", {});
    const cancel = h("button", { type: "button", class: "quiet", onclick: () => [stop.abort(), empty()] }, "Another video");
    let result = null;
    let length = 0;
    const seek = (time) => {
      video.currentTime = time;
      line.playhead = time;
      over.show(record.at(time));
    };
    video.addEventListener("loadedmetadata", () => {
      length = Number.isFinite(video.duration) ? video.duration : 0;
      line.show(record, { duration: length });
    });
    video.addEventListener("error", () => (unplayable.hidden = false));
    const tick = () => {
      line.playhead = video.currentTime;
      over.show(record.at(video.currentTime) ?? null);
    };
    video.addEventListener("timeupdate", tick);
    video.addEventListener("seeked", () => line.draw());
    record.addEventListener("change", tick);
    line.addEventListener("seek", (event) => seek(event.detail.time));
    const save = downloads(() => file.name.replace(/\.[^.]+$/, ""), record, { result: () => result });
    save.querySelectorAll("button").forEach((one) => (one.disabled = true));
    const code = snippets({
      curl: () => `curl -N -H 'Accept: application/x-ndjson'${key.get() ? " -H \"Authorization: Bearer $CRT_KEY\"" : ""} \\\n  -F video=@${shell(file.name)} '${location.origin}/v1/clips?memory=true'`,
      Python: () => `import json\nimport httpx\n\nwith open(${JSON.stringify(file.name)}, "rb") as video:\n    request = httpx.stream(\n        "POST", "${location.origin}/v1/clips?memory=true", files={"video": video}, timeout=None,\n        headers={"Accept": "application/x-ndjson"${key.get() ? ', "Authorization": f"Bearer {key}"' : ""}},\n    )\n    with request as answer:\n        for line in answer.iter_lines():\n            print(json.loads(line))`,
    });
    const element = h("div", { class: "stack" },
      h("div", { class: "row apart" }, h("h1", { tabindex: "-1" }, file.name), cancel),
      trouble,
      h("div", { class: "watch" },
        h("section", { class: "card player", "aria-label": "Video" }, video, over.element, unplayable),
        h("section", { class: "card side", "aria-labelledby": "happened" },
          h("div", { class: "progress-box" }, status, bar),
          h("h2", { id: "happened" }, "What happened"), eventList(record, (event) => seek(event.start + 1e-3)))),
      h("section", { class: "card pad", "aria-label": "Timeline" }, line),
      h("section", { class: "card pad two" }, wholeBox,
        h("div", {}, h("h2", {}, "Take it along"), h("p", { class: "muted" }, "Labels, events and what the memory did; WebVTT shows the events as subtitles in any player."), save)),
      h("section", { class: "card pad stack" }, segmentTable(record), code));
    line.show(record, { duration: 0 });
    over.show(null);
    let heard = 0;
    return {
      element,
      uploading(loaded, total) {
        bar.value = total ? (loaded / total) * 0.5 : 0;
        say(status, loaded < total ? `Uploading: ${Math.floor((loaded / total) * 100)} %, ${bytes(loaded)} of ${bytes(total)}` : "Uploaded, waiting for the first label");
      },
      labelling(end) {
        bar.value = 0.5 + (length ? Math.min(1, end / length) : 0.5) * 0.5;
        if (performance.now() - heard > 100) say(status, `Labelled ${clock(end)}${length ? ` of ${clock(length)}` : ""}`);
        heard = performance.now();
      },
      done(found, took) {
        result = found;
        bar.value = 1;
        say(status, `${lasting(found.video.duration)} labelled in ${lasting(took)}`);
        announce(`Done. ${found.events.length} events in ${lasting(found.video.duration)}.`);
        line.show(record, { duration: Math.max(length, found.video.duration) });
        const owed = record.segments.filter((one) => one.memory?.without && one.memory.without.label !== one.labels[0].label).length;
        say(fromMemory, owed ? `${owed} of ${record.segments.length} labels would be others without the memory.` : "");
        whole.replaceChildren(...found.labels.filter((one) => one.score >= 0.005).slice(0, 5).map((one) => meter(one.label, one.score)));
        save.querySelectorAll("button").forEach((one) => (one.disabled = false));
        if (found.warnings.length) trouble.replaceChildren(h("div", { class: "problem mild" }, found.warnings.map((one) => h("p", {}, one.detail))));
      },
      failed(error, again, some) {
        bar.value = 0;
        say(status, some ? "Ended early; what was labelled stays" : "Not labelled");
        if (some) save.querySelectorAll("button").forEach((one) => (one.disabled = false));
        trouble.replaceChildren(problem(error,
          h("button", { type: "button", class: "main", onclick: again }, "Try again"),
          h("button", { type: "button", onclick: () => empty() }, "Another video")));
      },
    };
  }

  root.addEventListener("dragover", (event) => [event.preventDefault(), root.classList.add("dragging")]);
  root.addEventListener("dragleave", (event) => event.relatedTarget && root.contains(event.relatedTarget) || root.classList.remove("dragging"));
  root.addEventListener("drop", take);
  empty();
  return { element: root, leave: () => [stop?.abort(), url && URL.revokeObjectURL(url)] };
}

const shell = (name) => (/^[\w./-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`);

function ideas() {
  const one = (title, text) => h("div", { class: "idea" }, h("h2", {}, title), h("p", {}, text));
  const seconds = card ? card.segment_seconds : 2;
  return h("section", { class: "ideas", "aria-label": "What is shown" },
    one("What it sees", `A label every ${seconds} seconds, and from them events: who walks, sits down, drinks, falls.`),
    one("What it remembers", "All that came before is one vector of 2 KB. The page shows it, and how much each segment wrote into it."),
    one("What it knew from memory", "Of each label: how much of it was read from the memory, and what it would have been without."));
}
