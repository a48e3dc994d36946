// A run as a file: JSON as the API says it, CSV for tables, WebVTT for players.

const cell = (value) => (/[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value ?? ""));

export function csv(record) {
  const head = ["index", "start", "end", "label", "score", "read_from_memory", "changed_memory", "without_memory"];
  const rows = record.segments.map(({ index, start, end, labels: [best], memory }) => [
    index, start, end, best.label, best.score, memory?.read, memory?.change, memory?.without?.label,
  ]);
  return [head, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

const stamp = (seconds) => {
  const ms = Math.max(0, Math.round(seconds * 1000));
  const part = (divisor, most, width = 2) => String(Math.floor(ms / divisor) % most).padStart(width, "0");
  return `${String(Math.floor(ms / 3.6e6)).padStart(2, "0")}:${part(60_000, 60)}:${part(1000, 60)}.${part(1, 1000, 3)}`;
};

// Subtitles count from the video's beginning.
export function vtt(record, model, origin = 0) {
  const cues = record.shown(model).map(({ start, end, label, confidence }, i) =>
    `${i + 1}\n${stamp(start - origin)} --> ${stamp(end - origin)}\n${label} (${Math.round(confidence * 100)} %)\n`);
  return `WEBVTT\n\n${cues.join("\n")}`;
}

export function json(record, result) {
  if (result) {
    const { type, ...answer } = result;
    return JSON.stringify({ ...answer, segments: record.segments.map(withNumbers) }, null, 1);
  }
  return JSON.stringify({ segments: record.segments.map(withNumbers), events: record.events }, null, 1);
}

const withNumbers = ({ type, final, ...one }) => ({ ...one, memory: one.memory && { ...one.memory, vector: Array.from(one.memory.vector, (n) => Math.round(n * 1000) / 1000) } });

export function save(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
